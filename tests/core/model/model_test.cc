// Covers: model.cc, classifier.cc
#include "lockstep/core/model/model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <cmath>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

/// A classifier that hands its inputs on as outputs.
std::unique_ptr<TrainableModel> identity_model(LossKind loss) {
  return make_classifier(
      std::make_shared<torch::nn::LinearImpl>(1, 1),
      [](const at::Tensor& inputs) { return inputs; }, loss);
}

Batch batch_of(const at::Tensor& inputs, const std::vector<int64_t>& targets) {
  return {.inputs = inputs,
          .targets = at::tensor(targets, at::kLong),
          .num_samples = static_cast<int64_t>(targets.size())};
}

TEST(Classifier, SoftmaxLossAndCountsAreTheTextbooks) {
  auto model = identity_model(LossKind::kSoftmaxCrossEntropy);
  Batch batch = batch_of(
      at::tensor({0.0, 0.0, std::log(3.0), 0.0, 5.0, 9.0}, at::kFloat).view({3, 2}), {0, 1, 1});
  double expected_sum = std::log(2.0) + std::log(4.0) + std::log1p(std::exp(-4.0));
  EXPECT_NEAR(model->loss(batch).item<double>(), expected_sum / 3, 1e-6);
  EvalCounts counts = model->evaluate(batch);
  EXPECT_EQ(counts.num_samples, 3);
  EXPECT_EQ(counts.num_correct, 2) << "a tie goes to the first class";
  EXPECT_NEAR(counts.loss_sum, expected_sum, 3e-6);
}

TEST(Classifier, SigmoidLossAndCountsAreTheTextbooks) {
  auto model = identity_model(LossKind::kSigmoidBinaryCrossEntropy);
  Batch batch = batch_of(at::tensor({0.0, 2.0, -3.0, 4.0}, at::kFloat).view({4, 1}), {0, 1, 0, 0});
  double expected_sum = std::log(2.0) + std::log1p(std::exp(-2.0)) + std::log1p(std::exp(-3.0)) +
                        4 + std::log1p(std::exp(-4.0));
  EXPECT_NEAR(model->loss(batch).item<double>(), expected_sum / 4, 1e-6);
  EvalCounts counts = model->evaluate(batch);
  EXPECT_EQ(counts.num_correct, 3);
  EXPECT_NEAR(counts.loss_sum, expected_sum, 4e-6);
}

TEST(Classifier, RefusesSeveralOutputsForASigmoid) {
  auto model = identity_model(LossKind::kSigmoidBinaryCrossEntropy);
  EXPECT_THROW((void)model->loss(batch_of(at::zeros({2, 2}), {0, 1})), UsageError);
}

TEST(Classifier, EvaluatesWithoutAGraph) {
  auto linear = std::make_shared<torch::nn::LinearImpl>(2, 2);
  bool saw_grad_mode = true;
  auto model = make_classifier(
      linear,
      [&, linear](const at::Tensor& inputs) {
        saw_grad_mode = at::GradMode::is_enabled();
        return linear->forward(inputs);
      },
      LossKind::kSoftmaxCrossEntropy);
  Batch batch = batch_of(at::ones({2, 2}), {0, 1});
  model->evaluate(batch);
  EXPECT_FALSE(saw_grad_mode);
  EXPECT_TRUE(model->loss(batch).requires_grad());
  EXPECT_TRUE(saw_grad_mode);
}

TEST(TrainableModel, SwitchesItsModuleBetweenTrainingAndEvaluation) {
  auto model = identity_model(LossKind::kSoftmaxCrossEntropy);
  model->set_training(false);
  EXPECT_FALSE(model->module().is_training());
  model->set_training(true);
  EXPECT_TRUE(model->module().is_training());
}

TEST(SetWeightFormat, RearrangesConvolutionsAndKeepsValues) {
  torch::nn::Conv2dImpl one_channel(torch::nn::Conv2dOptions(1, 4, 3));
  torch::nn::Conv2dImpl conv(torch::nn::Conv2dOptions(2, 4, 3));
  for (auto* module : {&one_channel, &conv}) {
    at::Tensor before = module->weight.detach().clone();
    set_weight_format(*module, at::MemoryFormat::ChannelsLast);
    EXPECT_TRUE(module->weight.equal(before));
    EXPECT_EQ(module->weight.suggest_memory_format(), at::MemoryFormat::ChannelsLast);
    EXPECT_TRUE(module->weight.requires_grad());
    set_weight_format(*module, at::MemoryFormat::Contiguous);
    EXPECT_TRUE(module->weight.equal(before));
    EXPECT_EQ(module->weight.suggest_memory_format(), at::MemoryFormat::Contiguous);
  }
}

}  // namespace
}  // namespace lockstep
