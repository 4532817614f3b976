#pragma once
// Batch: the samples of one micro-batch (or one evaluation batch) as tensors.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace lockstep {

/// Shapes: b samples; `inputs` [b, input shape...] float32, `targets` [b] int64 (class indices).
/// Ownership: the tensors share their memory with nothing else; the receiver may change them in
/// place.
struct Batch {
  at::Tensor inputs;
  at::Tensor targets;
  int64_t num_samples = 0;
};

/// `tensor` with the strides of `format`, also where they are ambiguous: LibTorch takes [b,1,h,w]
/// for row-major and would choose row-major kernels for it. Other than 4-d tensors stay as they
/// are. Cost: a copy, unless there is one channel or the strides are right already.
at::Tensor to_memory_format(const at::Tensor& tensor, at::MemoryFormat format);

}  // namespace lockstep
