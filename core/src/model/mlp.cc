#include "lockstep/core/model/mlp.h"

#include <torch/nn/modules/linear.h>

#include <functional>
#include <numeric>
#include <utility>

#include "lockstep/core/base/text.h"

#include <ATen/ops/dropout.h>
#include <ATen/ops/relu.h>

namespace lockstep {
namespace {

// Shapes: b samples, i inputs, h width of a hidden layer, o outputs.
class MlpModule final : public torch::nn::Module {
 public:
  MlpModule(int64_t num_inputs, const std::vector<int64_t>& hidden, int64_t num_outputs,
            double dropout)
      : torch::nn::Module("mlp"), dropout_(dropout) {
    int64_t width = num_inputs;
    for (int64_t next : hidden) {
      add_layer(width, next);
      width = next;
    }
    add_layer(width, num_outputs);
  }

  at::Tensor forward(const at::Tensor& inputs) {
    at::Tensor x_bh = inputs.flatten(1);
    for (size_t i = 0; i + 1 < layers_.size(); ++i) {
      x_bh = at::relu(layers_[i](x_bh));
      if (dropout_ > 0) x_bh = at::dropout(x_bh, dropout_, is_training());
    }
    return layers_.back()(x_bh);
  }

 private:
  void add_layer(int64_t num_inputs, int64_t num_outputs) {
    layers_.push_back(
        register_module(cat(layers_.size()), torch::nn::Linear(num_inputs, num_outputs)));
  }

  std::vector<torch::nn::Linear> layers_;
  double dropout_;
};

}  // namespace

Result<std::unique_ptr<TrainableModel>> make_mlp(const MlpOptions& options,
                                                 const SampleSpec& spec) {
  for (int64_t width : options.hidden)
    if (width < 1)
      return invalid_argument_error(
          cat("mlp: a hidden layer needs at least 1 unit, found ", width));
  if (!(options.dropout >= 0 && options.dropout < 1))
    return invalid_argument_error(cat("mlp: dropout must be in [0, 1), found ", options.dropout));
  bool is_sigmoid = options.loss == LossKind::kSigmoidBinaryCrossEntropy;
  if (is_sigmoid && spec.num_classes != 2)
    return invalid_argument_error(cat("mlp: a sigmoid output tells 2 classes apart, the data has ",
                                      spec.num_classes, "; use output = \"softmax\""));
  int64_t num_inputs = std::accumulate(spec.input_shape.begin(), spec.input_shape.end(), int64_t{1},
                                       std::multiplies<>());
  auto module = std::make_shared<MlpModule>(num_inputs, options.hidden,
                                            is_sigmoid ? 1 : spec.num_classes, options.dropout);
  auto forward = [raw = module.get()](const at::Tensor& inputs) { return raw->forward(inputs); };
  return make_classifier(std::move(module), std::move(forward), options.loss);
}

}  // namespace lockstep
