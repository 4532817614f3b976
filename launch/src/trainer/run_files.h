#pragma once
// What lies in a run directory beside checkpoints: recipe.toml and metrics.jsonl, and how they fit
// the checkpoint that a start resumes from. Rank 0 alone calls these. Must not know: ranks, the
// model. Errors: those of the file system, and as said.

#include <memory>
#include <string>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/train/metrics_file.h"

namespace lockstep {

/// Where the checkpoint of --resume PATH comes from.
enum class ResumeSource : uint8_t { kThisRun, kAnotherRun };

/// Errors: kInvalidArgument when `path` is no folder, or when it is another run's and this run has
/// checkpoints of its own (two histories in one folder).
Result<ResumeSource> find_resume_source(FileSystem& fs, const std::string& run_dir,
                                        const std::string& path);

/// Gives both files a name that says which attempt moved them ("metrics-aside-a0003.jsonl"),
/// durably.
Status move_run_files_aside(FileSystem& fs, const std::string& run_dir, int64_t attempt,
                            const Log& log);

/// Writes the recipe and opens the metrics of a start that goes on after `num_steps`.
Result<std::unique_ptr<MetricsFile>> open_run_files(FileSystem& fs, const std::string& run_dir,
                                                    const std::string& recipe_text,
                                                    int64_t num_steps);

}  // namespace lockstep
