#include "lockstep/core/model/model.h"

#include <torch/nn/module.h>

namespace lockstep {

void TrainableModel::set_training(bool is_training) {
  module().train(is_training);
}

void move_to(const std::string& device, torch::nn::Module& module) {
  module.to(at::Device(device));
}

void set_weight_format(torch::nn::Module& module, at::MemoryFormat format) {
  for (at::Tensor& parameter : module.parameters())
    parameter.set_data(to_memory_format(parameter.data(), format));
}

}  // namespace lockstep
