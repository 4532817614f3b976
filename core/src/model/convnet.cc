#include "lockstep/core/model/convnet.h"

#include <ATen/ops/dropout.h>
#include <ATen/ops/relu.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <utility>

#include "lockstep/core/base/text.h"
#include "max_pool_relu.h"

namespace lockstep {
namespace {

constexpr int64_t kChannels1 = 32;
constexpr int64_t kChannels2 = 64;
constexpr int64_t kHidden = 128;

// Shapes: b samples, c channels, y rows, x columns, f features.
class ConvnetModule final : public torch::nn::Module {
 public:
  ConvnetModule(int64_t channels, int64_t height, int64_t width, int64_t num_classes,
                const ConvnetOptions& options)
      : torch::nn::Module("convnet"), dropout_(options.dropout) {
    conv1_ = register_module("conv1", convolution(channels, kChannels1));
    if (options.batch_norm) norm1_ = register_module("norm1", torch::nn::BatchNorm2d(kChannels1));
    conv2_ = register_module("conv2", convolution(kChannels1, kChannels2));
    if (options.batch_norm) norm2_ = register_module("norm2", torch::nn::BatchNorm2d(kChannels2));
    int64_t num_features = kChannels2 * (height / 4) * (width / 4);
    linear1_ = register_module("linear1", torch::nn::Linear(num_features, kHidden));
    linear2_ = register_module("linear2", torch::nn::Linear(kHidden, num_classes));
  }

  at::Tensor forward(const at::Tensor& inputs) {
    at::Tensor x_bcyx = stage(inputs, conv1_, norm1_);
    x_bcyx = stage(x_bcyx, conv2_, norm2_);
    at::Tensor x_bf = at::relu(linear1_(x_bcyx.flatten(1)));
    if (dropout_ > 0) x_bf = at::dropout(x_bf, dropout_, is_training());
    return linear2_(x_bf);
  }

 private:
  static torch::nn::Conv2d convolution(int64_t num_inputs, int64_t num_outputs) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(num_inputs, num_outputs, 3).padding(1));
  }

  // ReLU after the pool instead of before it: the same values and gradients (both are monotone), on
  // a quarter of the elements (DESIGN.md).
  static at::Tensor stage(const at::Tensor& x_bcyx, torch::nn::Conv2d& conv,
                          torch::nn::BatchNorm2d& norm) {
    at::Tensor y_bcyx = conv(x_bcyx);
    if (norm) y_bcyx = norm(y_bcyx);
    return max_pool_relu(y_bcyx);
  }

  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d norm1_{nullptr};
  torch::nn::Conv2d conv2_{nullptr};
  torch::nn::BatchNorm2d norm2_{nullptr};
  torch::nn::Linear linear1_{nullptr};
  torch::nn::Linear linear2_{nullptr};
  double dropout_;
};

}  // namespace

Result<std::unique_ptr<TrainableModel>> make_convnet(const ConvnetOptions& options,
                                                     const SampleSpec& spec) {
  const std::vector<int64_t>& shape = spec.input_shape;
  if (shape.size() != 3 || shape[1] < 4 || shape[2] < 4)
    return invalid_argument_error(
        cat("convnet: expected inputs of channels x height x width, both at least 4, found ",
            shape.size(), " dimensions; use mlp for flat inputs"));
  if (!(options.dropout >= 0 && options.dropout < 1))
    return invalid_argument_error(
        cat("convnet: dropout must be in [0, 1), found ", options.dropout));
  auto module =
      std::make_shared<ConvnetModule>(shape[0], shape[1], shape[2], spec.num_classes, options);
  auto forward = [raw = module.get()](const at::Tensor& inputs) { return raw->forward(inputs); };
  return make_classifier(std::move(module), std::move(forward), LossKind::kSoftmaxCrossEntropy);
}

}  // namespace lockstep
