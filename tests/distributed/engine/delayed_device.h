#pragma once
// DelayedDevice: an Accelerator without a GPU, for the order of work between queues. Its memory is
// the host's and LibTorch computes there at once; its queues of communication and staging run on
// threads of their own, each piece of work after a pause drawn from a seed. Whoever forgets to put
// one queue behind another, or to settle, reads bits that are not there yet.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "exchange_watchdog.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/accelerator.h"

namespace lockstep::testing {

/// Reached once the queue that made it gets there.
class DelayedMark {
 public:
  /// `later_ns`: from now.
  void pass(int64_t later_ns = 0) {
    std::lock_guard lock(mutex_);
    passed_ns_ = monotonic_ns() + later_ns;
    passed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    passed_.wait(lock, [&] { return passed_ns_ != 0; });
    const int64_t left_ns = passed_ns_ - monotonic_ns();
    lock.unlock();
    if (left_ns > 0) sleep_ns(left_ns);
  }
  /// 0: not yet.
  int64_t passed_ns() {
    std::lock_guard lock(mutex_);
    return passed_ns_ <= monotonic_ns() ? passed_ns_ : 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable passed_;
  int64_t passed_ns_ = 0;
};

inline DelayedMark& delayed_mark(const QueueMark& mark) {
  return *static_cast<DelayedMark*>(mark.get());
}

/// LibTorch's: work is done when a call returns, and waiting for a mark is waiting.
class ImmediateQueue : public DeviceQueue {
 public:
  void copy(void* to, const void* from, size_t num_bytes) override {
    host().copy(to, from, num_bytes);
  }
  void fill_zero(void* to, size_t num_bytes) override { host().fill_zero(to, num_bytes); }
  QueueMark mark() override {
    auto mark = std::make_shared<DelayedMark>();
    mark->pass();
    return mark;
  }
  void wait_for(const QueueMark& mark) override {
    if (mark != nullptr) delayed_mark(mark).wait();
  }
  Result<bool> has_passed(const QueueMark& mark) override {
    return mark == nullptr || delayed_mark(mark).passed_ns() != 0;
  }
  /// Both must have passed, as with CUDA's events.
  double ms_between(const QueueMark& first, const QueueMark& second) override {
    if (first == nullptr || second == nullptr) return 0;
    const int64_t begin = delayed_mark(first).passed_ns(), end = delayed_mark(second).passed_ns();
    LOCKSTEP_CHECK(begin != 0 && end != 0, "the time between marks that have not passed");
    return static_cast<double>(end - begin) * 1e-6;
  }
  void add_into(Dtype dtype, void* into, const void* from, int64_t num_elems) override {
    host().add_into(dtype, into, from, num_elems);
  }
  void add_zeros(Dtype dtype, void* into, int64_t num_elems) override {
    host().add_zeros(dtype, into, num_elems);
  }
  void block_sums_of_squares(Dtype dtype, const void* values, int64_t num_elems,
                             double* sums) override {
    host().block_sums_of_squares(dtype, values, num_elems, sums);
  }
  void update_adamw(Dtype dtype, const UpdateArrays& arrays,
                    const AdamWFactors<double>& factors) override {
    host().update_adamw(dtype, arrays, factors);
  }
  void update_sgd(Dtype dtype, const UpdateArrays& arrays,
                  const SgdFactors<double>& factors) override {
    host().update_sgd(dtype, arrays, factors);
  }
  void record_change(Dtype dtype, const BufferChange& change, int64_t num_elems) override {
    host().record_change(dtype, change, num_elems);
  }
  void mean_of_changed(Dtype dtype, void* result, const void* sums, const void* counts,
                       int64_t num_micro_batches, int64_t num_elems) override {
    host().mean_of_changed(dtype, result, sums, counts, num_micro_batches, num_elems);
  }
  void round_to_bf16(float* to, const float* from, int64_t num_elems) override {
    host().round_to_bf16(to, from, num_elems);
  }
  void pack_bf16(uint16_t* to, const float* from, int64_t num_elems) override {
    host().pack_bf16(to, from, num_elems);
  }
  void unpack_bf16(float* to, const uint16_t* from, int64_t num_elems) override {
    host().unpack_bf16(to, from, num_elems);
  }
  void block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                    uint64_t* hashes) override {
    host().block_hashes(bytes, num_bytes, block_bytes, hashes);
  }

 protected:
  static DeviceQueue& host() { return host_device().compute(); }
};

/// LibTorch's on a GPU that is busy, or has failed: then CUDA's calls throw.
class ComputeQueue final : public ImmediateQueue {
 public:
  explicit ComputeQueue(double late_s) : late_ns_(static_cast<int64_t>(late_s * 1e9)) {}
  void fail() { has_failed_ = true; }
  QueueMark mark() override {
    if (has_failed_) throw std::runtime_error("CUDA error: an illegal memory access");
    auto mark = std::make_shared<DelayedMark>();
    mark->pass(late_ns_);
    return mark;
  }

