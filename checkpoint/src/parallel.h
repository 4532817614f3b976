#pragma once
// Work of the tools on several threads: numbered tasks, each done once, until one fails.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// Does one task. Made once a thread, so it may hold that thread's buffers.
using Worker = std::function<Status(size_t task)>;

/// Hands out tasks 0 to num_tasks - 1 in this order to at most `num_threads` threads, one of them
/// the caller's. After an error no more are handed out. Errors: of the failed task with the lowest
/// number; exceptions as caught() makes them.
Status run_parallel(size_t num_tasks, int num_threads, const std::function<Worker()>& make_worker);

/// Adds up the bytes that threads are done with, and tells whoever watches. Thread-safety: add()
/// from any thread; the watcher is called by one thread at a time, with amounts that never shrink.
class ByteProgress {
 public:
  ByteProgress(const OnProgress& on_progress, uint64_t total_bytes);
  void add(uint64_t bytes);

 private:
  const OnProgress& on_progress_;
  const uint64_t total_bytes_;
  std::atomic<uint64_t> done_bytes_ = 0;
  std::mutex telling_;
};

}  // namespace lockstep
