#pragma once
// What lies in a run directory beside checkpoints: recipe.toml and metrics.jsonl, and how they fit
// the checkpoint that a start resumes from. Rank 0 alone calls these, but for one. Must not know:
// ranks, the model. Errors: those of the file system, and as said.

#include <memory>
#include <optional>
#include <string>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/train/metrics_file.h"
#include "lockstep/distributed/control_plane.h"

namespace lockstep {

/// Where the checkpoint of --resume PATH comes from.
enum class ResumeSource : uint8_t { kThisRun, kAnotherRun };

/// Errors: kInvalidArgument when `path` is no folder, or when it is another run's and this run has
/// checkpoints of its own (two histories in one folder).
Result<ResumeSource> find_resume_source(FileSystem& fs, const std::string& run_dir,
                                        const std::string& path);

/// Steps done in the newest checkpoint of a run, by its name; nothing when there is none. The same
/// on every rank. Collective. Errors: those of the file system; as ControlPlane::all_gather.
Result<std::optional<int64_t>> newest_checkpoint_steps(ControlPlane& plane,
                                                       const std::string& run_dir);

/// Gives both files a name that says which attempt moved them ("metrics-aside-a0003.jsonl"),
/// durably.
Status move_run_files_aside(FileSystem& fs, const std::string& run_dir, int64_t attempt,
                            const Log& log);

/// For a start that found no checkpoint to go on from. Errors: kCorruption when metrics.jsonl tells
/// of a durable one: somebody moved or deleted the run's checkpoints.
Status check_none_was_saved(FileSystem& fs, const std::string& run_dir);

/// Writes the recipe and opens the metrics of a start that goes on after `num_steps`.
Result<std::unique_ptr<MetricsFile>> open_run_files(FileSystem& fs, const std::string& run_dir,
                                                    const std::string& recipe_text,
                                                    int64_t num_steps);

}  // namespace lockstep
