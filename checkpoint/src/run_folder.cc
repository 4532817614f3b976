#include "run_folder.h"

#include <algorithm>
#include <set>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/base/time_text.h"

namespace lockstep {
namespace {

bool is_newer(const GenerationName& a, const GenerationName& b) {
  return a.generation > b.generation;
}

Result<std::vector<DirectoryEntry>> list_if_there(FileSystem& fs, const std::string& path) {
  auto entries = fs.list(path);
  if (entries.status().code() == StatusCode::kNotFound) return std::vector<DirectoryEntry>();
  return entries;
}

/// Of all names in a checkpoints folder.
Result<int64_t> highest_generation(FileSystem& fs, const std::string& folder) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, list_if_there(fs, folder));
  int64_t highest = 0;
  for (const DirectoryEntry& entry : entries) {
    auto name = parse_generation_folder(entry.name);
    if (auto partial = parse_partial_folder(entry.name)) name = partial->checkpoint;
    if (auto doomed = parse_doomed_folder(entry.name)) name = doomed->checkpoint;
    if (name) highest = std::max(highest, name->generation);
  }
  return highest;
}

/// Of what --overwrite moved aside: one number names one checkpoint over the life of the run.
Result<int64_t> highest_generation_aside(FileSystem& fs, const RunPaths& paths) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, list_if_there(fs, paths.run_dir));
  int64_t highest = 0;
  for (const DirectoryEntry& entry : entries) {
    if (!parse_aside_folder(entry.name)) continue;
    const std::string folder = path_join(paths.run_dir, entry.name);
    for (const std::string& of : {folder, path_join(folder, kQuarantineFolder)}) {
      LOCKSTEP_ASSIGN_OR_RETURN(const int64_t found, highest_generation(fs, of));
      highest = std::max(highest, found);
    }
  }
  return highest;
}

}  // namespace

Result<RunFolder> list_run_folder(FileSystem& fs, const RunPaths& paths) {
  RunFolder folder;
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, list_if_there(fs, paths.checkpoints()));
  for (const DirectoryEntry& entry : entries) {
    const auto name = parse_generation_folder(entry.name);
    if (!name) continue;
    if (entry.type == FileType::kDirectory) {
      folder.committed.push_back(*name);
    } else {
      folder.impostors.push_back(entry.name);
    }
  }
  LOCKSTEP_ASSIGN_OR_RETURN(const int64_t here, highest_generation(fs, paths.checkpoints()));
  LOCKSTEP_ASSIGN_OR_RETURN(const int64_t aside, highest_generation_aside(fs, paths));
  folder.highest_generation = std::max(here, aside);
  const auto bad = fs.list(paths.quarantine());
  folder.has_quarantine = bad.status().code() != StatusCode::kNotFound;
  if (folder.has_quarantine) LOCKSTEP_RETURN_IF_ERROR(bad.status());
  for (const DirectoryEntry& entry : bad.is_ok() ? *bad : std::vector<DirectoryEntry>()) {
    const auto name = parse_generation_folder(entry.name);
    if (!name) continue;
    folder.quarantined.push_back(*name);
    folder.highest_generation = std::max(folder.highest_generation, name->generation);
  }
  std::sort(folder.committed.begin(), folder.committed.end(), is_newer);
  std::sort(folder.quarantined.begin(), folder.quarantined.end(), is_newer);
  for (size_t i = 1; i < folder.committed.size(); ++i) {
    if (folder.committed[i].generation == folder.committed[i - 1].generation) {
      return corruption_error(cat(paths.checkpoints(), ": two checkpoints of generation ",
                                  folder.committed[i].generation, "; move one of them away"));
    }
  }
  return folder;
}

