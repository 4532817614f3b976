#include "lockstep/core/recipe/key.h"

#include <algorithm>
#include <cmath>

#include "lockstep/core/base/text.h"

namespace lockstep {

namespace {

// TOML tells floats from integers by their look.
std::string float_text(double value) {
  std::string text = cat(value);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code < 0x20 || code == 0x7f) {
      out += "\\u" + hex64(code).substr(12);
    } else {
      out += c;
    }
  }
  return out + '"';
}

template <typename T>
std::string list_text(const std::vector<T>& values) {
  std::vector<std::string> parts;
  for (const T& value : values) parts.push_back(key_value_text(KeyValue(value)));
  return cat("[", join(parts, ", "), "]");
}

KeySpec make_spec(KeyType type, std::string name, std::string help) {
  KeySpec spec;
  spec.name = std::move(name);
  spec.type = type;
  spec.help = std::move(help);
  return spec;
}

// The value in the key's type, or nothing when the types don't go together.
std::optional<KeyValue> convert(KeyType type, const KeyValue& value) {
  if (value.index() == static_cast<size_t>(type)) return value;
  if (const auto* number = std::get_if<int64_t>(&value); number && type == KeyType::kFloat)
    return static_cast<double>(*number);
  if (const auto* numbers = std::get_if<std::vector<int64_t>>(&value)) {
    if (type == KeyType::kFloatList) return std::vector<double>(numbers->begin(), numbers->end());
  }
  // An empty list has no type of its own.
  if (const auto* numbers = std::get_if<std::vector<double>>(&value)) {
    if (type == KeyType::kIntList && numbers->empty()) return std::vector<int64_t>();
  }
  return std::nullopt;
}

// Bounds are printed as people write them: "1", not "1.0".
std::string bounds_text(const KeySpec& spec) {
  std::vector<std::string> parts;
  if (std::isfinite(spec.min))
    parts.push_back(cat(spec.is_min_open ? "greater than " : "at least ", spec.min));
  if (std::isfinite(spec.max))
    parts.push_back(cat(spec.is_max_open ? "less than " : "at most ", spec.max));
  return join(parts, " and ");
}

template <typename T>
Status check_number(const KeySpec& spec, T value, std::string_view must_be) {
  if constexpr (std::is_same_v<T, double>) {
    if (!std::isfinite(value)) return invalid_argument_error(cat(must_be, "finite, found ", value));
  }
  const auto number = static_cast<double>(value);
  const bool is_low = number < spec.min || (spec.is_min_open && number == spec.min);
  const bool is_high = number > spec.max || (spec.is_max_open && number == spec.max);
  if (is_low || is_high)
    return invalid_argument_error(cat(must_be, bounds_text(spec), ", found ", value));
  return Status::ok();
}

template <typename T>
Status check_list(const KeySpec& spec, const std::vector<T>& values) {
  if (spec.list_length && values.size() != *spec.list_length)
    return invalid_argument_error(cat("must have ", *spec.list_length, " elements, found ",
                                      values.size(), ": ", list_text(values)));
  for (const T value : values)
    LOCKSTEP_RETURN_IF_ERROR(check_number(spec, value, "elements must be "));
  return Status::ok();
}

Status check_string(const KeySpec& spec, const std::string& value) {
  if (spec.allowed.empty() ||
      std::find(spec.allowed.begin(), spec.allowed.end(), value) != spec.allowed.end())
    return Status::ok();
  std::vector<std::string> names;
  for (const auto& name : spec.allowed) names.push_back(quoted(name));
  std::string message = cat("must be one of ", join(names, ", "), "; found ", quoted(value));
  if (const std::string near = nearest_name(value, spec.allowed); !near.empty())
    message += cat("; the nearest is ", quoted(near));
  return invalid_argument_error(std::move(message));
}

}  // namespace

std::string_view key_type_name(KeyType type) {
  switch (type) {
    case KeyType::kInt:
      return "an integer";
    case KeyType::kFloat:
      return "a number";
    case KeyType::kBool:
      return "true or false";
    case KeyType::kString:
      return "a string";
    case KeyType::kIntList:
      return "a list of integers";
    case KeyType::kFloatList:
      return "a list of numbers";
  }
  return "a value";
}

std::string key_value_text(const KeyValue& value) {
  switch (static_cast<KeyType>(value.index())) {
    case KeyType::kInt:
      return cat(std::get<int64_t>(value));
    case KeyType::kFloat:
      return float_text(std::get<double>(value));
    case KeyType::kBool:
      return cat(std::get<bool>(value));
    case KeyType::kString:
      return quoted(std::get<std::string>(value));
    case KeyType::kIntList:
      return list_text(std::get<std::vector<int64_t>>(value));
    case KeyType::kFloatList:
      return list_text(std::get<std::vector<double>>(value));
  }
  return {};
}

KeySpec& KeySpec::or_default(KeyValue value) {
  std::optional<KeyValue> converted = convert(type, value);
  LOCKSTEP_CHECK(converted.has_value(), "default of key ", name, " must be ", key_type_name(type),
                 ", found ", key_value_text(value));
  default_value = std::move(converted);
  return *this;
}

KeySpec& KeySpec::at_least(double value) {
  min = value;
  is_min_open = false;
  return *this;
}

KeySpec& KeySpec::above(double value) {
  min = value;
  is_min_open = true;
  return *this;
}

KeySpec& KeySpec::at_most(double value) {
  max = value;
  is_max_open = false;
  return *this;
}

KeySpec& KeySpec::below(double value) {
  max = value;
  is_max_open = true;
  return *this;
}

KeySpec& KeySpec::one_of(std::vector<std::string> names) {
  allowed = std::move(names);
  return *this;
}

KeySpec& KeySpec::of_length(size_t length) {
  list_length = length;
  return *this;
}

KeySpec& KeySpec::outside_hash() {
  is_in_hash = false;
  return *this;
}

KeySpec int_key(std::string name, std::string help) {
  return make_spec(KeyType::kInt, std::move(name), std::move(help));
}
KeySpec float_key(std::string name, std::string help) {
  return make_spec(KeyType::kFloat, std::move(name), std::move(help));
}
KeySpec bool_key(std::string name, std::string help) {
  return make_spec(KeyType::kBool, std::move(name), std::move(help));
}
KeySpec string_key(std::string name, std::string help) {
  return make_spec(KeyType::kString, std::move(name), std::move(help));
}
KeySpec int_list_key(std::string name, std::string help) {
  return make_spec(KeyType::kIntList, std::move(name), std::move(help));
}
KeySpec float_list_key(std::string name, std::string help) {
  return make_spec(KeyType::kFloatList, std::move(name), std::move(help));
}

Result<KeyValue> check_key_value(const KeySpec& spec, const KeyValue& value) {
  const std::optional<KeyValue> converted = convert(spec.type, value);
  if (!converted)
    return invalid_argument_error(
        cat("must be ", key_type_name(spec.type), ", found ", key_value_text(value)));
  Status status;
  if (const auto* number = std::get_if<int64_t>(&*converted))
    status = check_number(spec, *number, "must be ");
  if (const auto* number = std::get_if<double>(&*converted))
    status = check_number(spec, *number, "must be ");
  if (const auto* text = std::get_if<std::string>(&*converted)) status = check_string(spec, *text);
  if (const auto* list = std::get_if<std::vector<int64_t>>(&*converted))
    status = check_list(spec, *list);
  if (const auto* list = std::get_if<std::vector<double>>(&*converted))
    status = check_list(spec, *list);
  if (!status.is_ok()) return status;
  return *converted;
}

}  // namespace lockstep
