#include "lockstep/core/data/batch.h"

#include <ATen/ops/as_strided.h>
#include <ATen/ops/contiguous.h>

#include <array>

namespace lockstep {

at::Tensor to_memory_format(const at::Tensor& tensor, at::MemoryFormat format) {
  if (tensor.dim() != 4) return tensor;
  at::Tensor dense = tensor.contiguous(format);
  int64_t channels = dense.size(1), height = dense.size(2), width = dense.size(3);
  // contiguous() returns a tensor as it is when both readings of its strides are right; say which
  // one is meant.
  std::array<int64_t, 4> strides = {channels * height * width, height * width, width, 1};
  if (format == at::MemoryFormat::ChannelsLast)
    strides = {channels * height * width, 1, width * channels, channels};
  if (dense.strides() == at::IntArrayRef(strides)) return dense;
  return dense.as_strided(dense.sizes(), strides);
}

}  // namespace lockstep
