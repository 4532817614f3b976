#include "run_files.h"

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr const char* kMetricsFile = "metrics.jsonl";
constexpr double kListTimeoutS = 60;
constexpr const char* kRecipeFile = "recipe.toml";

std::string last_component(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return std::string(path.substr(path.rfind('/') + 1));
}

// Same content under the same name: the folder may be reached by another way than the run
// directory.
bool has_checkpoint(FileSystem& fs, const std::string& run_dir, const std::string& path) {
  std::string theirs, ours;
  std::string own = path_join(RunPaths{run_dir}.checkpoints(), last_component(path));
  return read_manifest(fs, path, &theirs).is_ok() && read_manifest(fs, own, &ours).is_ok() &&
         theirs == ours;
}

Status check_is_folder(FileSystem& fs, const std::string& path) {
  auto found = fs.list(path);
  if (found.is_ok()) return Status::ok();
  return invalid_argument_error(cat(
      "--resume is auto, never or the folder of a checkpoint, found '", path,
      "': ", found.status().message(), ". `lockstep ckpt ls RUN` lists the checkpoints of a run"));
}

}  // namespace

Result<ResumeSource> find_resume_source(FileSystem& fs, const std::string& run_dir,
                                        const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(check_is_folder(fs, path));
  if (has_checkpoint(fs, run_dir, path)) return ResumeSource::kThisRun;
  LOCKSTEP_ASSIGN_OR_RETURN(bool is_there, exists(fs, RunPaths{run_dir}.checkpoints()));
  if (!is_there) return ResumeSource::kAnotherRun;
  LOCKSTEP_ASSIGN_OR_RETURN(auto own, list_checkpoints(fs, run_dir));
  if (own.empty()) return ResumeSource::kAnotherRun;
  return invalid_argument_error(
      cat(path, " is no checkpoint of ", run_dir, ", which has ", own.size(),
          " of its own. Go on from those (--resume auto), or take another run directory"));
}

Result<std::optional<int64_t>> newest_checkpoint_steps(ControlPlane& plane,
                                                       const std::string& run_dir) {
  Status status;
  std::string found;
  if (plane.world_rank() == 0) {
    FileSystem& fs = posix_file_system();
    const auto is_there = exists(fs, RunPaths{run_dir}.checkpoints());
    status = is_there.status();
    if (is_there.is_ok() && *is_there) {
      const auto all = list_checkpoints(fs, run_dir);
      status = all.status();
      int64_t generation = -1;
      for (size_t i = 0; status.is_ok() && i < all->size(); ++i) {
        if ((*all)[i].is_quarantined || (*all)[i].generation <= generation) continue;
        generation = (*all)[i].generation;
        found = cat((*all)[i].step);
      }
    }
  }
  const Deadline deadline = Deadline::after_s(kListTimeoutS);
  LOCKSTEP_RETURN_IF_ERROR(plane.vote("list of checkpoints", status, deadline));
  LOCKSTEP_ASSIGN_OR_RETURN(found, plane.broadcast("newest checkpoint", found, deadline));
  if (found.empty()) return std::optional<int64_t>();
  return std::optional<int64_t>(std::stoll(found));
}

Status move_run_files_aside(FileSystem& fs, const std::string& run_dir, int64_t attempt,
                            const Log& log) {
  for (std::string_view name : {kMetricsFile, kRecipeFile}) {
    std::string from = path_join(run_dir, name);
    LOCKSTEP_ASSIGN_OR_RETURN(bool is_there, exists(fs, from));
    if (!is_there) continue;
    size_t dot = name.rfind('.');
    std::string to = path_join(
        run_dir, cat(name.substr(0, dot), "-aside-a", attempt_file(attempt), name.substr(dot)));
    LOCKSTEP_RETURN_IF_ERROR(fs.rename(from, to));
    log.warn(cat("moved ", from, " to ", to));
  }
  return fs.sync_dir(run_dir);
}

Status check_none_was_saved(FileSystem& fs, const std::string& run_dir) {
  const std::string path = path_join(run_dir, kMetricsFile);
  LOCKSTEP_ASSIGN_OR_RETURN(const auto durable, MetricsFile::last_durable_steps(fs, path));
  if (!durable) return Status::ok();
  return corruption_error(
      cat(path, " tells of a durable checkpoint of step ", *durable, ", but ",
          RunPaths{run_dir}.checkpoints(),
          " has none. Nothing was changed. Put the checkpoints back (look for another disk or "
          "another name), or begin again with --resume never --overwrite"));
}

Result<std::unique_ptr<MetricsFile>> open_run_files(FileSystem& fs, const std::string& run_dir,
                                                    const std::string& recipe_text,
                                                    int64_t num_steps) {
  LOCKSTEP_RETURN_IF_ERROR(
      write_and_sync_file(fs, path_join(run_dir, kRecipeFile), recipe_text, OpenMode::kTruncate));
  return MetricsFile::open(fs, path_join(run_dir, kMetricsFile), num_steps);
}

}  // namespace lockstep
