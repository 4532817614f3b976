#include <cstdint>

#include "flat_kernels_cuda.h"
#include "kernel_start.h"
#include "lockstep/core/device/bf16.h"

namespace lockstep::cuda {
namespace {

// Enough blocks to fill any GPU; longer arrays are walked in strides.
constexpr int64_t kMaxBlocks = 4096;
// As layout.h and norms.h say; checked against them in cuda_device.cc, which sees both.
constexpr int64_t kElemsOfBlock = 16384;
constexpr int kLanes = 16;

int grid_of(int64_t num_items) {
  const int64_t blocks = (num_items + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < 1 ? 1 : (blocks > kMaxBlocks ? kMaxBlocks : blocks));
}

// f(i) for each i, one thread an element, neighbours side by side.
template <typename F>
__global__ void for_each_elem(int64_t num_elems, F f) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < num_elems;
       i += stride)
    f(i);
}

template <typename F>
void launch_for_each(int64_t num_elems, cudaStream_t stream, F f) {
  if (num_elems <= 0) return;
  start(for_each_elem<F>, grid_of(num_elems), stream, num_elems, f);
}

// 16 bytes at a time: one load, one store.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kElems = 16 / sizeof(T);
  T elems[kElems];
};

template <typename T>
struct AddPacks {
  Pack<T>* into;
  const Pack<T>* from;
  __device__ void operator()(int64_t i) const {
    Pack<T> sum = into[i];
    const Pack<T> other = from[i];
#pragma unroll
    for (int k = 0; k < Pack<T>::kElems; ++k) sum.elems[k] = sum.elems[k] + other.elems[k];
    into[i] = sum;
  }
};

template <typename T>
struct AddElems {
  T* into;
  const T* from;
  __device__ void operator()(int64_t i) const { into[i] = into[i] + from[i]; }
};

template <typename T>
struct AddZeros {
  T* into;
  __device__ void operator()(int64_t i) const { into[i] = into[i] + T(0); }
};

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Sixteen threads a block of values: thread l adds elements l, l + 16, ... one after another, then
// the lanes are added pairwise, as SumOfSquares of core/src/flat/kernels.h does.
template <typename T>
__global__ void sum_squares_of_blocks(const T* values, int64_t num_elems, double* sums) {
  constexpr int kUnroll = 8;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t block = thread / kLanes;
  const int lane = static_cast<int>(thread % kLanes);
  const int64_t first = block * kElemsOfBlock;
  const bool has_block = first < num_elems;
  const int64_t left = num_elems - first;
  const int64_t count = has_block ? (left < kElemsOfBlock ? left : kElemsOfBlock) : 0;
  const T* mine = values + (has_block ? first : 0);
  double sum = 0;
  int64_t i = lane;
  for (; i + (kUnroll - 1) * kLanes < count; i += kUnroll * kLanes) {
    T loaded[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) loaded[k] = mine[i + k * kLanes];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
      const double value = static_cast<double>(loaded[k]);
      sum = sum + value * value;
    }
  }
  for (; i < count; i += kLanes) {
    const double value = static_cast<double>(mine[i]);
    sum = sum + value * value;
  }
  for (int half = kLanes / 2; half > 0; half /= 2)
    sum = sum + __shfl_down_sync(0xffffffffU, sum, half, kLanes);
  if (has_block && lane == 0) sums[block] = sum;
}

template <typename T>
struct UpdateAdamW {
  T* param;
  const T* grad;
  T* exp_avg;
  T* exp_avg_sq;
  AdamWFactors<T> factors;
  __device__ void operator()(int64_t i) const {
    T p = param[i], m = exp_avg[i], v = exp_avg_sq[i];
    update_adamw_elem(p, grad[i], m, v, factors);
    param[i] = p;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
  }
};

