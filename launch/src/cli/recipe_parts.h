#pragma once
// What the shipped models and data sets make of a recipe file.

#include <string>
#include <vector>

#include "lockstep/launch/trainer.h"

namespace lockstep {

/// Loads the recipe with its overrides and opens its data.
/// Errors: kInvalidArgument naming each key at fault; those of the data set and the file system.
Result<TrainerParts> load_parts(const std::string& recipe_path,
                                const std::vector<std::string>& overrides);

}  // namespace lockstep
