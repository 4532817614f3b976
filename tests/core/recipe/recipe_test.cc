// The resolved recipe: its text, its hash, its differences from another.
// Covers: framework_keys.cc schema.cc toml_reader.cc
#include "lockstep/core/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "test_schema.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Recipe recipe_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  auto recipe = parse(text, overrides);
  EXPECT_TRUE(recipe.is_ok()) << recipe.status().to_string();
  return *recipe;
}

Recipe hashable(Recipe recipe) {
  EXPECT_TRUE(recipe.resolve_total_steps(100).is_ok());
  if (recipe.data().identity.empty()) {
    EXPECT_TRUE(recipe.set_data_identity("table of 1000").is_ok());
  }
  return recipe;
}

std::vector<std::string> values_of(const Recipe& recipe) {
  std::vector<std::string> out;
  for (const ResolvedKey& key : recipe.keys())
    out.push_back(key.full_name() + " = " + key_value_text(key.value));
  return out;
}

/// A value that the spec allows and that is not `current`, as text for --set.
std::string other_value(const ResolvedKey& key) {
  const KeySpec& spec = key.spec;
  if (spec.name == "keep_best") return "min:loss";
  if (spec.name == "keep_for") return "36h";
  switch (spec.type) {
    case KeyType::kInt:
      return std::to_string(std::get<int64_t>(key.value) + 1);
    case KeyType::kFloat: {
      const double value = std::get<double>(key.value);
      return key_value_text(KeyValue(value == 0 ? 0.5 : value / 2));
    }
    case KeyType::kBool:
      return std::get<bool>(key.value) ? "false" : "true";
    case KeyType::kString:
      for (const auto& name : spec.allowed) {
        if (name != std::get<std::string>(key.value)) return name;
      }
      return "something else";
    case KeyType::kIntList:
      return "[1, 2, 3]";
    case KeyType::kFloatList:
      return "[0.25, 0.75]";
  }
  return {};
}

TEST(RecipeText, IsCompleteAndShowsOrigins) {
  const std::string text = recipe_of(kSmallRecipe, {"train.seed=8"}).text();
  EXPECT_THAT(text, HasSubstr("[model]\nname = \"mlp\"                            # recipe.toml:2\n"
                              "hidden = [16, 8]                        # recipe.toml:3\n"
                              "dropout = 0.0                           # default\n\n[data]\n"));
  EXPECT_THAT(text, HasSubstr("seed = 8                                # --set\n"));
  EXPECT_THAT(text, HasSubstr("betas = [0.9, 0.999]                    # default\n"));
  for (const auto& table : RecipeSchema::tables())
    EXPECT_THAT(text, HasSubstr("[" + table + "]\n"));
}

TEST(RecipeText, LoadsBackToAnEqualRecipe) {
  std::mt19937_64 generator(11);
  const Recipe small = recipe_of(kSmallRecipe);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> overrides;
    for (const ResolvedKey& key : small.keys()) {
      const std::set<std::string> leave = {"model.name", "data.name", "train.steps",
                                           "checkpoint.keep_best", "checkpoint.every"};
      if (generator() % 2 == 0 || leave.contains(key.full_name())) continue;
      std::string value = other_value(key);
      if (key.spec.type == KeyType::kFloat && std::get<double>(key.value) > 0) {
        const double shrunk =
            std::get<double>(key.value) / static_cast<double>(generator() % 1000 + 1);
        value = key_value_text(KeyValue(shrunk));
      }
      if (key.full_name() == "schedule.total_steps") value = "77";  // leaves room for the warm-up
      if (key.full_name() == "data.path") value = "\"odd \\\" \\\\ \\u0007 \\u00e9\"";
      overrides.push_back(key.full_name() + "=" + value);
    }
    Recipe recipe = recipe_of(kSmallRecipe, overrides);
    if (round % 2 == 0) recipe = hashable(recipe);
    const Recipe again = recipe_of(recipe.text());
    ASSERT_EQ(values_of(again), values_of(recipe));
    ASSERT_EQ(again.canonical_text(), recipe.canonical_text());
  }
}

