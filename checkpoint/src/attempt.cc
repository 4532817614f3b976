#include "lockstep/checkpoint/attempt.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr uint64_t kMaxAttemptBytes = uint64_t{64} << 20;  // two years of heartbeats
constexpr int kMaxRaces = 16;

/// Whether the attempt's file grows while it is watched.
Result<bool> heart_beats(FileSystem& fs, const std::string& path, double watch_s) {
  // Opened anew for each look: network file systems promise fresh sizes only at open.
  const auto size = [&]() -> Result<uint64_t> {
    LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs.open_read(path));
    return file->size_bytes();
  };
  LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t before, size());
  const Deadline deadline = Deadline::after_s(watch_s);
  while (!deadline.has_passed()) {
    sleep_ns(static_cast<int64_t>(std::min(watch_s, 0.1) * 1e9));
    LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t now, size());
    if (now != before) return true;
  }
  return false;
}

/// OK when the last attempt is over, or can't be alive, or is to be taken over.
Status check_last_attempt(const AttemptOptions& options, const RunPaths& paths, int64_t last) {
  const std::string path = paths.attempt(last);
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string text,
                            read_whole_file(*options.fs, path, kMaxAttemptBytes));
  const auto record = parse_attempt_record(text, path);
  std::string who = "an unknown process";
  bool alive = false;
  if (record.is_ok()) {
    if (record->ended) return Status::ok();
    const ProcessIdentity& process = record->process;
    who = cat("process ", process.pid, " on ", process.host, ", started ", record->utc_time);
    const bool same_boot = process.host == options.process.host &&
                           process.boot_id == options.process.boot_id && !process.boot_id.empty();
    if (same_boot && !options.is_running(process)) return Status::ok();
    alive = same_boot;
  }
  if (!alive) {
    LOCKSTEP_ASSIGN_OR_RETURN(alive, heart_beats(*options.fs, path, options.watch_s));
  }
  if (!alive) return Status::ok();
  if (options.take_over) {
    options.log.warn(cat("taking over from attempt ", last, " (", who, "), which is still alive"));
    return Status::ok();
  }
  return already_exists_error(cat(options.run_dir, ": attempt ", last, " is alive (", who, "). ",
                                  options.advice_when_alive));
}

/// The highest number in use: of an attempt file, or in the name of a folder that an attempt wrote
/// or deleted.
Result<int64_t> highest_number(const AttemptOptions& options, const RunPaths& paths,
                               int64_t newest_file) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, options.fs->list(paths.checkpoints()));
  int64_t highest = newest_file;
  for (const DirectoryEntry& entry : entries) {
    if (auto partial = parse_partial_folder(entry.name)) {
      highest = std::max(highest, partial->attempt);
    }
  }
  return highest;
}

/// Creates the next attempt's file, durable. Returns its number.
Result<int64_t> create_attempt_file(const AttemptOptions& options, const RunPaths& paths) {
  for (int race = 0; race < kMaxRaces; ++race) {
    LOCKSTEP_ASSIGN_OR_RETURN(const int64_t last, newest_attempt(*options.fs, paths));
    if (last > 0) LOCKSTEP_RETURN_IF_ERROR(check_last_attempt(options, paths, last));
    LOCKSTEP_ASSIGN_OR_RETURN(const int64_t highest, highest_number(options, paths, last));
    const AttemptRecord record{options.process, options.job_id, utc_text(wall_clock_ns())};
    Status status = write_and_sync_file(*options.fs, paths.attempt(highest + 1),
                                        attempt_record_text(record), OpenMode::kCreateExclusive);
    if (status.code() == StatusCode::kAlreadyExists)
      continue;  // another start was faster: look at that one
    LOCKSTEP_RETURN_IF_ERROR(status);
    LOCKSTEP_RETURN_IF_ERROR(options.fs->sync_dir(paths.attempts()));
    return highest + 1;
  }
  return aborted_error(
      cat(paths.attempts(), ": other starts kept taking the next attempt number; start one"));
}

/// Renames the partial folders of older writers, durably. Returns how many of them a writer took
/// away at the same moment, by committing or abandoning.
Result<int> doom_partial_folders(const AttemptOptions& options, const RunPaths& paths,
                                 int64_t number) {
  FileSystem& fs = *options.fs;
  const std::string folder = paths.checkpoints();
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, fs.list(folder));
  int num_gone = 0;
  for (const DirectoryEntry& entry : entries) {
    const auto partial = parse_partial_folder(entry.name);
    if (!partial) continue;
    const std::string from = path_join(folder, entry.name);
    if (partial->attempt > number) {
      return aborted_error(
          cat(from, ": attempt ", partial->attempt, " is newer than this one (", number, ")"));
    }
    // The writer's own attempt number stays in the name, so two of them never collide.
    const std::string to = path_join(folder, doomed_folder(*partial));
    LOCKSTEP_RETURN_IF_ERROR(remove_tree(fs, to));
    const Status renamed = fs.rename(from, to);
    if (renamed.code() == StatusCode::kNotFound) {
      ++num_gone;
      continue;
    }
    LOCKSTEP_RETURN_IF_ERROR(renamed);
    options.log.warn(cat("attempt ", partial->attempt, " did not finish saving step ",
                         partial->checkpoint.step, "; its partial folder is removed"));
  }
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(folder));
  return num_gone;
}

