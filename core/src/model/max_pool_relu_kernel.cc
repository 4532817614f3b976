#include "max_pool_relu_kernel.h"

namespace lockstep {
namespace {

struct MaxPoolReluForward {
  [[gnu::always_inline]] static inline void run(PoolShape shape, const float* __restrict in,
                                                float* __restrict out,
                                                uint8_t* __restrict choices) {
    const int64_t channels = shape.num_channels, row = shape.in_width * channels;
    // Pairs of rows follow each other through all images.
    for (int64_t pair = 0; pair < shape.num_images * shape.in_height / 2; ++pair) {
      for (int64_t x = 0; x < shape.in_width / 2; ++x) {
        const float* top = in + 2 * pair * row + 2 * x * channels;
        for (int64_t c = 0; c < channels; ++c) {
          float best = top[c];
          int32_t choice = kTopLeft;
          auto consider = [&](float value, int32_t where) {
            // A NaN wins, as in the library.
            bool is_better = (value > best) | (value != value);
            best = is_better ? value : best;
            choice = is_better ? where : choice;
          };
          consider(top[channels + c], kTopRight);
          consider(top[row + c], kBottomLeft);
          consider(top[row + channels + c], kBottomRight);
          bool is_cut = best <= 0;
          out[c] = is_cut ? 0.0F : best;
          choices[c] = static_cast<uint8_t>(is_cut ? static_cast<int32_t>(kNone) : choice);
        }
        out += channels;
        choices += channels;
      }
    }
  }
};

struct MaxPoolReluBackward {
  [[gnu::always_inline]] static inline void run(PoolShape shape, const float* __restrict out_grad,
                                                const uint8_t* __restrict choices,
                                                float* __restrict in_grad) {
    const int64_t channels = shape.num_channels, row = shape.in_width * channels;
    for (int64_t pair = 0; pair < shape.num_images * shape.in_height / 2; ++pair) {
      for (int64_t x = 0; x < shape.in_width / 2; ++x) {
        float* top = in_grad + 2 * pair * row + 2 * x * channels;
        float* bottom = top + row;
        for (int64_t c = 0; c < channels; ++c) {
          float grad = out_grad[c];
          int32_t choice = choices[c];
          top[c] = choice == kTopLeft ? grad : 0.0F;
          top[channels + c] = choice == kTopRight ? grad : 0.0F;
          bottom[c] = choice == kBottomLeft ? grad : 0.0F;
          bottom[channels + c] = choice == kBottomRight ? grad : 0.0F;
        }
        out_grad += channels;
        choices += channels;
      }
    }
  }
};

}  // namespace

void max_pool_relu_forward(KernelVariant variant, PoolShape shape, const float* in, float* out,
                           uint8_t* choices) {
  run_kernel<MaxPoolReluForward>(variant, shape, in, out, choices);
}

void max_pool_relu_backward(KernelVariant variant, PoolShape shape, const float* out_grad,
                            const uint8_t* choices, float* in_grad) {
  run_kernel<MaxPoolReluBackward>(variant, shape, out_grad, choices, in_grad);
}

}  // namespace lockstep