TEST(RecipeText, AnOriginWithOddCharactersStaysAComment) {
  const auto recipe = parse_recipe(test_schema(), kSmallRecipe, "evil\nseed = 9\x01", {});
  ASSERT_TRUE(recipe.is_ok());
  EXPECT_EQ(recipe_of(recipe->text()).train().seed, TrainRecipe{}.seed);
}

TEST(RecipeHash, ChangesWithEachKeyInItAndWithNoOther) {
  for (const std::string& base :
       {std::string(kSmallRecipe), kSmallRecipe + std::string("[schedule]\nname = \"linear\""),
        std::string("[model]\nname = \"convnet\"\n[data]\nname = \"images\"\n[train]\n"
                    "epochs = 1\nmicro_batch_size = 2\nmicro_batches_per_step = 3\n")}) {
    const Recipe recipe = hashable(recipe_of(base));
    int num_in_hash = 0;
    for (const ResolvedKey& key : recipe.keys()) {
      std::vector<std::string> overrides = {key.full_name() + "=" + other_value(key)};
      if (key.full_name() == "train.steps") overrides.push_back("train.epochs=0");
      if (key.full_name() == "checkpoint.keep_best")
        overrides.push_back("checkpoint.every_epochs=1");
      if (key.full_name() == "checkpoint.every") overrides.push_back("checkpoint.mtbf_hours=24");
      if (key.full_name() == "model.name") {
        const bool is_mlp = recipe.model().name == "mlp";
        overrides = {is_mlp ? "model.name=convnet" : "model.name=mlp"};
      }
      std::string text = base;
      if (overrides[0] == "model.name=convnet")
        text.erase(text.find("hidden"), text.find("[data]") - text.find("hidden"));
      if (overrides[0] == "model.name=mlp") overrides.push_back("model.hidden=[1]");
      const Recipe other = hashable(recipe_of(text, overrides));
      EXPECT_EQ(other.hash() != recipe.hash(), key.spec.is_in_hash)
          << key.full_name() << " " << overrides[0];
      EXPECT_EQ(differing_keys(test_schema(), recipe.text(), other.text())->empty(),
                !key.spec.is_in_hash)
          << key.full_name();
      num_in_hash += key.spec.is_in_hash ? 1 : 0;
    }
    EXPECT_GT(num_in_hash, 20);
  }
}

TEST(RecipeHash, LeavesOutWhatTheDesignLeavesOut) {
  const Recipe small = recipe_of(kSmallRecipe);
  std::vector<std::string> outside;
  for (const ResolvedKey& key : small.keys()) {
    if (!key.spec.is_in_hash) outside.push_back(key.full_name());
  }
  EXPECT_THAT(
      outside,
      ElementsAre("data.path", "data.loader_threads", "train.steps", "train.epochs",
                  "train.device", "train.bucket_mib", "train.timeout_s", "eval.every_epochs", "checkpoint.every_steps",
                  "checkpoint.every_epochs", "checkpoint.mode", "checkpoint.when_busy",
                  "checkpoint.io", "checkpoint.staging_mib", "checkpoint.max_write_mib_per_s",
                  "checkpoint.read_back", "checkpoint.keep_latest", "checkpoint.keep_every_steps",
                  "checkpoint.keep_best", "checkpoint.keep_for", "checkpoint.every",
                  "checkpoint.mtbf_hours", "checkpoint.max_overhead", "checkpoint.grace_s",
                  "checkpoint.timeout_s"));
}