template <typename T>
struct UpdateSgdMomentum {
  T* param;
  const T* grad;
  T* momentum;
  SgdFactors<T> factors;
  __device__ void operator()(int64_t i) const {
    T p = param[i], m = momentum[i];
    update_sgd_momentum_elem(p, grad[i], m, factors);
    param[i] = p;
    momentum[i] = m;
  }
};

template <typename T>
struct UpdateSgd {
  T* param;
  const T* grad;
  SgdFactors<T> factors;
  __device__ void operator()(int64_t i) const {
    T p = param[i];
    update_sgd_elem(p, grad[i], factors);
    param[i] = p;
  }
};

__device__ bool has_same_bits(float a, float b) {
  return __float_as_uint(a) == __float_as_uint(b);
}
__device__ bool has_same_bits(double a, double b) {
  return __double_as_longlong(a) == __double_as_longlong(b);
}

template <typename T>
struct RecordChange {
  const T* now;
  const T* before;
  T* sums;
  T* counts;
  bool is_first;
  __device__ void operator()(int64_t i) const {
    const T changed = has_same_bits(now[i], before[i]) ? T(0) : T(1);
    sums[i] = is_first ? now[i] : sums[i] + now[i];
    counts[i] = is_first ? changed : counts[i] + changed;
  }
};

template <typename T>
struct MeanOfChanged {
  T* result;
  const T* sums;
  const T* counts;
  T num_micro_batches;
  __device__ void operator()(int64_t i) const {
    if (counts[i] != T(0)) result[i] = sums[i] / num_micro_batches;
  }
};

// No __restrict__: `to` may be `from`.
struct RoundToBf16 {
  float* to;
  const float* from;
  __device__ void operator()(int64_t i) const { to[i] = float_of_bf16_bits(bf16_bits(from[i])); }
};

// Two at a time, so that neighbouring threads fill whole sectors with 16-bit values.
struct PackBf16Pairs {
  ushort2* to;
  const float2* from;
  __device__ void operator()(int64_t i) const {
    const float2 pair = from[i];
    to[i] = make_ushort2(bf16_bits(pair.x), bf16_bits(pair.y));
  }
};

struct PackBf16 {
  uint16_t* to;
  const float* from;
  __device__ void operator()(int64_t i) const { to[i] = bf16_bits(from[i]); }
};

struct UnpackBf16Pairs {
  float2* to;
  const ushort2* from;
  __device__ void operator()(int64_t i) const {
    const ushort2 pair = from[i];
    to[i] = make_float2(float_of_bf16_bits(pair.x), float_of_bf16_bits(pair.y));
  }
};

struct UnpackBf16 {
  float* to;
  const uint16_t* from;
  __device__ void operator()(int64_t i) const { to[i] = float_of_bf16_bits(from[i]); }
};

}  // namespace

template <typename T>
void launch_add_into(T* into, const T* from, int64_t num_elems, cudaStream_t stream) {
  int64_t done = 0;
  if (is_aligned(into) && is_aligned(from)) {
    const int64_t num_packs = num_elems / Pack<T>::kElems;
    launch_for_each(num_packs, stream,
                    AddPacks<T>{reinterpret_cast<Pack<T>*>(into),
                                reinterpret_cast<const Pack<T>*>(from)});
    done = num_packs * Pack<T>::kElems;
  }
  launch_for_each(num_elems - done, stream, AddElems<T>{into + done, from + done});
}

template <typename T>
void launch_add_zeros(T* into, int64_t num_elems, cudaStream_t stream) {
  launch_for_each(num_elems, stream, AddZeros<T>{into});
}

template <typename T>
void launch_block_sums_of_squares(const T* values, int64_t num_elems, double* sums,
                                  cudaStream_t stream) {
  if (num_elems <= 0) return;
  const int64_t num_blocks = (num_elems + kElemsOfBlock - 1) / kElemsOfBlock;
  const int64_t grid = (num_blocks * kLanes + kThreads - 1) / kThreads;
  start(sum_squares_of_blocks<T>, grid, stream, values, num_elems, sums);
}

