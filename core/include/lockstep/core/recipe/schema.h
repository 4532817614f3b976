#pragma once
// RecipeSchema: all keys that a recipe may have: the framework's own, and those of each known model
// and data set, which are handed in by name, because this room knows no models. Thread-safety:
// values.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/recipe/key.h"

namespace lockstep {

class RecipeSchema {
 public:
  /// Makes `name` a value of model.name, with keys of its own in [model].
  /// Requires: a new name; no own key is called as a key of the framework's.
  void add_model(const std::string& name, std::vector<KeySpec> own_keys);
  /// The same for data.name and [data].
  void add_data(const std::string& name, std::vector<KeySpec> own_keys);

  /// Tables in the order in which they are printed.
  static const std::vector<std::string>& tables();
  /// The framework's keys of a table, without those of models and data sets.
  std::vector<KeySpec> framework_keys(const std::string& table) const;
  /// All keys of a table; `name` is the value of model.name or data.name and has no meaning for
  /// other tables. An unknown name has no keys of its own.
  std::vector<KeySpec> keys(const std::string& table, const std::string& name) const;
  /// Whether `name` is a known model or data set.
  bool is_known(const std::string& table, const std::string& name) const;

 private:
  void add(const std::string& table, const std::string& name, std::vector<KeySpec> own_keys);
  std::map<std::string, std::map<std::string, std::vector<KeySpec>>> own_keys_;  // table, name
};

}  // namespace lockstep
