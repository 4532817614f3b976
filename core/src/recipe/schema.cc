#include "lockstep/core/recipe/schema.h"

#include "framework_keys.h"

namespace lockstep {

namespace {

std::vector<std::string> names_of(const std::map<std::string, std::vector<KeySpec>>& items) {
  std::vector<std::string> names;
  for (const auto& [name, specs] : items) names.push_back(name);
  return names;
}

}  // namespace

void RecipeSchema::add_model(const std::string& name, std::vector<KeySpec> own_keys) {
  add("model", name, std::move(own_keys));
}

void RecipeSchema::add_data(const std::string& name, std::vector<KeySpec> own_keys) {
  add("data", name, std::move(own_keys));
}

void RecipeSchema::add(const std::string& table, const std::string& name,
                       std::vector<KeySpec> own_keys) {
  LOCKSTEP_CHECK(!name.empty(), "a name for ", table, ".name must not be empty");
  for (const KeySpec& own : own_keys) {
    for (const FrameworkKey& fixed : all_framework_keys())
      LOCKSTEP_CHECK(fixed.table != table || fixed.spec.name != own.name, table, " \"", name,
                     "\" has a key of its own called \"", own.name,
                     "\", which is a key of the framework");
  }
  const bool is_new = own_keys_[table].emplace(name, std::move(own_keys)).second;
  LOCKSTEP_CHECK(is_new, table, " \"", name, "\" is in the schema already");
}

const std::vector<std::string>& RecipeSchema::tables() {
  static const std::vector<std::string> tables = {"model",    "data", "train", "optimizer",
                                                  "schedule", "clip", "eval",  "checkpoint"};
  return tables;
}

std::vector<KeySpec> RecipeSchema::framework_keys(const std::string& table) const {
  std::vector<KeySpec> specs;
  const auto own = own_keys_.find(table);
  for (const FrameworkKey& key : all_framework_keys()) {
    if (key.table != table) continue;
    specs.push_back(key.spec);
    if (key.spec.name == "name" && own != own_keys_.end())
      specs.back().one_of(names_of(own->second));
  }
  return specs;
}

std::vector<KeySpec> RecipeSchema::keys(const std::string& table, const std::string& name) const {
  std::vector<KeySpec> specs = framework_keys(table);
  if (!is_known(table, name)) return specs;
  const auto& own = own_keys_.at(table).at(name);
  specs.insert(specs.end(), own.begin(), own.end());
  return specs;
}

bool RecipeSchema::is_known(const std::string& table, const std::string& name) const {
  const auto found = own_keys_.find(table);
  return found != own_keys_.end() && found->second.contains(name);
}

}  // namespace lockstep