 private:
  int64_t late_ns_;
  std::atomic<bool> has_failed_{false};
};

/// A stream: calls return at once, a thread does the work in order.
class DelayedQueue final : public ImmediateQueue {
 public:
  explicit DelayedQueue(uint32_t seed) : random_(seed), thread_([this] { run(); }) {}
  ~DelayedQueue() override {
    {
      std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void submit(std::function<void()> work) {
    {
      std::lock_guard lock(mutex_);
      works_.push_back(std::move(work));
    }
    changed_.notify_all();
  }

  void copy(void* to, const void* from, size_t num_bytes) override {
    submit([=] { host().copy(to, from, num_bytes); });
  }
  void fill_zero(void* to, size_t num_bytes) override {
    submit([=] { host().fill_zero(to, num_bytes); });
  }
  QueueMark mark() override {
    auto mark = std::make_shared<DelayedMark>();
    submit([mark] { mark->pass(); });
    return mark;
  }
  void wait_for(const QueueMark& mark) override {
    if (mark != nullptr) submit([mark] { delayed_mark(mark).wait(); });
  }
  void add_into(Dtype dtype, void* into, const void* from, int64_t num_elems) override {
    submit([=] { host().add_into(dtype, into, from, num_elems); });
  }
  void block_sums_of_squares(Dtype dtype, const void* values, int64_t num_elems,
                             double* sums) override {
    submit([=] { host().block_sums_of_squares(dtype, values, num_elems, sums); });
  }
  void mean_of_changed(Dtype dtype, void* result, const void* sums, const void* counts,
                       int64_t num_micro_batches, int64_t num_elems) override {
    submit([=] {
      host().mean_of_changed(dtype, result, sums, counts, num_micro_batches, num_elems);
    });
  }
  void pack_bf16(uint16_t* to, const float* from, int64_t num_elems) override {
    submit([=] { host().pack_bf16(to, from, num_elems); });
  }
  void unpack_bf16(float* to, const uint16_t* from, int64_t num_elems) override {
    submit([=] { host().unpack_bf16(to, from, num_elems); });
  }
  void block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                    uint64_t* hashes) override {
    submit([=] { host().block_hashes(bytes, num_bytes, block_bytes, hashes); });
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return is_stopping_ || !works_.empty(); });
      if (works_.empty()) return;
      std::function<void()> work = std::move(works_.front());
      works_.pop_front();
      lock.unlock();
      if (random_() % 4 == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(random_() % 300));
      work();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> works_;
  bool is_stopping_ = false;
  std::mt19937 random_;  // of the thread
  std::thread thread_;
};

/// Hands exchanges to a DelayedQueue, as NCCL does to a stream. There they wait without a deadline
/// of their own, for a watchdog to end them.
class DelayedCommunicator final : public Communicator {
 public:
  /// The call of number `failing_call` (from 0; -1: none) fails, in the queue: whoever made it has
  /// gone on.
  DelayedCommunicator(World& world, DelayedQueue& queue, int failing_call)
      : Communicator(world.world_rank(), world.world_size()),
        queue_(queue),
        log_(world.log()),
        state_(std::make_shared<State>(world.communicator(), failing_call)),
        watchdog_(queue, {[state = state_, &plane = world.control_plane()] {
                            const auto lost = plane.lost_ranks();
                            return lost.empty() ? state->failure()
                                                : peer_failure_error(cat("rank ", lost[0], " gone"));
                          },
                          [state = state_](const Status& why) { state->give_up(why); }}) {}
  /// What was not waited for is dropped.
  ~DelayedCommunicator() override {
    watchdog_.stop();
    state_->is_gone = true;
    queue_.settle("end", Deadline::after_s(60)).ignore();
  }

