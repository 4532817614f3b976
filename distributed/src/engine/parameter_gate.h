#pragma once
// ParameterGate: parameters that are still on their way when the next forward begins. LibTorch's
// C++ modules have no forward hooks; what they have is that every operation announces its inputs.
// While a bucket is closed, each operation of the watching thread that reads memory in it waits
// until it is open, and for no other. A bucket may be opened with a mark of a device's queue: then
// not the thread waits, but the device before that operation. Costs nothing once all are open. Must
// not know: how parameters travel.

#include <ATen/record_function.h>

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/core/device/device.h"

namespace lockstep {

class ParameterGate {
 public:
  /// Shapes: one run of bytes a bucket, none in two. `device` must outlive this.
  ParameterGate(Device& device, std::vector<std::span<const std::byte>> buckets);
  /// Requires: on the watching thread, if there is one.
  ~ParameterGate();
  ParameterGate(const ParameterGate&) = delete;
  ParameterGate& operator=(const ParameterGate&) = delete;

  /// From here on the operations of this thread wait for what is closed, until rest().
  void watch();
  /// By the watching thread.
  void close(size_t bucket);
  /// By whoever knows that the bucket is complete, or that it never will be: every bucket that was
  /// closed must be opened. With a mark, operations that read it are put behind that mark.
  void open(size_t bucket, QueueMark when = nullptr);
  /// Stops watching if all are open. By the watching thread, where many operations are to come.
  void rest();
  /// Puts whatever this thread hands to the device from here on behind all marks that no operation
  /// has waited for. By the watching thread.
  void pass_marks();
  /// Time that operations have waited since the last call of this. On a device: Requires: it has
  /// done what was handed to it.
  double take_waited_ms();

 private:
  struct Range {
    const std::byte* begin = nullptr;
    const std::byte* end = nullptr;
    size_t bucket = 0;
  };
  static std::unique_ptr<at::ObserverContext> before_operation(const at::RecordFunction& operation);
  void wait_for(const std::byte* begin, const std::byte* end);
  void pass(QueueMark* mark);
  void stop_watching();

  Device& device_;
  std::vector<Range> ranges_;  // by address
  std::mutex mutex_;
  std::condition_variable opened_;
  std::vector<bool> is_closed_;
  std::vector<QueueMark> marks_;  // of open ones that no operation has waited for
  size_t num_closed_ = 0;
  double waited_ms_ = 0;
  std::vector<std::pair<QueueMark, QueueMark>> device_waits_;  // around each, in its compute queue
  bool is_watching_ = false;
  at::CallbackHandle handle_ = 0;
};

}  // namespace lockstep
