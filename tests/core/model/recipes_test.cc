// The recipes that are shipped name models, data sets and keys that there are.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/registry.h"
#include "lockstep/core/data/sampler.h"
#include "lockstep/core/data/tabular.h"
#include "lockstep/core/model/registry.h"
#include "lockstep/core/recipe/loader.h"

namespace lockstep {
namespace {

Recipe load(const std::string& name) {
  RecipeSchema schema;
  const ModelRegistry models = ModelRegistry::with_builtins();
  const DatasetRegistry data = DatasetRegistry::with_builtins();
  for (const ModelEntry& entry : models.entries()) schema.add_model(entry.name, entry.own_keys);
  for (const DatasetEntry& entry : data.entries()) schema.add_data(entry.name, entry.own_keys);
  std::string path = path_join(LOCKSTEP_RECIPES_DIR, name);
  Result<Recipe> recipe = load_recipe(schema, posix_file_system(), path, {});
  EXPECT_TRUE(recipe.is_ok()) << recipe.status().to_string();
  return std::move(recipe).value();
}

TEST(ShippedRecipes, FashionMnistMakesItsModelAndRunsOnOneToEightRanks) {
  Recipe recipe = load("fashion_mnist.toml");
  EXPECT_EQ(recipe.global_batch(), 128);
  EXPECT_EQ(recipe.train().micro_batches_per_step, 8);
  EXPECT_EQ(recipe.data().name, "fashion_mnist");
  auto model = ModelRegistry::with_builtins().make(recipe.model().name, recipe.model().own,
                                                   {.input_shape = {1, 28, 28}, .num_classes = 10});
  EXPECT_TRUE(model.is_ok()) << model.status().to_string();
}

TEST(ShippedRecipes, TabularMakesItsModelForItsTable) {
  Recipe recipe = load("tabular.toml");
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/t.csv", make_tabular_csv(1000, 10, 1), OpenMode::kTruncate)
                  .is_ok());
  Result<DatasetSplits> data =
      DatasetRegistry::with_builtins().open(recipe.data().name, fs, "/t.csv", recipe.data().own);
  ASSERT_TRUE(data.is_ok()) << data.status().to_string();
  EXPECT_EQ(data->train->num_samples(), 800);
  auto model = ModelRegistry::with_builtins().make(recipe.model().name, recipe.model().own,
                                                   data->train->spec());
  ASSERT_TRUE(model.is_ok()) << model.status().to_string();
  Result<Sampler> sampler =
      Sampler::make(800, recipe.train().micro_batch_size, recipe.train().micro_batches_per_step,
                    static_cast<uint64_t>(recipe.train().seed));
  ASSERT_TRUE(sampler.is_ok()) << sampler.status().to_string();
  EXPECT_EQ(sampler->steps_per_epoch(), 50);
}

}  // namespace
}  // namespace lockstep
