#pragma once
// CudaDevice: one GPU of this process. Memory comes from LibTorch's allocator, so its statistics
// and its account of what is full cover ours. Must not know: NCCL.

#include <map>
#include <memory>
#include <string>

#include "cuda_queue.h"
#include "lockstep/core/base/log.h"
#include "lockstep/distributed/accelerator.h"

namespace lockstep::cuda {

class CudaDevice final : public Accelerator {
 public:
  /// Requires: a device of that index.
  CudaDevice(int index, const Log& log);

  std::string_view name() const override { return name_; }
  bool is_host() const override { return false; }
  std::map<std::string, std::string> facts() const override;
  DeviceQueue& compute() override { return compute_; }
  DeviceQueue& communication() override { return communication_; }
  DeviceQueue& staging() override { return staging_; }
  DeviceMemory allocate(size_t num_bytes) override;
  void pin(std::span<std::byte> host_memory) override;
  void unpin(std::span<std::byte> host_memory) override;
  DeviceMemoryUse memory_use() const override;
  Result<std::unique_ptr<Communicator>> connect(World& world, Deadline deadline) override;

 private:
  int index_;
  std::string name_;
  cudaDeviceProp properties_{};
  Log log_;
  std::shared_ptr<EventPool> events_;
  CudaQueue compute_, communication_, staging_;
};

}  // namespace lockstep::cuda
