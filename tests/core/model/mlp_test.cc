#include "lockstep/core/model/mlp.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/module.h>

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const SampleSpec kTable{.input_shape = {10}, .num_classes = 2};

std::unique_ptr<TrainableModel> make(const MlpOptions& options) {
  at::manual_seed(1);
  return make_mlp(options, kTable).value();
}

std::vector<std::string> parameter_shapes(TrainableModel& model) {
  std::vector<std::string> out;
  for (const auto& item : model.module().named_parameters())
    out.push_back(item.key() + " " + c10::str(item.value().sizes()));
  return out;
}

TEST(Mlp, HasTheLayersAskedFor) {
  EXPECT_THAT(parameter_shapes(*make({.hidden = {7, 5}})),
              ElementsAre("0.weight [7, 10]", "0.bias [7]", "1.weight [5, 7]", "1.bias [5]",
                          "2.weight [2, 5]", "2.bias [2]"));
  EXPECT_THAT(parameter_shapes(*make({.loss = LossKind::kSigmoidBinaryCrossEntropy})),
              ElementsAre("0.weight [1, 10]", "0.bias [1]"));
}

TEST(Mlp, ComputesWhatThePlainLayersCompute) {
  auto model = make({.hidden = {7}});
  Batch batch{
      .inputs = at::randn({4, 10}), .targets = at::randint(2, {4}, at::kLong), .num_samples = 4};
  auto parameters = model->module().named_parameters();
  at::Tensor hidden =
      at::relu(at::linear(batch.inputs, parameters["0.weight"], parameters["0.bias"]));
  at::Tensor outputs = at::linear(hidden, parameters["1.weight"], parameters["1.bias"]);
  EXPECT_TRUE(model->loss(batch).equal(at::cross_entropy_loss(outputs, batch.targets)));
}

TEST(Mlp, FlattensImages) {
  at::manual_seed(1);
  auto model = make_mlp({.hidden = {4}}, {.input_shape = {1, 3, 5}, .num_classes = 3}).value();
  Batch batch{.inputs = at::randn({2, 1, 3, 5}),
              .targets = at::tensor({0, 2}, at::kLong),
              .num_samples = 2};
  EXPECT_EQ(model->evaluate(batch).num_samples, 2);
}

TEST(Mlp, DropsOutInTrainingAlone) {
  auto model = make({.hidden = {50}, .dropout = 0.5});
  Batch batch{
      .inputs = at::randn({4, 10}), .targets = at::randint(2, {4}, at::kLong), .num_samples = 4};
  model->set_training(true);
  EXPECT_NE(model->loss(batch).item<double>(), model->loss(batch).item<double>());
  model->set_training(false);
  EXPECT_EQ(model->loss(batch).item<double>(), model->loss(batch).item<double>());
}

TEST(Mlp, RefusesOptionsThatMakeNoSense) {
  EXPECT_EQ(make_mlp({.hidden = {5, 0}}, kTable).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(make_mlp({.dropout = 1}, kTable).status().code(), StatusCode::kInvalidArgument);
  Status status = make_mlp({.loss = LossKind::kSigmoidBinaryCrossEntropy},
                           {.input_shape = {10}, .num_classes = 3})
                      .status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("the data has 3"));
}

}  // namespace
}  // namespace lockstep