Result<std::vector<std::string>> stray_files(FileSystem& fs, const std::string& path,
                                             const Manifest& manifest) {
  std::set<std::string> known = {std::string(kManifestFile)};
  for (const ShardEntry& shard : manifest.shards) known.insert(shard.file);
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, fs.list(path));
  std::vector<std::string> stray;
  for (const DirectoryEntry& entry : entries) {
    if (!known.contains(entry.name) && !entry.name.starts_with(".nfs")) stray.push_back(entry.name);
  }
  return stray;
}

Status delete_checkpoint(FileSystem& fs, const RunPaths& paths, const GenerationName& name,
                         int64_t attempt, const std::function<Status()>& check_not_fenced) {
  if (check_not_fenced) LOCKSTEP_RETURN_IF_ERROR(check_not_fenced());
  const std::string doomed = path_join(paths.checkpoints(), doomed_folder({name, attempt}));
  LOCKSTEP_RETURN_IF_ERROR(fs.rename(paths.generation(name), doomed));
  // Whoever stood still between the look and the rename hides what a newer attempt counts on.
  const Status still_ours = check_not_fenced ? check_not_fenced() : Status::ok();
  if (!still_ours.is_ok()) {
    LOCKSTEP_RETURN_IF_ERROR(fs.rename(doomed, paths.generation(name)));
    return still_ours;
  }
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(paths.checkpoints()));
  return remove_tree(fs, doomed);
}

Result<std::string> quarantine_checkpoint(FileSystem& fs, const RunPaths& paths,
                                          const GenerationName& name, int64_t attempt) {
  LOCKSTEP_RETURN_IF_ERROR(make_dirs_durable(fs, paths.quarantine()));
  const std::string to = path_join(paths.quarantine(), generation_folder(name));
  // A power cut between the two syncs below can leave the name in both folders. The one in
  // quarantine is the one that is kept.
  LOCKSTEP_ASSIGN_OR_RETURN(const bool is_there, exists(fs, to));
  if (is_there) {
    LOCKSTEP_RETURN_IF_ERROR(delete_checkpoint(fs, paths, name, attempt));
    return to;
  }
  LOCKSTEP_RETURN_IF_ERROR(fs.rename(paths.generation(name), to));
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(paths.quarantine()));
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(paths.checkpoints()));
  return to;
}

std::vector<RetentionCandidate> retention_candidates(FileSystem& fs, const RunPaths& paths,
                                                     const std::vector<GenerationName>& committed,
                                                     const RetentionPolicy& policy) {
  std::vector<RetentionCandidate> candidates;
  for (const GenerationName& name : committed) {
    RetentionCandidate candidate{name};
    if (policy.needs_facts()) {
      const auto manifest = read_manifest(fs, paths.generation(name), nullptr);
      if (manifest.is_ok()) {
        candidate.facts.emplace(manifest->metrics, parse_utc_text(manifest->utc_time));
      } else {
        candidate.problem = manifest.status().message();
      }
    }
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

Status apply_retention(FileSystem& fs, const RunPaths& paths, const RetentionPolicy& policy,
                       int64_t durable_generation, int64_t attempt,
                       const std::function<Status()>& check_not_fenced, const Log& log) {
  if (policy.keep_any.empty()) return Status::ok();
  LOCKSTEP_ASSIGN_OR_RETURN(const RunFolder folder, list_run_folder(fs, paths));
  const auto candidates = retention_candidates(fs, paths, folder.committed, policy);
  for (const RetentionCandidate& candidate : candidates) {
    if (!candidate.problem.empty())
      log.warn(cat("kept, because it can't be judged: ", candidate.problem));
  }
  const auto verdicts = plan_retention(policy, candidates, durable_generation, wall_clock_ns());
  for (auto it = verdicts.rbegin(); it != verdicts.rend(); ++it) {
    if (!it->is_doomed()) continue;
    LOCKSTEP_RETURN_IF_ERROR(delete_checkpoint(fs, paths, it->name, attempt, check_not_fenced));
    log.info(cat("deleted the checkpoint of step ", it->name.step, " (generation ",
                 it->name.generation, ")"));
  }
  return Status::ok();
}

}  // namespace lockstep