template <typename T>
void launch_update_adamw(const UpdateArrays& arrays, const AdamWFactors<T>& factors,
                         cudaStream_t stream) {
  launch_for_each(arrays.num_elems, stream,
                  UpdateAdamW<T>{static_cast<T*>(arrays.param), static_cast<const T*>(arrays.grad),
                                 static_cast<T*>(arrays.first), static_cast<T*>(arrays.second),
                                 factors});
}

template <typename T>
void launch_update_sgd(const UpdateArrays& arrays, const SgdFactors<T>& factors,
                       cudaStream_t stream) {
  T* param = static_cast<T*>(arrays.param);
  const T* grad = static_cast<const T*>(arrays.grad);
  if (arrays.first == nullptr) {
    launch_for_each(arrays.num_elems, stream, UpdateSgd<T>{param, grad, factors});
  } else {
    launch_for_each(
        arrays.num_elems, stream,
        UpdateSgdMomentum<T>{param, grad, static_cast<T*>(arrays.first), factors});
  }
}

template <typename T>
void launch_record_change(const BufferChange& change, int64_t num_elems, cudaStream_t stream) {
  launch_for_each(num_elems, stream,
                  RecordChange<T>{static_cast<const T*>(change.now),
                                  static_cast<const T*>(change.before),
                                  static_cast<T*>(change.sums), static_cast<T*>(change.counts),
                                  change.is_first});
}

template <typename T>
void launch_mean_of_changed(T* result, const T* sums, const T* counts, int64_t num_micro_batches,
                            int64_t num_elems, cudaStream_t stream) {
  launch_for_each(num_elems, stream,
                  MeanOfChanged<T>{result, sums, counts, static_cast<T>(num_micro_batches)});
}

void launch_round_to_bf16(float* to, const float* from, int64_t num_elems, cudaStream_t stream) {
  launch_for_each(num_elems, stream, RoundToBf16{to, from});
}

void launch_pack_bf16(uint16_t* to, const float* from, int64_t num_elems, cudaStream_t stream) {
  int64_t done = 0;
  if (is_aligned(to) && is_aligned(from)) {
    launch_for_each(num_elems / 2, stream,
                    PackBf16Pairs{reinterpret_cast<ushort2*>(to),
                                  reinterpret_cast<const float2*>(from)});
    done = num_elems / 2 * 2;
  }
  launch_for_each(num_elems - done, stream, PackBf16{to + done, from + done});
}

void launch_unpack_bf16(float* to, const uint16_t* from, int64_t num_elems, cudaStream_t stream) {
  int64_t done = 0;
  if (is_aligned(to) && is_aligned(from)) {
    launch_for_each(num_elems / 2, stream,
                    UnpackBf16Pairs{reinterpret_cast<float2*>(to),
                                    reinterpret_cast<const ushort2*>(from)});
    done = num_elems / 2 * 2;
  }
  launch_for_each(num_elems - done, stream, UnpackBf16{to + done, from + done});
}

#define LOCKSTEP_LAUNCHES(T)                                                                     \
  template void launch_add_into<T>(T*, const T*, int64_t, cudaStream_t);                         \
  template void launch_add_zeros<T>(T*, int64_t, cudaStream_t);                                  \
  template void launch_block_sums_of_squares<T>(const T*, int64_t, double*, cudaStream_t);       \
  template void launch_update_adamw<T>(const UpdateArrays&, const AdamWFactors<T>&,              \
                                       cudaStream_t);                                            \
  template void launch_update_sgd<T>(const UpdateArrays&, const SgdFactors<T>&, cudaStream_t);   \
  template void launch_record_change<T>(const BufferChange&, int64_t, cudaStream_t);             \
  template void launch_mean_of_changed<T>(T*, const T*, const T*, int64_t, int64_t, cudaStream_t);

LOCKSTEP_LAUNCHES(float)
LOCKSTEP_LAUNCHES(double)
#undef LOCKSTEP_LAUNCHES

}  // namespace lockstep::cuda
