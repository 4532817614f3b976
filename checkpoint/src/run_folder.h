#pragma once
// What lies in a run's checkpoints folder, and the two ways in which something leaves it: doomed or
// quarantined. Only rank 0 calls these. Thread-safety: any thread; not two of them on one run at
// once.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/names.h"
#include "lockstep/checkpoint/retention.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/log.h"

namespace lockstep {

struct RunFolder {
  std::vector<GenerationName> committed;    ///< newest generation first
  std::vector<GenerationName> quarantined;  ///< newest generation first
  /// Files and symbolic links with the name of a checkpoint.
  std::vector<std::string> impostors;
  /// Whether there is a quarantine folder, be it empty: then there was a checkpoint once, even if a
  /// power cut in the middle of its move took its name out of both folders.
  bool has_quarantine = false;
  int64_t highest_generation = 0;  ///< over every name, also partial, doomed and those moved aside
};

/// Lists <run>/checkpoints; a run without one is empty. Two folders of one generation are
/// kCorruption.
Result<RunFolder> list_run_folder(FileSystem& fs, const RunPaths& paths);

/// Names in a checkpoint's folder that its manifest does not give. They can't change what is
/// restored, but nobody who writes checkpoints puts them there. Not those ".nfs..." that NFS keeps
/// of files that were open while they were deleted.
Result<std::vector<std::string>> stray_files(FileSystem& fs, const std::string& path,
                                             const Manifest& manifest);

/// Deletes a committed checkpoint: first it gets a name that is never read, durably; then its files
/// go. `check_not_fenced` is asked before and after the change of name; fenced in between, the name
/// is given back.
Status delete_checkpoint(FileSystem& fs, const RunPaths& paths, const GenerationName& name,
                         int64_t attempt, const std::function<Status()>& check_not_fenced = {});

/// Moves a committed checkpoint to quarantine/, durably. Returns where it is now. When it is there
/// already (an earlier move that a power cut tore in two), what was left behind is deleted.
Result<std::string> quarantine_checkpoint(FileSystem& fs, const RunPaths& paths,
                                          const GenerationName& name, int64_t attempt);

/// What the policy may look at, for each of `committed`: manifests are read only when a rule needs
/// them. One that can't be read is no error here.
std::vector<RetentionCandidate> retention_candidates(FileSystem& fs, const RunPaths& paths,
                                                     const std::vector<GenerationName>& committed,
                                                     const RetentionPolicy& policy);

/// Deletes what the policy does not want, oldest first, each as delete_checkpoint.
Status apply_retention(FileSystem& fs, const RunPaths& paths, const RetentionPolicy& policy,
                       int64_t durable_generation, int64_t attempt,
                       const std::function<Status()>& check_not_fenced, const Log& log);

}  // namespace lockstep
