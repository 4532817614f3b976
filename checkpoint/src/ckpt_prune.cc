#include <algorithm>
#include <set>

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "run_folder.h"

namespace lockstep {
namespace {

constexpr std::string_view kAdvice =
    "Wait for it to end, or pass --while-running to delete beside it";

/// Of all files in a folder, and in its folders.
Result<uint64_t> folder_bytes(FileSystem& fs, const std::string& folder) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, fs.list(folder));
  uint64_t bytes = 0;
  for (const DirectoryEntry& entry : entries) {
    const std::string path = path_join(folder, entry.name);
    if (entry.type == FileType::kDirectory) {
      LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t inside, folder_bytes(fs, path));
      bytes += inside;
    } else {
      LOCKSTEP_ASSIGN_OR_RETURN(const FileInfo info, fs.stat(path));
      bytes += info.size_bytes;
    }
  }
  return bytes;
}

/// A run's folder that another process changes: what has gone takes no space.
Result<uint64_t> folder_bytes_if_there(FileSystem& fs, const std::string& folder) {
  auto bytes = folder_bytes(fs, folder);
  if (bytes.status().code() == StatusCode::kNotFound) return uint64_t{0};
  return bytes;
}

class Pruning {
 public:
  Pruning(FileSystem& fs, std::string run_dir, PruneOptions options)
      : fs_(fs), paths_{std::move(run_dir)}, options_(std::move(options)) {}

  Result<PruneReport> run() {
    // Before an attempt makes them: a name mistyped must not become a run.
    LOCKSTEP_RETURN_IF_ERROR(fs_.list(paths_.checkpoints()).status());
    report_.run_dir = paths_.run_dir;
    report_.is_dry_run = options_.is_dry_run;
    LOCKSTEP_ASSIGN_OR_RETURN(newest_attempt_, newest_number());
    if (!options_.is_dry_run && !options_.while_running) LOCKSTEP_RETURN_IF_ERROR(begin());
    Status status = decide();
    if (status.is_ok() && !options_.is_dry_run) status = delete_doomed();
    // What went wrong first counts.
    const Status ended = attempt_ ? attempt_->end() : Status::ok();
    LOCKSTEP_RETURN_IF_ERROR(status);
    LOCKSTEP_RETURN_IF_ERROR(ended);
    return std::move(report_);
  }

 private:
  /// 1 when no attempt left a file: names of what is deleted need a number.
  Result<int64_t> newest_number() const {
    const auto newest = newest_attempt(fs_, paths_);
    if (newest.status().code() == StatusCode::kNotFound) return int64_t{1};
    LOCKSTEP_RETURN_IF_ERROR(newest.status());
    return std::max<int64_t>(*newest, 1);
  }

  Status begin() {
    AttemptOptions options = options_.attempt;
    options.fs = &fs_;
    options.run_dir = paths_.run_dir;
    options.advice_when_alive = kAdvice;
    LOCKSTEP_ASSIGN_OR_RETURN(Attempt attempt, Attempt::begin(options));
    newest_attempt_ = attempt.number();
    attempt_.emplace(std::move(attempt));
    return Status::ok();
  }

