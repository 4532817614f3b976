#include "lockstep/core/model/registry.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>

#include "core/model/sample_specs.h"
#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// Defaults of the entry's keys.
KeyValues defaults_of(const ModelRegistry& registry, std::string_view name) {
  KeyValues values;
  for (const ModelEntry& entry : registry.entries())
    if (entry.name == name)
      for (const KeySpec& key : entry.own_keys)
        if (key.default_value) values.set(key.name, *key.default_value);
  return values;
}

TEST(ModelRegistry, MakesTheModelsItNames) {
  ModelRegistry registry = ModelRegistry::with_builtins();
  auto convnet = registry.make("convnet", defaults_of(registry, "convnet"), kFashion);
  ASSERT_TRUE(convnet.is_ok()) << convnet.status().to_string();
  EXPECT_EQ(convnet.value()->module().name(), "convnet");
  KeyValues own = defaults_of(registry, "mlp");
  own.set("hidden", std::vector<int64_t>{16});
  own.set("output", std::string("sigmoid"));
  auto mlp = registry.make("mlp", own, {.input_shape = {10}, .num_classes = 2});
  ASSERT_TRUE(mlp.is_ok()) << mlp.status().to_string();
  EXPECT_EQ(mlp.value()->module().parameters().back().numel(), 1);
}

TEST(ModelRegistry, TakesAModelOfTheUsersOwn) {
  ModelRegistry registry = ModelRegistry::with_builtins();
  registry.add(
      {.name = "mine",
       .own_keys = {},
       .make = [](const KeyValues&, const SampleSpec&) -> Result<std::unique_ptr<TrainableModel>> {
         auto linear = std::make_shared<torch::nn::LinearImpl>(2, 2);
         return make_classifier(
             linear, [linear](const at::Tensor& inputs) { return linear->forward(inputs); },
             LossKind::kSoftmaxCrossEntropy);
       }});
  EXPECT_TRUE(registry.make("mine", {}, kFashion).is_ok());
  EXPECT_THROW(registry.add({.name = "mine", .own_keys = {}, .make = {}}), UsageError);
}

TEST(ModelRegistry, NamesTheNearestModelForAnUnknownOne) {
  Status status = ModelRegistry::with_builtins().make("convnett", {}, kFashion).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("'convnett'"), HasSubstr("nearest is 'convnet'"),
                                      HasSubstr("mlp, convnet")));
}

}  // namespace
}  // namespace lockstep
