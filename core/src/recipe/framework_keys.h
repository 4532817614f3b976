#pragma once
// The framework's own keys: one list that holds spec, default and the typed field of each.

#include <string>
#include <vector>

#include "lockstep/core/recipe/recipe.h"

namespace lockstep {

struct FrameworkKey {
  std::string table;
  KeySpec spec;
  /// Puts a value of the spec's type into its field.
  void (*store)(RecipeTables& tables, const KeyValue& value);
};

const std::vector<FrameworkKey>& all_framework_keys();

}  // namespace lockstep
