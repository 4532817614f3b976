#include "parallel.h"

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

#include "lockstep/core/base/caught.h"

namespace lockstep {

Status run_parallel(size_t num_tasks, int num_threads, const std::function<Worker()>& make_worker) {
  std::atomic<size_t> next = 0;
  std::atomic<bool> has_failed = false;
  std::mutex mutex;
  size_t failed_task = num_tasks;
  Status first_error;
  const auto work = [&] {
    size_t task = 0;
    const Status status = caught([&] {
      const Worker worker = make_worker();
      for (task = next++; task < num_tasks && !has_failed; task = next++)
        LOCKSTEP_RETURN_IF_ERROR(worker(task));
      return Status::ok();
    });
    if (status.is_ok()) return;
    has_failed = true;
    std::lock_guard lock(mutex);
    if (first_error.is_ok() || task < failed_task) {
      failed_task = task;
      first_error = status;
    }
  };
  const auto num_wanted = std::min(num_tasks, static_cast<size_t>(std::max(num_threads, 1)));
  std::vector<std::thread> others;
  try {
    while (others.size() + 1 < num_wanted) others.emplace_back(work);
  } catch (const std::system_error&) {
    // Fewer threads do the same.
  }
  work();
  for (std::thread& thread : others) thread.join();
  return first_error;
}

ByteProgress::ByteProgress(const OnProgress& on_progress, uint64_t total_bytes)
    : on_progress_(on_progress), total_bytes_(total_bytes) {}

void ByteProgress::add(uint64_t bytes) {
  done_bytes_ += bytes;
  if (!on_progress_) return;
  std::unique_lock lock(telling_, std::try_to_lock);
  if (lock) on_progress_(done_bytes_, total_bytes_);
}

}  // namespace lockstep
