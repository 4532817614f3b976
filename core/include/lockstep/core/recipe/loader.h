#pragma once
// Reading recipes: TOML text and overrides, checked against a schema. Every mistake is reported at
// once, each with file and line (or the override), key, what was expected, what was found, and the
// nearest known name.

#include <span>
#include <string>
#include <string_view>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/status.h"
#include "lockstep/core/recipe/recipe.h"
#include "lockstep/core/recipe/schema.h"

namespace lockstep {

/// `overrides` are "table.key=value" with the value as in TOML, except that a string needs no
/// quotes; later ones win over earlier ones and over the text. `source` stands for the text in
/// messages and origins. Errors: kInvalidArgument: not TOML, unknown table or key, wrong type,
/// value out of range, a required key missing, keys that contradict each other.
Result<Recipe> parse_recipe(const RecipeSchema& schema, std::string_view text,
                            const std::string& source, std::span<const std::string> overrides);

/// Errors: those of parse_recipe, and of reading the file (kInvalidArgument when there is none, as
/// for any wrong flag).
Result<Recipe> load_recipe(const RecipeSchema& schema, FileSystem& fs, const std::string& path,
                           std::span<const std::string> overrides);

}  // namespace lockstep
