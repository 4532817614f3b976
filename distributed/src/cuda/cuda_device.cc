#include "cuda_device.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/version.h>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/layout.h"
#include "nccl_communicator.h"

namespace lockstep::cuda {

static_assert(kBlockElems == 16384, "flat_kernels.cu sums blocks of this many elements");

CudaDevice::CudaDevice(int index, const Log& log)
    : index_(index),
      name_(cat("cuda:", index)),
      log_(log),
      events_(std::make_shared<EventPool>(index)),
      compute_(index, StreamKind::kOfLibTorch, events_),
      communication_(index, StreamKind::kOwnWithPriority, events_),
      staging_(index, StreamKind::kOwn, events_) {
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties_, index_));
}

std::map<std::string, std::string> CudaDevice::facts() const {
  int runtime = 0;
  C10_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  const at::CUDAHooksInterface& hooks = at::detail::getCUDAHooks();
  return {{"GPU", cat(properties_.name, " sm_", properties_.major, properties_.minor, " with ",
                      properties_.multiProcessorCount, " multiprocessors")},
          {"CUDA", cat(runtime / 1000, ".", runtime % 1000 / 10)},
          {"cuDNN", hooks.hasCuDNN() ? cat(hooks.versionCuDNN()) : "none"},
          {"NCCL", nccl_version_text()}};
}

DeviceMemory CudaDevice::allocate(size_t num_bytes) {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(index_));
  if (num_bytes == 0) return {};
  auto* data = static_cast<std::byte*>(c10::cuda::CUDACachingAllocator::raw_alloc(num_bytes));
  DeviceMemory memory(data, num_bytes,
                      [](std::byte* freed) { c10::cuda::CUDACachingAllocator::raw_delete(freed); });
  C10_CUDA_CHECK(cudaMemset(data, 0, num_bytes));
  C10_CUDA_CHECK(cudaDeviceSynchronize());  // once, at the start: every queue finds zeros
  return memory;
}

// What can't be pinned is copied all the same, only slower.
void CudaDevice::pin(std::span<std::byte> host_memory) {
  const cudaError_t error =
      cudaHostRegister(host_memory.data(), host_memory.size(), cudaHostRegisterDefault);
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  log_.warn(cat("host memory of ", host_memory.size(),
                " bytes can't be pinned, copies from and to ", name_,
                " will be slow: ", cudaGetErrorString(error)));
}

void CudaDevice::unpin(std::span<std::byte> host_memory) {
  if (cudaHostUnregister(host_memory.data()) != cudaSuccess) static_cast<void>(cudaGetLastError());
}

DeviceMemoryUse CudaDevice::memory_use() const {
  using c10::CachingDeviceAllocator::StatType;
  const auto stats =
      c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(index_));
  const auto all = static_cast<size_t>(StatType::AGGREGATE);
  return {.in_use = static_cast<uint64_t>(stats.allocated_bytes[all].current),
          .peak_in_use = static_cast<uint64_t>(stats.allocated_bytes[all].peak),
          .reserved = static_cast<uint64_t>(stats.reserved_bytes[all].current),
          .total = properties_.totalGlobalMem,
          .num_times_full = static_cast<uint64_t>(stats.num_ooms)};
}

Result<std::unique_ptr<Communicator>> CudaDevice::connect(World& world, Deadline deadline) {
  if (world.world_size() == 1) return std::unique_ptr<Communicator>();
  // Memory may lack on one rank alone, and is voted on.
  auto barrier_bytes = caught(
      [&]() -> Result<DeviceMemory> { return allocate(static_cast<size_t>(world.world_size())); });
  return connect_nccl(world, communication_, std::move(barrier_bytes), log_, deadline);
}

}  // namespace lockstep::cuda
