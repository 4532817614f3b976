#pragma once
// One key of a recipe: its type, what values it may have, whether it is part of the recipe hash.
// The framework, each model and each data set describe their keys in these types; the loader checks
// recipes against them. Thread-safety: values.

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

enum class KeyType : uint8_t { kInt, kFloat, kBool, kString, kIntList, kFloatList };
/// The alternatives stand in the order of KeyType.
using KeyValue =
    std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>>;

/// "an integer", "a list of numbers", ...
std::string_view key_type_name(KeyType type);
/// The value as TOML; floats in the shortest form that reads back to the same bits.
std::string key_value_text(const KeyValue& value);

/// What a key means and what it may be. Made with int_key() and its siblings, then narrowed down:
///   float_key("dropout", "share of units dropped in
///   training").or_default(0.0).at_least(0).below(1)
struct KeySpec {
  std::string name;  ///< within its table: "seed"
  KeyType type = KeyType::kInt;
  std::string help;                       ///< one line for people
  std::optional<KeyValue> default_value;  ///< nothing: the recipe must give one
  double min =
      -std::numeric_limits<double>::infinity();  ///< of numbers, and of each number of a list
  double max = std::numeric_limits<double>::infinity();
  bool is_min_open = false;  ///< min itself is not allowed
  bool is_max_open = false;
  std::vector<std::string> allowed;   ///< of strings; empty: any
  std::optional<size_t> list_length;  ///< of lists; nothing: any
  bool is_in_hash = true;             ///< false: the numbers of training do not depend on it

  /// An integer default for a float key is made a float. Requires: the key's type.
  KeySpec& or_default(KeyValue value);
  KeySpec& at_least(double value);
  KeySpec& above(double value);
  KeySpec& at_most(double value);
  KeySpec& below(double value);
  KeySpec& one_of(std::vector<std::string> names);
  KeySpec& of_length(size_t length);
  KeySpec& outside_hash();
};

KeySpec int_key(std::string name, std::string help);
KeySpec float_key(std::string name, std::string help);
KeySpec bool_key(std::string name, std::string help);
KeySpec string_key(std::string name, std::string help);
KeySpec int_list_key(std::string name, std::string help);
KeySpec float_list_key(std::string name, std::string help);

/// `value` in the key's type: integers become floats where the key is a float. Errors:
/// kInvalidArgument that goes on after the key's name: "must be at least 1, found 0".
Result<KeyValue> check_key_value(const KeySpec& spec, const KeyValue& value);

/// Values by name: what a model or a data set gets of its own keys. Asking for a name or type that
/// its specs don't have is a mistake of the program and throws UsageError.
class KeyValues {
 public:
  void set(std::string name, KeyValue value) { values_[std::move(name)] = std::move(value); }
  int64_t get_int(const std::string& name) const { return get<int64_t>(name); }
  double get_float(const std::string& name) const { return get<double>(name); }
  bool get_bool(const std::string& name) const { return get<bool>(name); }
  const std::string& get_string(const std::string& name) const { return get<std::string>(name); }
  const std::vector<int64_t>& get_int_list(const std::string& name) const {
    return get<std::vector<int64_t>>(name);
  }
  const std::vector<double>& get_float_list(const std::string& name) const {
    return get<std::vector<double>>(name);
  }
  const std::map<std::string, KeyValue>& all() const { return values_; }

 private:
  template <typename T>
  const T& get(const std::string& name) const {
    const auto found = values_.find(name);
    LOCKSTEP_CHECK(found != values_.end(), "no key \"", name, "\" among the specs");
    LOCKSTEP_CHECK(std::holds_alternative<T>(found->second), "key \"", name,
                   "\" has another type: ", key_value_text(found->second));
    return std::get<T>(found->second);
  }
  std::map<std::string, KeyValue> values_;
};

}  // namespace lockstep