TEST(RecipeHash, IsTheSameForTheSameValuesFromAnotherPlace) {
  const Recipe from_text = hashable(recipe_of(kSmallRecipe + std::string("seed = 5\n")));
  const Recipe from_override = hashable(recipe_of(kSmallRecipe, {"train.seed=5"}));
  EXPECT_EQ(from_text.hash(), from_override.hash());
  EXPECT_EQ(from_text.hash().size(), 32u);
}

TEST(RecipeHash, NeedsWhatOnlyTheRunKnows) {
  Recipe recipe = recipe_of(kSmallRecipe, {"schedule.name=cosine"});
  EXPECT_THROW(recipe.hash(), UsageError);
  EXPECT_TRUE(recipe.set_data_identity("x").is_ok());
  EXPECT_THROW(recipe.hash(), UsageError);
  EXPECT_TRUE(recipe.resolve_total_steps(10).is_ok());
  EXPECT_EQ(recipe.hash().size(), 32u);
}

TEST(Recipe, TheLengthOfTheRunCountsWhereTheScheduleUsesIt) {
  Recipe cosine = recipe_of(kSmallRecipe, {"schedule.name=cosine"});
  EXPECT_EQ(cosine.run_length_steps(25), 50);
  EXPECT_TRUE(cosine.resolve_total_steps(cosine.run_length_steps(25)).is_ok());
  EXPECT_EQ(cosine.schedule().total_steps, 50);
  EXPECT_THAT(cosine.text(),
              HasSubstr("total_steps = 50                        # length of the run\n"));
  EXPECT_TRUE(cosine.resolve_total_steps(99).is_ok());
  EXPECT_EQ(cosine.schedule().total_steps, 50) << "resolved once";
  Recipe constant = recipe_of(kSmallRecipe, {"train.epochs=0", "train.steps=7"});
  EXPECT_EQ(constant.run_length_steps(25), 7);
  EXPECT_TRUE(constant.resolve_total_steps(7).is_ok());
  EXPECT_EQ(constant.schedule().total_steps, 0)
      << "a longer run with a constant rate is the same recipe";
}

TEST(Recipe, AWarmUpLongerThanTheRunIsRefused) {
  Recipe recipe = recipe_of(kSmallRecipe, {"schedule.name=linear", "schedule.warmup_steps=50"});
  const Status status = recipe.resolve_total_steps(50);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "schedule.warmup_steps is 50, but must be less than schedule.total_steps, which is 50");
}

TEST(Recipe, ADataIdentityThatTheRecipeNamesMustBeFound) {
  Recipe recipe = recipe_of(kSmallRecipe, {"data.identity=expected", "data.path=/d.csv"});
  EXPECT_TRUE(recipe.set_data_identity("expected").is_ok());
  const Status status = recipe.set_data_identity("found");
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("\"expected\""));
  EXPECT_THAT(status.message(), HasSubstr("\"found\""));
  EXPECT_THAT(status.message(), HasSubstr("/d.csv"));
}

TEST(DifferingKeys, AreThoseThatChangeNumbers) {
  const std::string text = recipe_of(kSmallRecipe).text();
  const auto differing = [&](const std::vector<std::string>& overrides) {
    return differing_keys(test_schema(), text, recipe_of(kSmallRecipe, overrides).text()).value();
  };
  EXPECT_THAT(differing({}), IsEmpty());
  EXPECT_THAT(differing({"data.path=/x", "train.bucket_mib=1", "data.loader_threads=2"}),
              IsEmpty());
  EXPECT_THAT(differing({"train.seed=2", "optimizer.betas=[0.8, 0.9]"}),
              ElementsAre("optimizer.betas", "train.seed"));
  EXPECT_THAT(differing_keys(test_schema(), text + "new_key = 1\n", text).value(),
              ElementsAre("checkpoint.new_key"));
  EXPECT_THAT(differing_keys(test_schema(), text, "[elsewhere]\nx = 1\n" + text).value(),
              ElementsAre("elsewhere.x"));
  EXPECT_EQ(differing_keys(test_schema(), text, "not toml").status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lockstep
