#pragma once
// TOML text as a flat list of what it sets. The library that parses it stays behind this header.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/recipe/key.h"

namespace lockstep {

struct TomlItem {
  std::string table;  ///< empty: outside of any table
  std::string key;    ///< empty: the table is there and holds nothing
  std::optional<KeyValue>
      value;  ///< nothing: something that no key can be (a date, a table, a mixed list)
  std::string description;  ///< for messages: "the integer 3", "a date"
  int line = 0;
};

/// In the order of the text. Errors: kInvalidArgument "source:line: not valid TOML: ...".
Result<std::vector<TomlItem>> read_toml(std::string_view text, const std::string& source);

/// The item that `text` stands for as a value (key and table empty), or nothing when it is not a
/// TOML value.
std::optional<TomlItem> read_toml_value(std::string_view text);

}  // namespace lockstep
