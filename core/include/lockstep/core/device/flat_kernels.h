#pragma once
// FlatKernels: the arithmetic that is done on flat memory, as one interface for the memory of
// the processor and that of a GPU. Every implementation gives the same bits: plain IEEE operations,
// each rounded once, in an order that depends on nothing but positions. Shapes and dtypes are the
// caller's word: arrays are F32 or F64 and `num_elems` long. Thread-safety: as the queue behind it.

#include <cstdint>

#include "lockstep/core/device/update_rules.h"
#include "lockstep/core/flat/dtype.h"

namespace lockstep {

/// One rule's arrays. `second` and `first` are the optimizer's slots in its order; null where the
/// rule has none.
struct UpdateArrays {
  void* param = nullptr;
  const void* grad = nullptr;
  void* first = nullptr;   ///< AdamW: exp_avg; SGD: momentum, or null
  void* second = nullptr;  ///< AdamW: exp_avg_sq
  int64_t num_elems = 0;
};

/// What one micro-batch did to module buffers.
struct BufferChange {
  const void* now = nullptr;     ///< [n] after it
  const void* before = nullptr;  ///< [n] as the step began
  void* sums = nullptr;          ///< [n] of the values
  void* counts = nullptr;        ///< [n] of the micro-batches that changed the element's bits
  bool is_first = true;          ///< sums and counts begin with it
};

class FlatKernels {
 public:
  virtual ~FlatKernels() = default;

  /// into[i] += from[i]. Requires: no overlap. Cost: memory bandwidth.
  virtual void add_into(Dtype dtype, void* into, const void* from, int64_t num_elems) = 0;
  /// into[i] += 0, which turns -0 into +0 as adding any zero does.
  virtual void add_zeros(Dtype dtype, void* into, int64_t num_elems) = 0;
  /// One sum of squares for each block of kBlockElems values, the last may be short, in the order
  /// of norms.h. Shapes: sums [ceil(num_elems / kBlockElems)], where the values are.
  virtual void block_sums_of_squares(Dtype dtype, const void* values, int64_t num_elems,
                                     double* sums) = 0;
  virtual void update_adamw(Dtype dtype, const UpdateArrays& arrays,
                            const AdamWFactors<double>& factors) = 0;
  virtual void update_sgd(Dtype dtype, const UpdateArrays& arrays,
                          const SgdFactors<double>& factors) = 0;
  virtual void record_change(Dtype dtype, const BufferChange& change, int64_t num_elems) = 0;
  /// result[i] = sums[i] / num_micro_batches where counts[i] is not 0; others keep their bits.
  virtual void mean_of_changed(Dtype dtype, void* result, const void* sums, const void* counts,
                               int64_t num_micro_batches, int64_t num_elems) = 0;

  /// to[i] = the bf16 nearest to from[i], as a float. `to` may be `from`.
  virtual void round_to_bf16(float* to, const float* from, int64_t num_elems) = 0;
  /// The same as bf16s; exact for what round_to_bf16 has rounded. Requires: no overlap.
  virtual void pack_bf16(uint16_t* to, const float* from, int64_t num_elems) = 0;
  /// Exact. Requires: no overlap.
  virtual void unpack_bf16(float* to, const uint16_t* from, int64_t num_elems) = 0;

  /// xxh3_64() of each block of `block_bytes` bytes; the last may be short. Shapes: hashes
  /// [ceil(num_bytes / block_bytes)], where the bytes are. Requires: as check_block_hashes. Cost:
  /// memory bandwidth.
  virtual void block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                            uint64_t* hashes) = 0;
};

/// What block_hashes() takes, on every device: `bytes` at a multiple of 8; `num_bytes` and
/// `block_bytes` multiples of kTensorAlignBytes, as every block of a flat space is. Shorter inputs
/// have other functions in XXH3, which no state needs on a GPU. Errors: UsageError.
void check_block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes);

}  // namespace lockstep
