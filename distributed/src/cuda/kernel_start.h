#pragma once
// How the .cu files start kernels. For them alone: it takes what nvcc includes by itself.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace lockstep::cuda {

inline constexpr int kThreads = 256;

/// Starts threads of one dimension, kThreads a block. Its error comes out of cudaGetLastError(). A
/// call instead of <<<>>>, so that a processor's compiler takes the files, too (tests/emulated_gpu).
template <typename Kernel, typename... Args>
void start(Kernel* kernel, int64_t num_blocks, cudaStream_t stream, Args... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(num_blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, args...));
}

}  // namespace lockstep::cuda
