#include "parameter_gate.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <algorithm>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/deadline.h"

namespace lockstep {
namespace {

// LibTorch calls a plain function before an operation; this is how it finds the gates of its
// thread. A gate enters and leaves itself.
std::vector<ParameterGate*>& gates_of_this_thread() {
  thread_local std::vector<ParameterGate*> gates;
  return gates;
}

struct ByteRange {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
};

/// From the first byte of a tensor to behind its last; strides are never negative.
ByteRange bytes_of(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.has_storage() || tensor.numel() == 0) return {};
  int64_t last = 0;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim)
    last += (tensor.size(dim) - 1) * tensor.stride(dim);
  const auto* begin = static_cast<const std::byte*>(tensor.const_data_ptr());
  return {begin, begin + (last + 1) * static_cast<int64_t>(tensor.element_size())};
}

template <typename Visit>
void visit_tensors(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    visit(bytes_of(value.toTensor()));
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) visit_tensors(element, visit);
  }
}

}  // namespace

ParameterGate::ParameterGate(Device& device, std::vector<std::span<const std::byte>> buckets)
    : device_(device), is_closed_(buckets.size(), false), marks_(buckets.size()) {
  for (size_t i = 0; i < buckets.size(); ++i)
    ranges_.push_back({buckets[i].data(), buckets[i].data() + buckets[i].size(), i});
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
}

ParameterGate::~ParameterGate() {
  if (is_watching_) stop_watching();
}

void ParameterGate::watch() {
  if (is_watching_) return;
  is_watching_ = true;
  gates_of_this_thread().push_back(this);
  handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&ParameterGate::before_operation)
                                           .needsInputs(true)
                                           .scopes({at::RecordScope::FUNCTION}));
}

void ParameterGate::stop_watching() {
  is_watching_ = false;
  at::removeCallback(handle_);
  std::erase(gates_of_this_thread(), this);
}

std::unique_ptr<at::ObserverContext> ParameterGate::before_operation(
    const at::RecordFunction& operation) {
  for (ParameterGate* gate : gates_of_this_thread()) {
    for (const c10::IValue& input : operation.inputs()) {
      visit_tensors(input, [&](ByteRange bytes) { gate->wait_for(bytes.begin, bytes.end); });
    }
  }
  return nullptr;
}

void ParameterGate::close(size_t bucket) {
  std::lock_guard lock(mutex_);
  LOCKSTEP_CHECK(!is_closed_[bucket], "bucket ", bucket, " is closed already");
  is_closed_[bucket] = true;
  ++num_closed_;
}

void ParameterGate::open(size_t bucket, QueueMark when) {
  {
    std::lock_guard lock(mutex_);
    LOCKSTEP_CHECK(is_closed_[bucket], "bucket ", bucket, " is open already");
    is_closed_[bucket] = false;
    marks_[bucket] = std::move(when);
    --num_closed_;
  }
  opened_.notify_all();
}

// Has no deadline of its own: whoever opens a bucket has one, and opens it also when that passed.
void ParameterGate::wait_for(const std::byte* begin, const std::byte* end) {
  if (begin == end) return;
  auto it =
      std::upper_bound(ranges_.begin(), ranges_.end(), begin,
                       [](const std::byte* at, const Range& range) { return at < range.end; });
  for (; it != ranges_.end() && it->begin < end; ++it) {
    std::unique_lock lock(mutex_);
    if (is_closed_[it->bucket]) {
      const Stopwatch watch;
      opened_.wait(lock, [&] { return !is_closed_[it->bucket]; });
      waited_ms_ += watch.elapsed_ms();
    }
    pass(&marks_[it->bucket]);
  }
}

void ParameterGate::pass_marks() {
  std::lock_guard lock(mutex_);
  for (QueueMark& mark : marks_) pass(&mark);
}

// Requires: the mutex is held.
void ParameterGate::pass(QueueMark* mark) {
  if (*mark == nullptr) return;
  DeviceQueue& compute = device_.compute();
  QueueMark before = compute.mark();
  compute.wait_for(std::exchange(*mark, nullptr));
  device_waits_.emplace_back(std::move(before), compute.mark());
}

void ParameterGate::rest() {
  if (!is_watching_) return;
  {
    std::lock_guard lock(mutex_);
    if (num_closed_ > 0) return;
    for (const QueueMark& mark : marks_) {
      if (mark != nullptr) return;
    }
  }
  stop_watching();
}

double ParameterGate::take_waited_ms() {
  std::lock_guard lock(mutex_);
  for (const auto& [before, after] : std::exchange(device_waits_, {}))
    waited_ms_ += device_.compute().ms_between(before, after);
  return std::exchange(waited_ms_, 0);
}

}  // namespace lockstep
