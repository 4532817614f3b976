#include "lockstep/core/model/convnet.h"
#include "core/model/sample_specs.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <torch/nn/module.h>

namespace lockstep {
namespace {

using testing::HasSubstr;

std::unique_ptr<TrainableModel> make(const ConvnetOptions& options, uint64_t seed) {
  at::manual_seed(seed);
  at::set_num_threads(1);
  return make_convnet(options, kFashion).value();
}

int64_t num_parameters(TrainableModel& model) {
  int64_t sum = 0;
  for (const at::Tensor& parameter : model.module().parameters()) sum += parameter.numel();
  return sum;
}

Batch random_batch(int64_t size) {
  return {.inputs = at::randn({size, 1, 28, 28}),
          .targets = at::randint(10, {size}, at::kLong),
          .num_samples = size};
}

TEST(Convnet, HasItsNumberOfParameters) {
  EXPECT_EQ(num_parameters(*make({}, 1)), 421'642);
  EXPECT_EQ(num_parameters(*make({.batch_norm = true}, 1)), 421'642 + 2 * (32 + 64));
}

TEST(Convnet, ComputesWhatThePlainLayersCompute) {
  auto model = make({}, 1);
  Batch batch = random_batch(3);
  auto parameters = model->module().named_parameters();
  auto conv = [&](const at::Tensor& x, const std::string& name) {
    return at::max_pool2d(
        at::relu(at::conv2d(x, parameters[name + ".weight"], parameters[name + ".bias"], 1, 1)), 2);
  };
  auto linear = [&](const at::Tensor& x, const std::string& name) {
    return at::linear(x, parameters[name + ".weight"], parameters[name + ".bias"]);
  };
  at::Tensor x = conv(conv(batch.inputs, "conv1"), "conv2").flatten(1);
  at::Tensor outputs = linear(at::relu(linear(x, "linear1")), "linear2");
  at::Tensor expected = at::cross_entropy_loss(outputs, batch.targets);
  EXPECT_NEAR(model->loss(batch).item<double>(), expected.item<double>(), 1e-6);
}

TEST(Convnet, MeansTheSameInBothMemoryFormats) {
  auto row_major = make({}, 1), channels_last = make({}, 1);
  set_weight_format(channels_last->module(), at::MemoryFormat::ChannelsLast);
  Batch batch = random_batch(4);
  at::Tensor loss = row_major->loss(batch);
  loss.backward();
  Batch other = batch;
  other.inputs = to_memory_format(batch.inputs, at::MemoryFormat::ChannelsLast);
  at::Tensor other_loss = channels_last->loss(other);
  other_loss.backward();
  EXPECT_NEAR(loss.item<double>(), other_loss.item<double>(), 1e-5);
  auto gradients = row_major->module().named_parameters();
  for (const auto& item : channels_last->module().named_parameters())
    EXPECT_TRUE(at::allclose(item.value().grad(), gradients[item.key()].grad(), 1e-3, 1e-5))
        << item.key();
}

TEST(Convnet, IsMadeFromTheSeed) {
  auto a = make({}, 1), b = make({}, 1), c = make({}, 2);
  auto in_b = b->module().named_parameters(), in_c = c->module().named_parameters();
  for (const auto& item : a->module().named_parameters()) {
    EXPECT_TRUE(item.value().equal(in_b[item.key()])) << item.key();
    EXPECT_FALSE(item.value().equal(in_c[item.key()])) << item.key();
  }
}

TEST(Convnet, DropsOutInTrainingAlone) {
  auto model = make({.dropout = 0.5}, 1);
  Batch batch = random_batch(8);
  model->set_training(true);
  EXPECT_NE(model->loss(batch).item<double>(), model->loss(batch).item<double>());
  model->set_training(false);
  EXPECT_EQ(model->loss(batch).item<double>(), model->loss(batch).item<double>());
}

TEST(Convnet, KeepsBatchStatisticsInTrainingAlone) {
  auto model = make({.batch_norm = true}, 1);
  at::Tensor mean = model->module().named_buffers()["norm2.running_mean"];
  model->set_training(false);
  model->evaluate(random_batch(8));
  EXPECT_TRUE(mean.eq(0).all().item<bool>());
  model->set_training(true);
  (void)model->loss(random_batch(8));
  EXPECT_FALSE(mean.eq(0).all().item<bool>());
}

TEST(Convnet, RefusesWhatItCanNotWorkOn) {
  Status status = make_convnet({}, {.input_shape = {10}, .num_classes = 2}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("use mlp"));
  EXPECT_EQ(make_convnet({}, {.input_shape = {1, 3, 28}, .num_classes = 2}).status().code(),
            StatusCode::kInvalidArgument);
  for (double dropout : {-0.1, 1.0})
    EXPECT_EQ(make_convnet({.dropout = dropout}, kFashion).status().code(),
              StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lockstep
