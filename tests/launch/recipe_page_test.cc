// launch/RECIPE.md names every key that a recipe may have, with its default and what it may be.
#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/registry.h"
#include "lockstep/core/model/registry.h"
#include "lockstep/core/recipe/schema.h"

namespace lockstep {
namespace {

constexpr const char* kHead = R"(# The keys of a recipe
A recipe is a TOML file. `lockstep train` refuses a key that is not here, and prints every key with its value and where
that came from at the start of a run. Keys marked * are outside the recipe hash: no number depends on them.
)";

std::string number_text(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? cat(static_cast<int64_t>(value))
                                                              : cat(value);
}

// "an integer, at least 1"; "adamw or sgd".
std::string values_text(const KeySpec& key) {
  if (!key.allowed.empty()) return join(key.allowed, ", ");
  std::string text(key_type_name(key.type));
  if (key.list_length) text += cat(" of ", *key.list_length);
  if (std::isfinite(key.min))
    text += cat(key.is_min_open ? ", above " : ", at least ", number_text(key.min));
  if (std::isfinite(key.max))
    text += cat(key.is_max_open ? ", below " : ", at most ", number_text(key.max));
  return text;
}

std::string table_text(const std::string& title, const std::vector<KeySpec>& keys) {
  if (keys.empty()) return "";
  std::string text =
      cat("\n## ", title, "\n| key | default | values | meaning |\n|---|---|---|---|\n");
  for (const KeySpec& key : keys) {
    std::string initial =
        key.default_value ? cat("`", key_value_text(*key.default_value), "`") : "must be given";
    text += cat("| `", key.name, "`", key.is_in_hash ? "" : " *", " | ", initial, " | ",
                values_text(key), " | ", key.help, " |\n");
  }
  return text;
}

TEST(RecipePage, NamesEveryKey) {
  std::string expected = kHead;
  const RecipeSchema schema;
  for (const std::string& table : RecipeSchema::tables()) {
    expected += table_text(cat("[", table, "]"), schema.framework_keys(table));
    if (table == "model") {
      const ModelRegistry models = ModelRegistry::with_builtins();
      for (const ModelEntry& entry : models.entries())
        expected += table_text(cat("[model] of `", entry.name, "`"), entry.own_keys);
    }
    if (table == "data") {
      const DatasetRegistry data = DatasetRegistry::with_builtins();
      for (const DatasetEntry& entry : data.entries())
        expected += table_text(cat("[data] of `", entry.name, "`"), entry.own_keys);
    }
  }
  auto found = read_whole_file(posix_file_system(), LOCKSTEP_RECIPE_PAGE, 1 << 20);
  if (found.is_ok() && *found == expected) return;
  std::string fresh = path_join(::testing::TempDir(), "RECIPE.md");
  ASSERT_TRUE(
      write_and_sync_file(posix_file_system(), fresh, expected, OpenMode::kTruncate).is_ok());
  FAIL() << LOCKSTEP_RECIPE_PAGE << " is not what the code says; copy " << fresh << " over it";
}

}  // namespace
}  // namespace lockstep
