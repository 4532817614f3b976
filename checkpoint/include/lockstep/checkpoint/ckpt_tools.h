#pragma once
// What people and scripts do with checkpoints, without MPI, ranks or a running training: look,
// verify, compare, take weights out, cut for another world, delete. Each tool returns data;
// ckpt_tools_print.h makes text or JSON of it. Memory is bounded, however large a checkpoint is: a
// few MiB a thread and 16 bytes a block. Thread-safety: any thread. Errors of all: kNotFound,
// kIoError; kCorruption naming file, tensor and block.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "lockstep/checkpoint/attempt.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/retention.h"

namespace lockstep {

/// How many bytes of how many a tool is done with. Called from any thread, one at a time.
using OnProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

/// How a tool goes about long work.
struct ToolRun {
  int num_threads = 1;
  OnProgress on_progress = {};
};

struct CheckpointSummary {
  std::string path;
  bool is_quarantined = false;
  std::string
      problem;  ///< why the manifest can't be read; the rest is then only what the name says
  int64_t generation = 0;
  int64_t step = 0;
  int64_t epoch = 0;
  int64_t world_size = 0;
  uint64_t bytes = 0;  ///< of the shards, as the manifest says
  std::string utc_time;
  std::map<std::string, double> metrics;
  Hash128 state_digest;
};
/// The checkpoints of a run, oldest first, then those in quarantine.
Result<std::vector<CheckpointSummary>> list_checkpoints(FileSystem& fs, const std::string& run_dir);

struct VerifyReport {
  std::string path;
  uint64_t num_blocks = 0;
  uint64_t bytes = 0;  ///< read and hashed
  double seconds = 0;
  std::vector<std::string> problems;  ///< each names file, tensor and block; sorted
  bool is_good() const { return problems.empty(); }
};
/// Reads all of a checkpoint, from the disk and not from the page cache where the system allows
/// that, and recomputes its state digest. Content that is wrong is in the report; only what keeps
/// it from being read is an error.
Result<VerifyReport> verify_checkpoint(FileSystem& fs, const std::string& path,
                                       const ToolRun& how = {});

struct TensorDiff {
  std::string name;      ///< "weight" for values, "adamw.exp_avg/weight" for optimizer state
  std::string only_in;   ///< "a" or "b" when one lacks it
  std::string mismatch;  ///< e.g. "shape [2, 3] and [3, 2]" when elements can't be compared
  int64_t num_elems = 0;
  int64_t num_different = 0;  ///< elements whose bits differ
  double largest =
      0;  ///< largest absolute difference among them; NaN when one of them is not a number
};
struct DiffReport {
  int64_t num_compared = 0;          ///< tensors
  std::vector<TensorDiff> tensors;   ///< those that differ
  std::vector<std::string> scalars;  ///< "name: i:1 and i:2"
  bool is_equal() const { return tensors.empty() && scalars.empty(); }
};
/// Compares bit for bit, element by element in row-major order, by tensor name: other world sizes,
/// storage orders or registration orders do not matter. Cost: a tensor that the two store in
/// different orders is held as a whole from the first dimension that is moved.
Result<DiffReport> diff_checkpoints(FileSystem& fs, const std::string& path_a,
                                    const std::string& path_b, const ToolRun& how = {});

struct ExportReport {
  std::string path;
  int64_t num_tensors = 0;
  uint64_t bytes = 0;
};
/// Writes whole tensors in row-major order into one safetensors file: parameters, with `all` also
/// buffers and optimizer state. The file appears whole or not at all. Errors: also kAlreadyExists
/// when `out_path` is taken. Cost: as diff_checkpoints for tensors not stored in row-major order.
Result<ExportReport> export_checkpoint(FileSystem& fs, const std::string& path,
                                       const std::string& out_path, bool all,
                                       const ToolRun& how = {});

struct ReshardReport {
  std::string path;
  int64_t world_size = 0;
  int64_t old_world_size = 0;
  uint64_t bytes = 0;  ///< of all shards
  uint64_t largest_shard_bytes = 0;
  Hash128 state_digest;  ///< of both: it was computed from what was written
  double seconds = 0;
};
/// Writes the checkpoint once more, cut for another number of ranks: same state, step, generation
/// and digest. (Restoring never needs that; archives and other programs may.) The folder appears
/// whole, durably, or not at all; what a killed one left is removed by the next.
/// Errors: also kAlreadyExists when `out_path` is taken; kInvalidArgument for a world of less than
/// 1 or more than 100,000, or when `out_path` has the name of another checkpoint;
/// kResourceExhausted.
Result<ReshardReport> reshard_checkpoint(FileSystem& fs, const std::string& path,
                                         int64_t world_size, const std::string& out_path,
                                         const ToolRun& how = {});

struct PruneOptions {
  RetentionPolicy policy;
  bool is_dry_run = false;  ///< only say what would be deleted
  /// Also while an attempt of the run lives. That one is not disturbed; a start meanwhile ends
  /// this.
  bool while_running = false;
  ToolRun how;             ///< the newest checkpoint is read before anything is deleted
  AttemptOptions attempt;  ///< fs and run_dir are filled in
};
struct PruneItem {
  GenerationName name;
  std::string path;
  uint64_t bytes = 0;                     ///< of its files
  std::vector<std::string> kept_because;  ///< empty: deleted, or it would be
};
struct PruneReport {
  std::string run_dir;
  bool is_dry_run = false;
  std::vector<PruneItem> items;  ///< newest first
  uint64_t leftover_bytes = 0;   ///< of what interrupted saves and deletions left, deleted as well
  uint64_t freed_bytes() const;
  int64_t num_doomed() const;
};
/// Deletes the checkpoints of a run that the policy does not want. It is a start of the run, which
/// trains nothing: while it works nobody else can start without fencing it, and it looks before
/// each deletion whether somebody did. The newest checkpoint is read as a whole first: it has to be
/// good. Errors: kAlreadyExists while an attempt of the run lives; kCorruption when the newest
/// checkpoint is bad: nothing is deleted then; kAborted when the run was started meanwhile, with
/// what was deleted until then; kNotFound when there is no such run.
Result<PruneReport> prune_run(FileSystem& fs, const std::string& run_dir, PruneOptions options);

}  // namespace lockstep
