#pragma once
// One save, as separable parts. save() runs them in the order of the numbers and copies each piece
// of the state when it is its turn to be written. start_save() copies on its caller's thread and
// runs the others on a thread behind training. Each part returns the same Status on every rank
// unless a peer was lost. Only staging looks at the live state.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "collective.h"
#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/checkpoint/manifest.h"
#include "shard_writer.h"
#include "staging.h"

namespace lockstep {

/// What outlives one save.
struct SaveContext {
  const CheckpointerOptions* options = nullptr;
  ControlPlane* plane = nullptr;
  RunPaths paths;
  const Attempt* attempt = nullptr;  ///< on rank 0, else null
  int64_t attempt_number = 0;
  std::optional<int64_t> parent_generation;
  int64_t lowest_generation =
      1;  ///< of the new checkpoint, when the run folder asks for none higher
  Staging* staging = nullptr;
  uint64_t staging_budget_bytes = 0;
};

class SaveProtocol {
 public:
  SaveProtocol(const SaveContext& context, SaveRequest request);

  Status prepare();  ///< steps 1 and 2
  /// Step 3, the copy, planned; then copied as far as there are buffers; then the rest, as write()
  /// on another thread gives them back. What goes wrong is told by vote().
  void begin_stage();
  void stage_what_fits();
  void stage_rest();
  /// Step 3, the disk; what goes wrong is told by vote(). With `stages_itself` also what is left of
  /// the copy, piece by piece while others are being written.
  void write(bool stages_itself);
  /// Lets stage_rest() return, when this save has failed before write().
  void stop_staging(const Status& why);
  Status vote();    ///< step 4
  Status commit();  ///< steps 5 to 8
  void retain();    ///< step 9; failures are only told

  SaveOutcome outcome() const { return outcome_; }
  const SaveReport& report() const { return report_; }

 private:
  struct Peer {
    WrittenShard written;
    std::vector<KindRuns> runs;
  };

  bool is_rank_0() const { return context_.plane->world_rank() == 0; }
  FileSystem& fs() const { return *context_.options->fs; }
  Deadline control_deadline() const { return peers_deadline(context_.options->control_timeout_s); }
  /// For all ranks to write their parts, once check_space() knows how much that is.
  double data_seconds() const;
  Deadline data_deadline() const { return peers_deadline(data_seconds()); }
  /// At most `seconds`, and what is left of the one time that peers have for the whole save.
  Deadline peers_deadline(double seconds) const {
    return deadline_within(since_begin_, data_seconds(), seconds);
  }
  /// For a buffer to come back while peers are waited for and parts are written.
  Deadline fill_deadline() const;
  std::string what(std::string_view part) const;
  void enter(int step) const;
  Status read_back() const;
  void fill_while(const std::function<bool()>& goes_on);
  ShardName own_shard() const;
  std::string final_folder() const { return context_.paths.generation(name_); }

  Result<std::string> make_partial();
  Status read_token(const std::string& token) const;
  Status check_space();
  Status gather_shards();
  Result<Manifest> make_manifest() const;
  Result<Hash128> publish();
  bool is_still_partial() const;
  bool was_taken_away() const;
  void abandon();

  SaveContext context_;
  SaveRequest request_;
  uint64_t own_state_bytes_ = 0;
  uint64_t total_state_bytes_ = 0;    ///< of all ranks
  uint64_t largest_state_bytes_ = 0;  ///< of one rank
  Stopwatch since_begin_;             ///< of prepare()
  GenerationName name_;
  std::string partial_;
  Status own_status_;  ///< of begin_stage() and write() on this rank
  WrittenShard written_;
  std::vector<Peer> peers_;
  SaveOutcome outcome_ = SaveOutcome::kFailed;
  SaveReport report_;
};

}  // namespace lockstep
