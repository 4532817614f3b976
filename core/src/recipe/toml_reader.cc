// The only file that sees toml++.
#include "toml_reader.h"

// The parser asserts, or assumes, things that a malformed recipe can break ("[,]"), and then finds
// the mistake by itself in the next line: a bad recipe must be an error in every kind of build.
#undef NDEBUG
#define TOML_ASSERT(expr) static_assert(true)
#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

#include "lockstep/core/base/text.h"

namespace lockstep {

namespace {

std::optional<KeyValue> list_value(const toml::array& array) {
  std::vector<int64_t> integers;
  std::vector<double> floats;
  for (const auto& element : array) {
    if (const auto* integer = element.as_integer()) {
      integers.push_back(integer->get());
      floats.push_back(static_cast<double>(integer->get()));
    } else if (const auto* number = element.as_floating_point()) {
      floats.push_back(number->get());
    } else {
      return std::nullopt;
    }
  }
  if (integers.size() == array.size()) return integers;
  return floats;
}

TomlItem make_item(const toml::node& node) {
  TomlItem item;
  item.line = static_cast<int>(node.source().begin.line);
  if (const auto* integer = node.as_integer()) {
    item.value = integer->get();
    item.description = "the integer ";
  } else if (const auto* number = node.as_floating_point()) {
    item.value = number->get();
    item.description = "the number ";
  } else if (const auto* boolean = node.as_boolean()) {
    item.value = boolean->get();
  } else if (const auto* text = node.as_string()) {
    item.value = text->get();
    item.description = "the string ";
  } else if (const auto* array = node.as_array()) {
    item.value = list_value(*array);
    item.description = item.value ? "the list " : "a list of something else than numbers";
  } else {
    item.description = node.is_table() ? "a table" : "a date or time";
  }
  if (item.value) item.description += key_value_text(*item.value);
  return item;
}

}  // namespace

Result<std::vector<TomlItem>> read_toml(std::string_view text, const std::string& source) {
  toml::table root;
  try {
    root = toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    return invalid_argument_error(
        cat(source, ":", error.source().begin.line, ": not valid TOML: ", error.description()));
  }
  std::vector<TomlItem> items;
  for (const auto& [name, node] : root) {
    const auto* table = node.as_table();
    if (table == nullptr) {
      TomlItem item = make_item(node);
      // "seed = 1" above the first table is a key without a table; "train = 1" is a table that is
      // none.
      item.key = std::string(name.str());
      items.push_back(std::move(item));
      continue;
    }
    if (table->empty()) {
      TomlItem item = make_item(node);
      item.table = std::string(name.str());
      items.push_back(std::move(item));
    }
    for (const auto& [key, value] : *table) {
      TomlItem item = make_item(value);
      item.table = std::string(name.str());
      item.key = std::string(key.str());
      items.push_back(std::move(item));
    }
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const TomlItem& a, const TomlItem& b) { return a.line < b.line; });
  return items;
}

std::optional<TomlItem> read_toml_value(std::string_view text) {
  try {
    const toml::table root = toml::parse(cat("value = ", text));
    // A line break in the text could smuggle in further keys.
    if (root.size() != 1) return std::nullopt;
    const toml::node* node = root.get("value");
    if (node == nullptr) return std::nullopt;
    return make_item(*node);
  } catch (const toml::parse_error&) {
    return std::nullopt;
  }
}

}  // namespace lockstep
