#include "cuda_queue.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "flat_kernels_cuda.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/device/with_float_type.h"

namespace lockstep::cuda {
namespace {

cudaEvent_t event_of(const QueueMark& mark) {
  return static_cast<cudaEvent_t>(mark.get());
}

/// Launches on `device` what f(value of the element type) launches.
template <typename F>
void launch(int device, Dtype dtype, const F& f) {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  with_float_type(dtype, f);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

EventPool::~EventPool() {
  for (cudaEvent_t event : free_) static_cast<void>(cudaEventDestroy(event));
}

cudaEvent_t EventPool::take() {
  {
    std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      const cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
  cudaEvent_t event = nullptr;
  C10_CUDA_CHECK(cudaEventCreate(&event));
  return event;
}

void EventPool::give_back(cudaEvent_t event) {
  std::lock_guard lock(mutex_);
  free_.push_back(event);
}

CudaQueue::CudaQueue(int device, StreamKind kind, std::shared_ptr<EventPool> events)
    : device_(device), kind_(kind), events_(std::move(events)) {
  if (kind == StreamKind::kOfLibTorch) return;
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  int least = 0, greatest = 0;
  C10_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  C10_CUDA_CHECK(cudaStreamCreateWithPriority(
      &own_, cudaStreamNonBlocking, kind == StreamKind::kOwnWithPriority ? greatest : least));
}

CudaQueue::~CudaQueue() {
  if (own_ != nullptr) static_cast<void>(cudaStreamDestroy(own_));
}

cudaStream_t CudaQueue::stream() const {
  if (own_ != nullptr) return own_;
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device_)).stream();
}

void CudaQueue::copy(void* to, const void* from, size_t num_bytes) {
  if (num_bytes == 0) return;
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
  C10_CUDA_CHECK(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDefault, stream()));
}

void CudaQueue::fill_zero(void* to, size_t num_bytes) {
  if (num_bytes == 0) return;
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
  C10_CUDA_CHECK(cudaMemsetAsync(to, 0, num_bytes, stream()));
}

QueueMark CudaQueue::mark() {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
  QueueMark mark(events_->take(),
                 [events = events_](cudaEvent_t event) { events->give_back(event); });
  C10_CUDA_CHECK(cudaEventRecord(event_of(mark), stream()));
  return mark;
}

void CudaQueue::wait_for(const QueueMark& mark) {
  if (mark == nullptr) return;
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
  C10_CUDA_CHECK(cudaStreamWaitEvent(stream(), event_of(mark), 0));
}

// With the device's own guard: asking on another thread must not make that thread a user of GPU 0.
Result<bool> CudaQueue::has_passed(const QueueMark& mark) {
  if (mark == nullptr) return true;
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
  const cudaError_t error = cudaEventQuery(event_of(mark));
  if (error == cudaSuccess) return true;
  if (error != cudaErrorNotReady) {
    return internal_error(cat("cuda:", device_, " has failed: ", cudaGetErrorName(error), ", ",
                              cudaGetErrorString(error), "; the process can't use it any more"));
  }
  static_cast<void>(cudaGetLastError());  // "not ready" is no error
  return false;
}

double CudaQueue::ms_between(const QueueMark& first, const QueueMark& second) {
  if (first == nullptr || second == nullptr) return 0;
  float ms = 0;
  C10_CUDA_CHECK(cudaEventElapsedTime(&ms, event_of(first), event_of(second)));
  return ms;
}

void CudaQueue::add_into(Dtype dtype, void* into, const void* from, int64_t num_elems) {
  launch(device_, dtype, [&]<typename T>(T) {
    launch_add_into(static_cast<T*>(into), static_cast<const T*>(from), num_elems, stream());
  });
}

void CudaQueue::add_zeros(Dtype dtype, void* into, int64_t num_elems) {
  launch(device_, dtype, [&]<typename T>(T) {
    launch_add_zeros(static_cast<T*>(into), num_elems, stream());
  });
}

void CudaQueue::block_sums_of_squares(Dtype dtype, const void* values, int64_t num_elems,
                                      double* sums) {
  launch(device_, dtype, [&]<typename T>(T) {
    launch_block_sums_of_squares(static_cast<const T*>(values), num_elems, sums, stream());
  });
}

void CudaQueue::update_adamw(Dtype dtype, const UpdateArrays& arrays,
                             const AdamWFactors<double>& factors) {
  launch(device_, dtype, [&]<typename T>(T) {
    launch_update_adamw(arrays, factors.rounded_to<T>(), stream());
  });
}

void CudaQueue::update_sgd(Dtype dtype, const UpdateArrays& arrays,
                           const SgdFactors<double>& factors) {
  launch(device_, dtype, [&]<typename T>(T) {
    launch_update_sgd(arrays, factors.rounded_to<T>(), stream());
  });
}

void CudaQueue::record_change(Dtype dtype, const BufferChange& change, int64_t num_elems) {
  launch(device_, dtype, [&]<typename T>(T) { launch_record_change<T>(change, num_elems, stream()); });
}

void CudaQueue::mean_of_changed(Dtype dtype, void* result, const void* sums, const void* counts,
                                int64_t num_micro_batches, int64_t num_elems) {
  launch(device_, dtype, [&]<typename T>(T) {
    launch_mean_of_changed(static_cast<T*>(result), static_cast<const T*>(sums),
                           static_cast<const T*>(counts), num_micro_batches, num_elems, stream());
  });
}

void CudaQueue::round_to_bf16(float* to, const float* from, int64_t num_elems) {
  launch(device_, Dtype::kF32, [&](auto) { launch_round_to_bf16(to, from, num_elems, stream()); });
}

void CudaQueue::pack_bf16(uint16_t* to, const float* from, int64_t num_elems) {
  launch(device_, Dtype::kF32, [&](auto) { launch_pack_bf16(to, from, num_elems, stream()); });
}

void CudaQueue::unpack_bf16(float* to, const uint16_t* from, int64_t num_elems) {
  launch(device_, Dtype::kF32, [&](auto) { launch_unpack_bf16(to, from, num_elems, stream()); });
}

void CudaQueue::block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                             uint64_t* hashes) {
  check_block_hashes(bytes, num_bytes, block_bytes);
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
  launch_block_hashes(bytes, num_bytes, block_bytes, hashes, stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace lockstep::cuda
