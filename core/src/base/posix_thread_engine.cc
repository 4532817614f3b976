// Transfers by a pool of threads, for systems that refuse io_uring.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "transfer_engine.h"

namespace lockstep {
namespace {

int64_t carry_out(const Transfer& transfer) {
  const auto offset = static_cast<off_t>(transfer.offset);
  const ssize_t n = transfer.is_write ? ::pwrite(transfer.fd, transfer.data, transfer.bytes, offset)
                                      : ::pread(transfer.fd, transfer.data, transfer.bytes, offset);
  return n < 0 ? -errno : n;
}

class ThreadEngine final : public TransferEngine {
 public:
  explicit ThreadEngine(int max_threads) : max_threads_(static_cast<size_t>(max_threads)) {}
  ~ThreadEngine() override {
    {
      std::lock_guard lock(mutex_);
      is_ending_ = true;
    }
    has_work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int start(const Transfer& transfer) override {
    {
      std::lock_guard lock(mutex_);
      waiting_.push_back(transfer);
      ++num_under_way_;
    }
    if (threads_.size() < std::min(num_under_way_, max_threads_)) {
      try {
        threads_.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        if (threads_.empty()) return drop_newest();
      }
    }
    has_work_.notify_one();
    return 0;
  }

  std::optional<TransferEnd> wait(Deadline deadline) override {
    std::unique_lock lock(mutex_);
    const auto left = std::chrono::duration<double>(deadline.remaining_s());
    if (!has_ended_.wait_for(lock, left, [&] { return !ended_.empty(); })) return std::nullopt;
    const TransferEnd end = ended_.front();
    ended_.pop_front();
    --num_under_way_;
    return end;
  }

  std::string_view name() const override { return "threads"; }

 private:
  int drop_newest() {
    std::lock_guard lock(mutex_);
    waiting_.pop_back();
    --num_under_way_;
    return EAGAIN;
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      has_work_.wait(lock, [&] { return is_ending_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const Transfer transfer = waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      const int64_t result = carry_out(transfer);
      lock.lock();
      ended_.push_back({transfer.ticket, result});
      has_ended_.notify_one();
    }
  }

  const size_t max_threads_;
  size_t num_under_way_ = 0;  // started and not yet waited for
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable has_work_;
  std::condition_variable has_ended_;
  std::deque<Transfer> waiting_;
  std::deque<TransferEnd> ended_;
  bool is_ending_ = false;
};

}  // namespace

std::unique_ptr<TransferEngine> make_thread_engine(int max_in_flight) {
  constexpr int kMaxThreads = 4;  // enough to keep a disk busy with pieces of several MiB
  return std::make_unique<ThreadEngine>(std::clamp(max_in_flight, 1, kMaxThreads));
}

}  // namespace lockstep
