// make_classifier: loss and evaluation for modules whose targets are classes.

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/nn/module.h>

#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/model/model.h"

namespace lockstep {
namespace {

class Classifier final : public TrainableModel {
 public:
  Classifier(std::shared_ptr<torch::nn::Module> module,
             std::function<at::Tensor(const at::Tensor&)> forward, LossKind loss_kind)
      : module_(std::move(module)), forward_(std::move(forward)), loss_kind_(loss_kind) {}

  torch::nn::Module& module() override { return *module_; }

  at::Tensor loss(const Batch& batch) override {
    return mean_loss(forward_(batch.inputs), batch.targets);
  }

  EvalCounts evaluate(const Batch& batch) override {
    at::NoGradGuard no_grad;
    at::Tensor outputs = forward_(batch.inputs);
    double mean = mean_loss(outputs, batch.targets).item<double>();
    return {.num_correct = predictions(outputs).eq(batch.targets).sum().item<int64_t>(),
            .num_samples = batch.num_samples,
            .loss_sum = mean * static_cast<double>(batch.num_samples)};
  }

 private:
  at::Tensor mean_loss(const at::Tensor& outputs, const at::Tensor& targets) const {
    if (loss_kind_ == LossKind::kSoftmaxCrossEntropy)
      return at::cross_entropy_loss(outputs, targets);
    LOCKSTEP_CHECK(outputs.dim() == 2 && outputs.size(1) == 1,
                   "a sigmoid loss needs outputs [b, 1], found ", outputs.dim(),
                   " dimensions, the last of ", outputs.size(-1));
    return at::binary_cross_entropy_with_logits(outputs.squeeze(1),
                                                targets.to(outputs.scalar_type()));
  }

  at::Tensor predictions(const at::Tensor& outputs) const {
    if (loss_kind_ == LossKind::kSoftmaxCrossEntropy) return outputs.argmax(1);
    return outputs.squeeze(1).gt(0).to(at::kLong);
  }

  std::shared_ptr<torch::nn::Module> module_;
  std::function<at::Tensor(const at::Tensor&)> forward_;
  LossKind loss_kind_;
};

}  // namespace

std::unique_ptr<TrainableModel> make_classifier(
    std::shared_ptr<torch::nn::Module> module, std::function<at::Tensor(const at::Tensor&)> forward,
    LossKind loss_kind) {
  LOCKSTEP_CHECK(module != nullptr && forward != nullptr,
                 "make_classifier needs a module and a forward function");
  return std::make_unique<Classifier>(std::move(module), std::move(forward), loss_kind);
}

}  // namespace lockstep
