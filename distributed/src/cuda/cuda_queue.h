#pragma once
// CudaQueue: a DeviceQueue that is a stream. That of compute is whatever stream LibTorch uses on the
// calling thread; others are streams of their own. Errors of CUDA come as c10::Error. Thread-safety:
// as DeviceQueue.

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <vector>

#include "lockstep/core/device/device.h"

namespace lockstep::cuda {

/// Events that are used again and again. Thread-safety: any thread.
class EventPool {
 public:
  explicit EventPool(int device) : device_(device) {}
  ~EventPool();
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;
  cudaEvent_t take();
  void give_back(cudaEvent_t event);

 private:
  int device_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

enum class StreamKind : uint8_t { kOfLibTorch, kOwn, kOwnWithPriority };

class CudaQueue final : public DeviceQueue {
 public:
  CudaQueue(int device, StreamKind kind, std::shared_ptr<EventPool> events);
  ~CudaQueue() override;
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;

  cudaStream_t stream() const;
  int device() const { return device_; }

  void copy(void* to, const void* from, size_t num_bytes) override;
  void fill_zero(void* to, size_t num_bytes) override;
  QueueMark mark() override;
  void wait_for(const QueueMark& mark) override;
  Result<bool> has_passed(const QueueMark& mark) override;
  double ms_between(const QueueMark& first, const QueueMark& second) override;

  void add_into(Dtype dtype, void* into, const void* from, int64_t num_elems) override;
  void add_zeros(Dtype dtype, void* into, int64_t num_elems) override;
  void block_sums_of_squares(Dtype dtype, const void* values, int64_t num_elems,
                             double* sums) override;
  void update_adamw(Dtype dtype, const UpdateArrays& arrays,
                    const AdamWFactors<double>& factors) override;
  void update_sgd(Dtype dtype, const UpdateArrays& arrays,
                  const SgdFactors<double>& factors) override;
  void record_change(Dtype dtype, const BufferChange& change, int64_t num_elems) override;
  void mean_of_changed(Dtype dtype, void* result, const void* sums, const void* counts,
                       int64_t num_micro_batches, int64_t num_elems) override;
  void round_to_bf16(float* to, const float* from, int64_t num_elems) override;
  void pack_bf16(uint16_t* to, const float* from, int64_t num_elems) override;
  void unpack_bf16(float* to, const uint16_t* from, int64_t num_elems) override;
  void block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                    uint64_t* hashes) override;

 private:
  int device_;
  StreamKind kind_;
  std::shared_ptr<EventPool> events_;
  cudaStream_t own_ = nullptr;
};

}  // namespace lockstep::cuda
