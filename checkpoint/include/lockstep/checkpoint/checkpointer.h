#pragma once
// Checkpointer: saves the state of a run so that nothing acknowledged is ever lost, and restores it
// at any world size. One a rank; its calls are collective. It knows a ControlPlane and a
// FileSystem, neither MPI nor LibTorch. Protocols: save_protocol.cc and restore.cc open with them
// as numbered steps; files: FORMAT.md. Thread-safety: one thread at a time.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/attempt.h"
#include "lockstep/checkpoint/retention.h"
#include "lockstep/core/base/bulk_file.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/state.h"
#include "lockstep/distributed/control_plane.h"

namespace lockstep {

/// What computes: recorded in each checkpoint, compared at restore (a difference is a warning).
struct BuildIdentity {
  std::string instruction_set;
  std::map<std::string, std::string> versions;  ///< by name; also of a GPU, where there is one

  /// One text a difference: "LibTorch 2.10.0, now 2.11.0", "GPU none, now NVIDIA H200".
  std::vector<std::string> differences_to(const BuildIdentity& now) const;
};

/// Enough pieces to keep a disk busy while others are filled.
inline constexpr uint64_t kFrontStagingBytes = uint64_t{64} << 20;

struct CheckpointerOptions {
  FileSystem* fs = nullptr;
  ControlPlane* plane = nullptr;  ///< outlives the Checkpointer; nobody else may use it meanwhile
  std::string run_dir;            ///< the same folder for every rank
  Log log;
  RetentionPolicy retention;
  BuildIdentity build;
  bool take_over = false;  ///< start although the last attempt is alive
  bool overwrite = false;  ///< with ResumeMode::kNever: move earlier checkpoints aside
  std::string job_id;
  double control_timeout_s = 10;  ///< for a rank to answer when it has little to do
  /// For a rank to write or read its part, beyond the time that the bytes take by the next. With
  /// that time it is also what all waits of one save have together.
  double data_timeout_s = 10;
  /// What the disk does at the least, for all ranks together.
  double least_bytes_per_s = 64e6;
  BulkMethod io_method = BulkMethod::kAuto;
  /// Host memory for copies of a save behind training; 0: as much as this rank's shard. With less,
  /// training waits for the disk. A save in front takes at most kFrontStagingBytes.
  uint64_t staging_budget_bytes = 0;
  uint64_t staging_piece_bytes = uint64_t{4} << 20;  ///< one transfer
  /// Each rank reads its shard back from the disk before the vote: a bit that flipped on its way
  /// there fails the save, and not the restore that needs it. Costs the reading.
  bool reads_back = false;
  uint64_t max_write_bytes_per_s = 0;  ///< of a save behind training; 0: no limit
  int background_nice = 10;  ///< by how much the thread of such a save yields to others (0 to 19)
  double heartbeat_s = 1;
  double watch_s = 3;
  ProcessIdentity process = this_process();
  std::function<bool(const ProcessIdentity&)> is_running = process_runs;
  /// Called when a rank enters a numbered step of the save protocol (1 to 9). For tests: may throw.
  std::function<void(int step, int world_rank)> on_save_step;
};

/// What became of the last save, as far as this rank knows.
enum class SaveOutcome : uint8_t {
  kNone,
  kDurable,
  kFailed,   ///< nothing of it will ever be read; the checkpoint before is untouched
  kUnknown,  ///< rank 0 was lost, or a sync failed, after the point where it may have become
             ///< durable
};

struct SaveRequest {
  const StateSchema* schema = nullptr;
  const OwnedState* owned = nullptr;
  Scalars scalars;
  int64_t step = 0;
  int64_t epoch = 0;
  uint64_t seed = 0;
  std::map<std::string, double> metrics;
  std::string recipe_text;
  std::string recipe_hash;
  /// On rank 0, before the commit: makes durable what must not be older than the checkpoint
  /// (metrics.jsonl). Called from another thread when the save was started by start_save().
  std::function<Status()> before_commit;
};

/// How far a save came; what became of it is its SaveOutcome.
enum class SaveProgress : uint8_t {
  kNothing,
  kStaged,   ///< this rank's part is copied
  kWritten,  ///< the shards of all ranks are on the disk and synced
  kDurable,
};

/// One rank's part of a save, as it told the others.
struct RankSaveReport {
  uint64_t bytes = 0;  ///< of its shard
  double stage_ms = 0;
  double write_ms = 0;  ///< with its sync
  double sync_ms = 0;   ///< the sync in it
};

struct SaveReport {
  int64_t generation = 0;
  std::string path;
  uint64_t total_bytes = 0;    ///< of all shards
  uint64_t own_bytes = 0;      ///< of this rank's shard
  uint64_t unique_bytes = 0;   ///< of the state, each element once
  uint64_t staging_bytes = 0;  ///< host memory held for the next save
  std::string io_method;       ///< BulkFile::method of this rank's shard
  Hash128 state_digest;
  double prepare_ms = 0;  ///< partial folder, token, free space
  double stage_ms = 0;    ///< copy and checksums behind training: it waits for this alone
  double write_ms = 0;    ///< write and sync of this rank's shard; in front with the copy
  double sync_ms = 0;     ///< the sync in it
  double vote_ms = 0;     ///< waiting for the other ranks
  double commit_ms = 0;   ///< manifest, rename, verdict
  SaveProgress reached = SaveProgress::kNothing;
  std::vector<RankSaveReport> ranks;  ///< by rank; empty when the save ended before all told
};

enum class ResumeMode : uint8_t {
  kAuto,   ///< the newest good checkpoint of the run, or none when it has none
  kNever,  ///< none; refused when the run has checkpoints, unless options.overwrite
  kPath,   ///< that one or an error
};

struct RestoreRequest {
  ResumeMode mode = ResumeMode::kAuto;
  std::string path;  ///< with kPath
  const StateSchema* schema = nullptr;
  const OwnedState* into = nullptr;  ///< this rank's part in the new world; its memory is filled
  std::string recipe_text;
  /// Keys whose values change numbers and differ between two recipes (saved, current); empty
  /// function: not compared.
  std::function<Result<std::vector<std::string>>(const std::string&, const std::string&)>
      differing_keys;
  std::vector<std::string> allowed_recipe_changes;
};

/// What came back, the same on every rank.
struct Restored {
  std::string path;
  int64_t generation = 0;
  int64_t step = 0;
  int64_t epoch = 0;
  int64_t saved_attempt = 0;
  int64_t saved_world_size = 0;
  uint64_t seed = 0;
  Scalars scalars;
  std::map<std::string, double> metrics;
  std::string recipe_text;
  std::string recipe_hash;
  Hash128 state_digest;
  BuildIdentity build;
  std::vector<std::string> quarantined;  ///< newer ones that were proven bad, where they are now
  uint64_t own_bytes_read = 0;           ///< this rank's
  double ms = 0;
};

class Checkpointer {
 public:
  /// Begins an attempt (rank 0) and tells all ranks its number.
  /// Collective. Errors: as Attempt::begin; as ControlPlane::all_gather; the same on every rank.
  static Result<Checkpointer> open(const CheckpointerOptions& options);
  Checkpointer(Checkpointer&&) noexcept;
  Checkpointer& operator=(Checkpointer&&) noexcept;
  /// Waits for a save that is under way; its deadlines bound that.
  ~Checkpointer();

