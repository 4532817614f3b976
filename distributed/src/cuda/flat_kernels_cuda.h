#pragma once
// The loops of FlatKernels as CUDA launches, on a stream. Same bits as on the host: the same
// operations in the same order, no contraction (-fmad=false), no atomics. Launches only; errors of
// a launch come out of cudaGetLastError() of the caller.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "lockstep/core/device/flat_kernels.h"

namespace lockstep::cuda {

template <typename T>
void launch_add_into(T* into, const T* from, int64_t num_elems, cudaStream_t stream);
template <typename T>
void launch_add_zeros(T* into, int64_t num_elems, cudaStream_t stream);
template <typename T>
void launch_block_sums_of_squares(const T* values, int64_t num_elems, double* sums,
                                  cudaStream_t stream);
template <typename T>
void launch_update_adamw(const UpdateArrays& arrays, const AdamWFactors<T>& factors,
                         cudaStream_t stream);
template <typename T>
void launch_update_sgd(const UpdateArrays& arrays, const SgdFactors<T>& factors,
                       cudaStream_t stream);
template <typename T>
void launch_record_change(const BufferChange& change, int64_t num_elems, cudaStream_t stream);
template <typename T>
void launch_mean_of_changed(T* result, const T* sums, const T* counts, int64_t num_micro_batches,
                            int64_t num_elems, cudaStream_t stream);
void launch_round_to_bf16(float* to, const float* from, int64_t num_elems, cudaStream_t stream);
void launch_pack_bf16(uint16_t* to, const float* from, int64_t num_elems, cudaStream_t stream);
void launch_unpack_bf16(float* to, const uint16_t* from, int64_t num_elems, cudaStream_t stream);
void launch_block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                         uint64_t* hashes, cudaStream_t stream);

}  // namespace lockstep::cuda
