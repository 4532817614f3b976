#pragma once
// The loops of max_pool_relu over channels-last memory, apart from LibTorch.

#include <cstdint>

#include "kernel_variants.h"

namespace lockstep {

/// Sizes of one pooling. Layout of all arrays: images of rows of pixels of channels, densely.
struct PoolShape {
  int64_t num_images = 0;
  int64_t in_height = 0;  ///< even
  int64_t in_width = 0;   ///< even
  int64_t num_channels = 0;
};

/// Which of the four inputs of a window an output came from, or that it is 0 because none was
/// positive.
enum WindowChoice : uint8_t { kTopLeft, kTopRight, kBottomLeft, kBottomRight, kNone };

/// `choices` gets a WindowChoice for each output. Requires: can_run(variant).
void max_pool_relu_forward(KernelVariant variant, PoolShape shape, const float* in, float* out,
                           uint8_t* choices);
/// Overwrites all of `in_grad`. Requires: can_run(variant).
void max_pool_relu_backward(KernelVariant variant, PoolShape shape, const float* out_grad,
                            const uint8_t* choices, float* in_grad);

}  // namespace lockstep