  int64_t attempt() const;

  /// Fills `request.into` from a checkpoint, each block verified before it is handed out, and
  /// returns what else it holds; nothing when the run has no checkpoint and may start. On an error
  /// `into` holds anything. Collective. Errors, the same on every rank: kCorruption when
  /// checkpoints exist and none is good (never a start from scratch); kInvalidArgument for another
  /// model, another recipe, or kNever in a run with checkpoints; kUnsupported for a newer format;
  /// kIoError, kTimeout, kPeerFailure: nothing was moved. Cost: each rank reads its own blocks,
  /// their shards' headers and checksum tables.
  Result<std::optional<Restored>> restore(const RestoreRequest& request);

  /// Saves and returns once the checkpoint is durable; then applies the retention policy (rank 0).
  /// Collective. Requires: step of at least 0. Errors, the same on every rank, naming the rank at
  /// fault: the checkpoint before is untouched. After kPeerFailure or kTimeout ask last_outcome().
  Result<SaveReport> save(const SaveRequest& request);
  SaveOutcome last_outcome() const;
  /// Of the last save that ended, also of one that failed: what was measured until then.
  const SaveReport& last_report() const;

  /// save() in two halves, for training that goes on in between. start_save() returns once the
  /// state is copied and hashed: what `request` points to may change then. The rest runs on a
  /// thread of this object; `request.before_commit` is called there, and the plane is in use until
  /// finish_save().
  /// Collective. Requires: no save under way; `request.schema` outlives the save. Errors: told by
  /// finish_save().
  void start_save(const SaveRequest& request);
  /// Between start_save() and finish_save().
  bool is_saving() const;
  /// Whether finish_save() would return at once. Ranks learn this at different times: agree on it
  /// before finish_save(), or it waits for the slowest.
  bool has_save_ended() const;
  /// Waits for the save that was started. Collective. Requires: is_saving(). Errors: as save().
  Result<SaveReport> finish_save();

  /// Attempt::check_not_fenced() on rank 0, which alone holds the attempt; OK on the others.
  /// Errors: kAborted when a newer attempt has begun; kIoError when that can't be told.
  Status check_not_fenced() const;
  /// Marks the attempt as over. Not collective; the destructor only stops the heartbeat.
  /// Errors: kIoError: the next start then has to find out by itself.
  Status close();

 private:
  struct Impl;
  explicit Checkpointer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The state digest of a live run, the one that a checkpoint of it would name.
/// Collective. Errors: as ControlPlane::all_gather; kInternal when the ranks do not own each block
/// exactly once. Cost: one pass over the state; 8 bytes a block to every rank.
Result<Hash128> live_state_digest(ControlPlane& plane, const StateSchema& schema,
                                  const OwnedState& owned, const Scalars& scalars,
                                  Deadline deadline);
/// The same over parameters and buffers alone (core/flat/digest.h: params_digest).
/// Collective. Errors: as live_state_digest.
Result<Hash128> live_params_digest(ControlPlane& plane, const StateSchema& schema,
                                   const OwnedState& owned, Deadline deadline);

}  // namespace lockstep