/// Takes the partial folders away from all older writers. Whoever is in the middle of something may
/// win a race for one of them: then what there is is looked at again.
Status take_partial_folders(const AttemptOptions& options, const RunPaths& paths, int64_t number) {
  for (int race = 0; race < kMaxRaces; ++race) {
    LOCKSTEP_ASSIGN_OR_RETURN(const int num_gone, doom_partial_folders(options, paths, number));
    if (num_gone == 0) return Status::ok();
  }
  return aborted_error(
      cat(paths.checkpoints(), ": an older attempt keeps saving; end it and start again"));
}

}  // namespace

struct Attempt::Impl {
  AttemptOptions options;
  RunPaths paths;
  int64_t number = 0;
  bool ended = false;

  std::mutex mutex;
  std::condition_variable stop_changed;
  bool stop = false;
  std::thread heart;

  Status append(std::string_view text) {
    LOCKSTEP_ASSIGN_OR_RETURN(auto file,
                              options.fs->open_write(paths.attempt(number), OpenMode::kAppend));
    LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(text))));
    return file->close();
  }

  void beat() {
    bool was_told = false;
    std::unique_lock lock(mutex);
    while (!stop_changed.wait_for(lock, std::chrono::duration<double>(options.heartbeat_s),
                                  [&] { return stop; })) {
      lock.unlock();
      if (Status status = append("."); !status.is_ok() && !was_told) {
        options.log.warn(cat("heartbeat: ", status.message()));
        was_told = true;
      }
      lock.lock();
    }
  }

  void stop_heart() {
    {
      std::lock_guard lock(mutex);
      stop = true;
    }
    stop_changed.notify_all();
    if (heart.joinable()) heart.join();
  }
};

Attempt::Attempt(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Attempt::Attempt(Attempt&&) noexcept = default;
Attempt& Attempt::operator=(Attempt&& other) noexcept {
  if (impl_) impl_->stop_heart();
  impl_ = std::move(other.impl_);
  return *this;
}
Attempt::~Attempt() {
  if (impl_) impl_->stop_heart();
}

Result<Attempt> Attempt::begin(const AttemptOptions& options) {
  LOCKSTEP_CHECK(options.fs != nullptr && !options.run_dir.empty(),
                 "an attempt needs a file system and a run");
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->paths = RunPaths{options.run_dir};
  // By itself, although the next two would make it: its name must be durable also when an earlier
  // start was killed right after making it.
  LOCKSTEP_RETURN_IF_ERROR(make_dirs_durable(*options.fs, options.run_dir));
  LOCKSTEP_RETURN_IF_ERROR(make_dirs_durable(*options.fs, impl->paths.attempts()));
  LOCKSTEP_RETURN_IF_ERROR(make_dirs_durable(*options.fs, impl->paths.checkpoints()));
  LOCKSTEP_ASSIGN_OR_RETURN(impl->number, create_attempt_file(options, impl->paths));
  if (options.heartbeat_s > 0) impl->heart = std::thread([raw = impl.get()] { raw->beat(); });
  Attempt attempt(std::move(impl));
  LOCKSTEP_RETURN_IF_ERROR(
      take_partial_folders(options, attempt.impl_->paths, attempt.impl_->number));
  return attempt;
}

void Attempt::remove_doomed() const {
  FileSystem& fs = *impl_->options.fs;
  const std::string folder = impl_->paths.checkpoints();
  const auto entries = fs.list(folder);
  Status status = entries.status();
  for (const DirectoryEntry& entry : entries.is_ok() ? *entries : std::vector<DirectoryEntry>()) {
    if (parse_doomed_folder(entry.name)) status = remove_tree(fs, path_join(folder, entry.name));
    if (!status.is_ok()) break;
  }
  if (!status.is_ok())
    impl_->options.log.warn(cat("left behind, it only takes space: ", status.message()));
}

int64_t Attempt::number() const {
  return impl_->number;
}

Status Attempt::check_not_fenced() const {
  LOCKSTEP_ASSIGN_OR_RETURN(const int64_t newest, newest_attempt(*impl_->options.fs, impl_->paths));
  if (newest <= impl_->number) return Status::ok();
  return aborted_error(cat(impl_->options.run_dir, ": attempt ", newest,
                           " has taken over from this one (attempt ", impl_->number,
                           "); this one must stop"));
}

Status Attempt::end() {
  impl_->stop_heart();
  if (impl_->ended) return Status::ok();
  impl_->ended = true;
  return impl_->append(kAttemptEndMark);
}

ProcessIdentity this_process() {
  const int64_t pid = process_id();
  return {host_name(), boot_id(), pid, process_start_ticks(pid).value_or(0)};
}

bool process_runs(const ProcessIdentity& process) {
  if (process.host != host_name() || process.boot_id != boot_id()) return false;
  const auto ticks = process_start_ticks(process.pid);
  return ticks.has_value() && *ticks == process.start_ticks;
}

Result<int64_t> newest_attempt(FileSystem& fs, const RunPaths& paths) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, fs.list(paths.attempts()));
  int64_t newest = 0;
  for (const DirectoryEntry& entry : entries) {
    newest = std::max(newest, parse_attempt_file(entry.name).value_or(0));
  }
  return newest;
}

}  // namespace lockstep
