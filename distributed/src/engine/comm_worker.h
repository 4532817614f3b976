#pragma once
// CommWorker: one thread that runs exchanges in the order in which they were handed over, so that
// backward goes on meanwhile. The thread owns the communicator from the first submit() until
// drain() returns.

#include <condition_variable>
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

  /// `task` must not throw; it runs after all earlier ones.
  void submit(std::function<void()> task);
  /// Returns once everything submitted so far has run. (Each task waits with a deadline of its
  /// own.)
  void drain();
  bool is_idle() const;

 private:
  void run();
  mutable std::mutex mutex_;
  std::condition_variable work_, idle_;
  std::deque<std::function<void()>> tasks_;
  bool busy_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lockstep
