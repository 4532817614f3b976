#pragma once
// Device: the place where a rank's flat memory lives and is worked on: the host, or a GPU. Whoever
// moves or adds flat values goes through its queues, so that the same text trains on both. Must not
// know: LibTorch, ranks. Thread-safety: const members and the queues of different kinds from
// different threads; one queue by one thread at a time.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/status.h"
#include "lockstep/core/device/flat_kernels.h"

namespace lockstep {

/// Own work of a device that takes longer than this, in seconds, will not end.
inline constexpr double kMaxComputeS = 3600;

/// A point in the order of a queue; null: nothing to wait for.
using QueueMark = std::shared_ptr<void>;

/// Work in order. On the host each call has done its work when it returns; on a GPU it is a
/// stream: calls return before the work is done, and results are there for the host after settle().
class DeviceQueue : public FlatKernels {
 public:
  /// Between any two places, host memory included. Memory of the host must stay until the work is
  /// done.
  virtual void copy(void* to, const void* from, size_t num_bytes) = 0;
  virtual void fill_zero(void* to, size_t num_bytes) = 0;

  /// What was handed over so far.
  virtual QueueMark mark() = 0;
  /// Work handed over from here on begins after `mark` of another queue; the caller does not wait.
  virtual void wait_for(const QueueMark& mark) = 0;
  /// Whether everything up to `mark` has run; a null mark has passed. From any thread. Errors:
  /// kInternal with the device's own text, after which the device is lost.
  virtual Result<bool> has_passed(const QueueMark& mark) = 0;
  /// Returns once everything up to `mark` has run. From any thread. Errors: kTimeout with `what`; as
  /// has_passed.
  Status wait_until(const QueueMark& mark, std::string_view what, Deadline deadline);
  /// The same for everything handed over so far.
  Status settle(std::string_view what, Deadline deadline) { return wait_until(mark(), what, deadline); }
  /// Time between two marks of this device that have passed; 0 if one is null.
  virtual double ms_between(const QueueMark& first, const QueueMark& second) = 0;
};

/// Memory of a device, given back at the end. Movable; empty by default.
class DeviceMemory {
 public:
  using Free = std::function<void(std::byte*)>;
  DeviceMemory() = default;
  DeviceMemory(std::byte* data, size_t num_bytes, Free free)
      : data_(data, std::move(free)), num_bytes_(num_bytes) {}
  std::byte* data() const { return data_.get(); }
  size_t num_bytes() const { return num_bytes_; }
  std::span<std::byte> bytes() const { return {data_.get(), num_bytes_}; }

 private:
  std::unique_ptr<std::byte, Free> data_{nullptr, [](std::byte*) {}};
  size_t num_bytes_ = 0;
};

/// What a device's memory is at, in bytes.
struct DeviceMemoryUse {
  uint64_t in_use = 0;       ///< handed out to tensors and buffers
  uint64_t peak_in_use = 0;  ///< since the start
  uint64_t reserved = 0;     ///< taken from the device, in use or kept for the next one
  uint64_t total = 0;        ///< that the device has
  /// Requests that found it full, since the start. Some libraries then go on by another algorithm,
  /// without a word: their results have other bits.
  uint64_t num_times_full = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  /// As LibTorch spells it: "cpu", "cuda:0".
  virtual std::string_view name() const = 0;
  /// Whether its memory is ordinary memory.
  virtual bool is_host() const = 0;
  /// What changes bits beside the program, and so must be the same on all ranks, by name: the
  /// architecture, versions of libraries.
  virtual std::map<std::string, std::string> facts() const = 0;

  /// In order with what LibTorch does on the calling thread.
  virtual DeviceQueue& compute() = 0;
  /// That of exchanges with other ranks.
  virtual DeviceQueue& communication() = 0;
  /// That of copies to and from the host, e.g. of a checkpoint.
  virtual DeviceQueue& staging() = 0;

  /// Zero-filled, page-aligned on the host and 256-byte-aligned on a GPU. Errors: std::bad_alloc on
  /// the host, c10::Error with LibTorch's account of its memory on a GPU.
  virtual DeviceMemory allocate(size_t num_bytes) = 0;
  /// Makes host memory one that the device copies from and to at full speed, until unpin(). May do
  /// nothing.
  virtual void pin(std::span<std::byte> host_memory) = 0;
  virtual void unpin(std::span<std::byte> host_memory) = 0;
  /// Empty for the host.
  virtual DeviceMemoryUse memory_use() const = 0;
};

/// How a wait for a device looks again and again: at first without a pause, for what takes
/// microseconds, then with one.
class PollPause {
 public:
  /// Between two looks.
  void operator()() const;

 private:
  Stopwatch watch_;
};

/// The host: every queue is the calling thread itself.
Device& host_device();

}  // namespace lockstep
