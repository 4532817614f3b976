#pragma once
// One restore: finding the newest good checkpoint together, and reading this rank's part of it.

#include <optional>
#include <string>
#include <vector>

#include "block_stream.h"
#include "collective.h"
#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/checkpoint/manifest.h"
#include "run_folder.h"

namespace lockstep {

struct RestoreContext {
  const CheckpointerOptions* options = nullptr;
  ControlPlane* plane = nullptr;
  RunPaths paths;
  const Attempt* attempt = nullptr;  ///< on rank 0, else null
  int64_t attempt_number = 0;
};

class RestoreProtocol {
 public:
  RestoreProtocol(const RestoreContext& context, const RestoreRequest& request);
  Result<std::optional<Restored>> run();

 private:
  /// A checkpoint whose manifest is whole.
  struct Candidate {
    std::string folder;
    std::string manifest_text;
  };

  bool is_rank_0() const { return context_.plane->world_rank() == 0; }
  FileSystem& fs() const { return *context_.options->fs; }
  Deadline control_deadline() const {
    return deadline_within(since_look_, data_seconds(), context_.options->control_timeout_s);
  }
  /// For all ranks to read what the candidate holds, once its manifest is known.
  double data_seconds() const {
    return context_.options->data_timeout_s +
           static_cast<double>(candidate_bytes_) / context_.options->least_bytes_per_s;
  }
  Deadline data_deadline() const {
    return deadline_within(since_look_, data_seconds(), data_seconds());
  }

  Result<std::string> refuse_or_move_aside();
  Result<std::optional<Candidate>> next_candidate();
  Result<std::optional<Candidate>> newest_whole(const RunFolder& folder);
  Result<std::optional<Candidate>> share_candidate(const Result<std::optional<Candidate>>& mine);
  Status quarantine(const GenerationName& name, const Status& why);
  BlockStream make_stream(bool may_read_cache) const;
  Status check_fit(const Manifest& manifest) const;
  Status check_parts(const Manifest& manifest) const;
  Result<bool> read_together(const Manifest& manifest, const std::string& folder);
  void warn_of_stray_files(const Manifest& manifest, const std::string& folder) const;
  Status read_own(const Manifest& manifest, const std::string& folder, int64_t* shard_at_fault);
  Result<std::string> judge(const Manifest& manifest, const std::string& folder,
                            const std::vector<int64_t>& accused);

  RestoreContext context_;
  const RestoreRequest& request_;
  Stopwatch since_look_;  ///< at a candidate, for the first or the second time
  uint64_t candidate_bytes_ = 0;
  std::vector<std::string> quarantined_;
  uint64_t own_bytes_read_ = 0;
};

}  // namespace lockstep