  Status exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                  OnReceived on_received, std::string_view what, Deadline deadline) override {
    for (const SendOp& op : sends) count_sent(op.bytes.size());
    WatchedExchange exchange;
    exchange.add_messages(sends, recvs);
    submit(std::move(exchange), what, deadline,
           [sends = std::vector(sends.begin(), sends.end()),
            recvs = std::vector(recvs.begin(), recvs.end())](
               Communicator& inner, std::string_view name, Deadline far) {
             return inner.exchange(sends, recvs, nullptr, name, far);
           });
    for (size_t i = 0; on_received && i < recvs.size(); ++i) on_received(i);
    return Status::ok();
  }
  Status all_gather(std::span<const std::byte> in, std::span<std::byte> out, std::string_view what,
                    Deadline deadline) override {
    submit({}, what, deadline, [=](Communicator& inner, std::string_view name, Deadline far) {
      return inner.all_gather(in, out, name, far);
    });
    return Status::ok();
  }
  Status broadcast(std::span<std::byte> bytes, int root, std::string_view what,
                   Deadline deadline) override {
    submit({}, what, deadline, [=](Communicator& inner, std::string_view name, Deadline far) {
      return inner.broadcast(bytes, root, name, far);
    });
    return Status::ok();
  }
  Status native_all_reduce_sum(float* values, int64_t num_elems, Deadline deadline) override {
    return sum(values, num_elems, deadline);
  }
  Status native_all_reduce_sum(double* values, int64_t num_elems, Deadline deadline) override {
    return sum(values, num_elems, deadline);
  }
  Status barrier(std::string_view what, Deadline deadline) override {
    submit({}, what, deadline, [](Communicator& inner, std::string_view name, Deadline far) {
      return inner.barrier(name, far);
    });
    return settle(what, deadline);
  }
  Status settle(std::string_view what, Deadline deadline) override {
    const Status settled = watchdog_.settle(what, deadline, log_);
    const Status failed = state_->failure();
    return failed.is_ok() ? settled : failed;
  }
  void abort(std::string_view reason) override {
    state_->give_up(aborted_error(std::string(reason)));
  }
  std::string_view backend() const override { return "delayed"; }

 private:
  struct State {
    State(Communicator& communicator, int failing) : inner(communicator), failing_call(failing) {}
    Communicator& inner;
    int failing_call;
    std::atomic<bool> is_gone{false};

    Status failure() {
      std::lock_guard lock(mutex);
      return status;
    }
    void fail(Status why) {
      std::lock_guard lock(mutex);
      if (status.is_ok()) status = std::move(why);
    }
    void give_up(const Status& why) {
      fail(why);
      inner.abort(why.message());
    }

   private:
    std::mutex mutex;
    Status status;
  };

  template <typename Call>
  void submit(WatchedExchange exchange, std::string_view what, Deadline deadline, Call call) {
    exchange.what = what;
    exchange.call = num_calls_++;
    exchange.world_rank = world_rank();
    exchange.timeout_s = deadline.length_s();
    exchange.begin = queue_.mark();
    queue_.submit([state = state_, call = std::move(call), name = std::string(what)] {
      if (state->failing_call-- == 0) state->fail(internal_error("the link broke"));
      if (state->failure().is_ok() && !state->is_gone)
        state->fail(call(state->inner, name, Deadline::after_s(60)));
    });
    exchange.end = queue_.mark();
    watchdog_.watch(std::move(exchange));
  }
  template <typename T>
  Status sum(T* values, int64_t num_elems, Deadline deadline) {
    submit({}, "native sum", deadline, [=](Communicator& inner, std::string_view, Deadline far) {
      return inner.native_all_reduce_sum(values, num_elems, far);
    });
    return Status::ok();
  }

  DelayedQueue& queue_;
  Log log_;
  uint64_t num_calls_ = 0;
  std::shared_ptr<State> state_;
  ExchangeWatchdog watchdog_;
};

class DelayedDevice final : public Accelerator {
 public:
  /// `compute_s`: how long the device still computes when the host has handed something over.
  explicit DelayedDevice(uint32_t seed, int failing_call = -1, double compute_s = 0)
      : failing_call_(failing_call),
        compute_(compute_s),
        communication_(seed),
        staging_(seed + 1) {}

  std::string_view name() const override { return "cpu"; }
  bool is_host() const override { return false; }
  std::map<std::string, std::string> facts() const override { return {{"GPU", "delayed"}}; }
  DeviceQueue& compute() override { return compute_; }
  DeviceQueue& communication() override { return communication_; }
  DeviceQueue& staging() override { return staging_; }
  DeviceMemory allocate(size_t num_bytes) override { return host_device().allocate(num_bytes); }
  void pin(std::span<std::byte> host_memory) override { pinned_.push_back(host_memory.data()); }
  void unpin(std::span<std::byte> host_memory) override {
    std::erase(pinned_, host_memory.data());
  }
  DeviceMemoryUse memory_use() const override { return {}; }
  Result<std::unique_ptr<Communicator>> connect(World& world, Deadline /*deadline*/) override {
    if (world.world_size() == 1) return std::unique_ptr<Communicator>();
    return std::unique_ptr<Communicator>(
        std::make_unique<DelayedCommunicator>(world, communication_, failing_call_));
  }
  /// From here on whatever compute is asked throws.
  void fail_compute() { compute_.fail(); }
  size_t num_pinned() const { return pinned_.size(); }

 private:
  int failing_call_;
  std::vector<std::byte*> pinned_;
  ComputeQueue compute_;
  DelayedQueue communication_;
  DelayedQueue staging_;
};

}  // namespace lockstep::testing
