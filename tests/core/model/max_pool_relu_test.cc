#include "max_pool_relu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>

#include "lockstep/core/data/batch.h"
#include "max_pool_relu_kernel.h"

namespace lockstep {
namespace {

bool equal_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() &&
         a.contiguous().view(at::kInt).equal(b.contiguous().view(at::kInt));
}

/// Multiples of 1/2 in [-2, 2]: windows with ties, and windows without a positive value, are
/// common.
at::Tensor coarse_values(at::IntArrayRef sizes) {
  return at::randint(-4, 5, sizes, at::kFloat) / 2 + 0.0;
}

void expect_like_library(const at::Tensor& values, at::MemoryFormat format) {
  at::Tensor ours = to_memory_format(values.clone(), format).requires_grad_(true);
  at::Tensor theirs = to_memory_format(values.clone(), format).requires_grad_(true);
  at::Tensor our_out = max_pool_relu(ours);
  at::Tensor their_out = at::relu(at::max_pool2d(theirs, 2));
  EXPECT_TRUE(equal_bits(our_out, their_out));
  at::Tensor out_grad = at::randn(their_out.sizes());
  our_out.backward(out_grad);
  their_out.backward(out_grad);
  EXPECT_TRUE(equal_bits(ours.grad(), theirs.grad()));
  // The common order, activation before the pool, has the same values and gradients.
  at::Tensor usual = to_memory_format(values.clone(), format).requires_grad_(true);
  at::Tensor usual_out = at::max_pool2d(at::relu(usual), 2);
  EXPECT_TRUE(equal_bits(our_out, usual_out));
  usual_out.backward(out_grad);
  EXPECT_TRUE(equal_bits(ours.grad(), usual.grad()));
}

class MaxPoolRelu : public testing::Test {
 protected:
  MaxPoolRelu() {
    at::set_num_threads(1);
    at::manual_seed(1);
  }
};

TEST_F(MaxPoolRelu, EqualsTheLibraryBitForBit) {
  for (int64_t channels : {1, 3, 16, 32, 37, 64})
    for (int64_t height : {2, 4, 14})
      for (int64_t width : {2, 6, 28})
        for (int64_t num_images : {1, 3}) {
          std::vector<int64_t> sizes = {num_images, channels, height, width};
          expect_like_library(coarse_values(sizes), at::MemoryFormat::ChannelsLast);
          expect_like_library(at::randn(sizes), at::MemoryFormat::ChannelsLast);
        }
}

TEST_F(MaxPoolRelu, EqualsTheLibraryWhereItIsNotFast) {
  expect_like_library(coarse_values({2, 3, 4, 4}), at::MemoryFormat::Contiguous);
  expect_like_library(coarse_values({2, 3, 5, 7}), at::MemoryFormat::ChannelsLast);
}

TEST_F(MaxPoolRelu, LetsNotANumberThrough) {
  // A loss that is not finite must stay visible: the step loop looks for it.
  for (int64_t place = 0; place < 4; ++place) {
    at::Tensor values = at::full({1, 20, 2, 2}, 1.0F);
    values.view({20, 4}).select(1, place).fill_(std::numeric_limits<float>::quiet_NaN());
    at::Tensor out = max_pool_relu(to_memory_format(values, at::MemoryFormat::ChannelsLast));
    EXPECT_TRUE(out.isnan().all().item<bool>()) << place;
  }
}

TEST_F(MaxPoolRelu, EqualsItselfOnEveryInstructionSet) {
  PoolShape shape{.num_images = 2, .in_height = 4, .in_width = 6, .num_channels = 37};
  at::Tensor in = coarse_values({2, 4, 6, 37}), out_grad = at::randn({2, 2, 3, 37});
  auto run = [&](KernelVariant variant) {
    at::Tensor out = at::empty({2, 2, 3, 37}), in_grad = at::empty({2, 4, 6, 37});
    at::Tensor choices = at::empty({2, 2, 3, 37}, at::kByte);
    max_pool_relu_forward(variant, shape, in.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                          choices.mutable_data_ptr<uint8_t>());
    max_pool_relu_backward(variant, shape, out_grad.const_data_ptr<float>(),
                           choices.const_data_ptr<uint8_t>(), in_grad.mutable_data_ptr<float>());
    return std::pair(out, in_grad);
  };
  auto [out, in_grad] = run(KernelVariant::kBaseline);
  for (KernelVariant variant : {KernelVariant::kAvx2, KernelVariant::kAvx512}) {
    if (!can_run(variant)) continue;
    auto [other_out, other_in_grad] = run(variant);
    EXPECT_TRUE(equal_bits(out, other_out));
    EXPECT_TRUE(equal_bits(in_grad, other_in_grad));
  }
}

}  // namespace
}  // namespace lockstep
