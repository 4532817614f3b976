#pragma once
// relu(max_pool2d(x, 2)) in one pass each way.

#include <ATen/core/Tensor.h>

namespace lockstep {

/// Exactly the values and gradients of at::relu(at::max_pool2d(x, 2)), NaN included; only
/// selections are made, so they are equal bit for bit. Shapes: x [b, c, y, x] to [b, c, y/2, x/2].
/// Fast for float32 on the CPU in channels-last format with even sides and one intra-op thread;
/// anything else goes to the library. Cost: the input is not kept for the backward pass, one byte
/// an output is.
at::Tensor max_pool_relu(const at::Tensor& x_bcyx);

}  // namespace lockstep
