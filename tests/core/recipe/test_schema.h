#pragma once
// A schema with two models and two data sets, and the smallest recipe that fits it.

#include <string>

#include "lockstep/core/recipe/loader.h"

namespace lockstep {

inline RecipeSchema test_schema() {
  RecipeSchema schema;
  schema.add_model("mlp",
                   {int_list_key("hidden", "widths of the hidden layers").at_least(1),
                    float_key("dropout", "share dropped").or_default(0.0).at_least(0).below(1)});
  schema.add_model("convnet", {bool_key("batch_norm", "after each convolution").or_default(false)});
  schema.add_data("tabular", {string_key("label", "name of the label column").or_default("label"),
                              int_key("loader_threads", "readers").or_default(1).outside_hash()});
  schema.add_data("images", {});
  return schema;
}

inline constexpr const char* kSmallRecipe = R"([model]
name = "mlp"
hidden = [16, 8]
[data]
name = "tabular"
[train]
epochs = 2
micro_batch_size = 4
micro_batches_per_step = 12
)";

inline Result<Recipe> parse(const std::string& text,
                            const std::vector<std::string>& overrides = {}) {
  return parse_recipe(test_schema(), text, "recipe.toml", overrides);
}

}  // namespace lockstep
