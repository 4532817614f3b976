#pragma once
// LOCKSTEP_HOST_DEVICE: before a function that is compiled for the processor and for a GPU.

#if defined(__CUDACC__)
#define LOCKSTEP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LOCKSTEP_HOST_DEVICE [[gnu::always_inline]] inline
#endif
