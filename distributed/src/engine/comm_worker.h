#pragma once
// CommWorker: one thread that runs exchanges in the order in which they were handed over, so that
// backward goes on meanwhile. The thread owns the communicator from the first submit() until
// drain() returns.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace lockstep {

class CommWorker {
 public:
  CommWorker();
  /// Drops what has not begun, waits for the task under way, joins. Whoever leaves in mid-step
  /// makes that task end first (Communicator::abort).
  ~CommWorker();
  CommWorker(const CommWorker&) = delete;
  CommWorker& operator=(const CommWorker&) = delete;

  /// `task` must not throw; it runs after all earlier ones. Returns its number.
  uint64_t submit(std::function<void()> task);
  /// Returns once that task has run. (Each task waits with a deadline of its own.)
  void wait_for(uint64_t task);
  /// Returns once everything submitted so far has run.
  void drain();
  bool is_idle() const;

 private:
  void run();
  mutable std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<std::function<void()>> tasks_;
  uint64_t num_submitted_ = 0, num_done_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lockstep
