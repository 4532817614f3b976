#pragma once
// OddNet: a small module with everything that makes data parallelism hard: tied weights, a frozen
// layer, BatchNorm, dropout, an F64 head, and a parameter that only some micro-batches use.

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

namespace lockstep {

struct OddNetImpl : torch::nn::Module {
  OddNetImpl() {
    first = register_module("first", torch::nn::Linear(torch::nn::LinearOptions(12, 160)));
    norm = register_module("norm", torch::nn::BatchNorm1d(160));
    middle = register_module("middle", torch::nn::Linear(torch::nn::LinearOptions(160, 160)));
    frozen = register_module("frozen", torch::nn::Linear(torch::nn::LinearOptions(160, 160)));
    for (auto& parameter : frozen->parameters()) parameter.set_requires_grad(false);
    tied = register_parameter("tied", middle->weight);
    sometimes = register_parameter("sometimes", torch::full({160}, 0.5));
    never = register_parameter("never", torch::ones({3}));
    head = register_parameter("head", torch::randn({160, 4}, torch::kDouble));
    dropout = register_module("dropout", torch::nn::Dropout(0.25));
  }
  torch::Tensor forward(const torch::Tensor& x, bool use_sometimes) {
    auto h = torch::relu(norm(first(x)));
    h = dropout(torch::relu(middle(h)));
    h = frozen(h) + torch::matmul(h, tied);
    if (use_sometimes) h = h * sometimes;
    return torch::matmul(h.to(torch::kDouble), head);
  }
  torch::nn::Linear first{nullptr}, middle{nullptr}, frozen{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::Dropout dropout{nullptr};
  torch::Tensor tied, sometimes, never, head;
};
TORCH_MODULE(OddNet);

}  // namespace lockstep