  Status decide() {
    LOCKSTEP_ASSIGN_OR_RETURN(const RunFolder folder, list_run_folder(fs_, paths_));
    if (folder.committed.empty()) return Status::ok();
    const GenerationName newest = folder.committed.front();
    const auto candidates = retention_candidates(fs_, paths_, folder.committed, options_.policy);
    LOCKSTEP_RETURN_IF_ERROR(check_metrics(candidates));
    const auto verdicts =
        plan_retention(options_.policy, candidates, newest.generation, wall_clock_ns());
    for (const RetentionVerdict& verdict : verdicts) {
      const std::string path = paths_.generation(verdict.name);
      LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t bytes, folder_bytes_if_there(fs_, path));
      report_.items.push_back({verdict.name, path, bytes, verdict.kept_because});
    }
    return count_leftovers();
  }

  /// A metric that no checkpoint has is a name mistyped: its rule would keep none.
  Status check_metrics(const std::vector<RetentionCandidate>& candidates) const {
    std::set<std::string> known;
    for (const RetentionCandidate& candidate : candidates) {
      if (!candidate.facts) continue;
      for (const auto& [metric, value] : candidate.facts->metrics) known.insert(metric);
    }
    for (const RetentionRule& rule : options_.policy.keep_any) {
      if (rule.metric.empty() || known.contains(rule.metric)) continue;
      return invalid_argument_error(
          cat("no checkpoint of ", paths_.run_dir, " has the metric \"", rule.metric,
              "\", so that nothing would be kept for it; there are: ",
              known.empty() ? std::string("none")
                            : join(std::vector<std::string>(known.begin(), known.end()), ", "),
              ". Nothing was deleted"));
    }
    return Status::ok();
  }

  /// What an attempt deletes when it begins; beside a living one they may be its own.
  Status count_leftovers() {
    if (options_.while_running) return Status::ok();
    LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, fs_.list(paths_.checkpoints()));
    for (const DirectoryEntry& entry : entries) {
      const bool is_left = parse_doomed_folder(entry.name) || parse_partial_folder(entry.name);
      if (!is_left) continue;
      LOCKSTEP_ASSIGN_OR_RETURN(
          const uint64_t bytes,
          folder_bytes_if_there(fs_, path_join(paths_.checkpoints(), entry.name)));
      report_.leftover_bytes += bytes;
    }
    return Status::ok();
  }

  /// The newest one is what the run goes on from once the others are gone.
  Status check_newest() {
    // A name that was seen is durable only now.
    LOCKSTEP_RETURN_IF_ERROR(fs_.sync_dir(paths_.checkpoints()));
    const std::string& path = report_.items.front().path;
    LOCKSTEP_ASSIGN_OR_RETURN(const VerifyReport verified,
                              verify_checkpoint(fs_, path, options_.how));
    if (verified.is_good()) return Status::ok();
    return corruption_error(
        cat(path,
            ": the newest checkpoint is bad, and nothing was deleted: ", verified.problems.front(),
            ". Start the run, which goes back to the one before, or move it away"));
  }

  Status delete_doomed() {
    if (report_.num_doomed() > 0) {
      LOCKSTEP_RETURN_IF_ERROR(check_newest());
      for (auto it = report_.items.rbegin(); it != report_.items.rend(); ++it) {
        if (!it->kept_because.empty()) continue;
        LOCKSTEP_RETURN_IF_ERROR(check_not_fenced());
        const Status deleted = delete_checkpoint(fs_, paths_, it->name, newest_attempt_);
        // The run's own retention may have been faster.
        if (!options_.while_running || deleted.code() != StatusCode::kNotFound)
          LOCKSTEP_RETURN_IF_ERROR(deleted);
      }
    }
    if (attempt_) attempt_->remove_doomed();
    return Status::ok();
  }

  Status check_not_fenced() const {
    if (attempt_) return attempt_->check_not_fenced();
    LOCKSTEP_ASSIGN_OR_RETURN(const int64_t newest, newest_number());
    if (newest <= newest_attempt_) return Status::ok();
    return aborted_error(cat(paths_.run_dir, ": attempt ", newest,
                             " of the run has started meanwhile; what is left was not deleted"));
  }

  FileSystem& fs_;
  RunPaths paths_;
  PruneOptions options_;
  PruneReport report_;
  int64_t newest_attempt_ = 0;
  std::optional<Attempt> attempt_;
};

}  // namespace

uint64_t PruneReport::freed_bytes() const {
  uint64_t bytes = leftover_bytes;
  for (const PruneItem& item : items) bytes += item.kept_because.empty() ? item.bytes : 0;
  return bytes;
}

int64_t PruneReport::num_doomed() const {
  return std::count_if(items.begin(), items.end(),
                       [](const PruneItem& item) { return item.kept_because.empty(); });
}

Result<PruneReport> prune_run(FileSystem& fs, const std::string& run_dir, PruneOptions options) {
  return Pruning(fs, run_dir, std::move(options)).run();
}

}  // namespace lockstep
