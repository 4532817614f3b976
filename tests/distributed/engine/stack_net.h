#pragma once
// StackNet: layers of exactly one block of weights each, so that buckets of one block hold one
// layer. Something can be made to happen when backward reaches the first layer: after every other
// layer has its gradient.

#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include <functional>
#include <vector>

#include "lockstep/core/base/text.h"

namespace lockstep {

struct StackNetImpl : torch::nn::Module {
  static constexpr int64_t kWidth = 128;  // 128 * 128 = kBlockElems

  explicit StackNetImpl(int num_layers) {
    auto options = torch::nn::LinearOptions(kWidth, kWidth).bias(false);
    for (int i = 0; i < num_layers; ++i)
      layers.push_back(register_module(cat("layer", i), torch::nn::Linear(options)));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto h = layers[0](x);
    if (before_first_layer) {
      h.register_hook([this](const torch::Tensor&) { before_first_layer(); });
    }
    for (size_t i = 1; i < layers.size(); ++i) h = layers[i](torch::tanh(h));
    return h.square().mean();
  }

  std::vector<torch::nn::Linear> layers;
  std::function<void()> before_first_layer;  ///< in backward
};
TORCH_MODULE(StackNet);

}  // namespace lockstep
