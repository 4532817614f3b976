#include "json_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr size_t kMaxDepth = 16;
constexpr int64_t kMaxCount = (int64_t{1} << 53) - 1;  // what every JSON reader represents exactly

/// Builds a Json from parser events; returning false stops the parser.
class TreeBuilder {
 public:
  explicit TreeBuilder(Json* root) : root_(root) {}

  bool null() { return put(Json{}); }
  bool boolean(bool value) { return put(Json{value}); }
  bool number_integer(int64_t value) { return put(Json{value}); }
  bool number_unsigned(uint64_t value) {
    if (value > static_cast<uint64_t>(INT64_MAX)) return put(Json{static_cast<double>(value)});
    return put(Json{static_cast<int64_t>(value)});
  }
  bool number_float(double value, const std::string&) { return put(Json{value}); }
  bool string(std::string& value) { return put(Json{std::move(value)}); }
  bool binary(nlohmann::json::binary_t&) { return refuse("binary value"); }

  bool start_object(size_t) { return open(Json{Json::Object{}}); }
  bool start_array(size_t) { return open(Json{Json::Array{}}); }
  bool key(std::string& name) {
    if (!levels_.back().keys.insert(name).second)
      return refuse(cat("duplicate key \"", name, "\""));
    levels_.back().pending_key = std::move(name);
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) {
    return refuse(cat("not JSON at byte ", position, " (", error.what(), ")"));
  }

  const std::string& problem() const { return problem_; }

 private:
  /// An open array or object. It is built here and moved into its parent when it closes.
  struct Level {
    Json json;
    std::set<std::string> keys;
    std::string pending_key;
  };

  bool refuse(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return false;
  }

  bool put(Json value) {
    if (levels_.empty()) {
      *root_ = std::move(value);
      return true;
    }
    Level& level = levels_.back();
    if (auto* array = std::get_if<Json::Array>(&level.json.value)) {
      array->push_back(std::move(value));
    } else {
      std::get<Json::Object>(level.json.value)
          .push_back({std::move(level.pending_key), std::move(value)});
    }
    return true;
  }

  bool open(Json container) {
    if (levels_.size() >= kMaxDepth) return refuse(cat("nested deeper than ", kMaxDepth));
    levels_.push_back({std::move(container), {}, {}});
    return true;
  }

  bool close() {
    Json done = std::move(levels_.back().json);
    levels_.pop_back();
    return put(std::move(done));
  }

  Json* root_;
  std::vector<Level> levels_;
  std::string problem_;
};

}  // namespace

const Json* Json::find(std::string_view key) const {
  const auto* members = std::get_if<Object>(&value);
  if (members == nullptr) return nullptr;
  auto it = std::find_if(members->begin(), members->end(),
                         [&](const auto& member) { return member.key == key; });
  return it == members->end() ? nullptr : &it->value;
}

Result<Json> parse_json(std::string_view text, std::string_view where) {
  Json root;
  TreeBuilder builder(&root);
  try {
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return root;
  } catch (const std::exception& error) {
    return corruption_error(cat(where, ": ", error.what()));
  }
  return corruption_error(cat(where, ": ", builder.problem()));
}

JsonFields::JsonFields(const Json& object, std::string path) : path_(std::move(path)) {
  members_ = std::get_if<Json::Object>(&object.value);
  if (members_ == nullptr) {
    first_error_ = corruption_error(cat(path_, ": expected an object"));
  } else {
    taken_.resize(members_->size());
  }
}

const Json* JsonFields::take(std::string_view key) {
  if (members_ == nullptr) return nullptr;
  for (size_t i = 0; i < members_->size(); ++i) {
    if ((*members_)[i].key == key) {
      taken_[i] = true;
      return &(*members_)[i].value;
    }
  }
  fail(key, "is missing");
  return nullptr;
}

void JsonFields::fail(std::string_view key, std::string_view what) {
  if (first_error_.is_ok()) first_error_ = corruption_error(cat(path_, ": \"", key, "\" ", what));
}

const Json* JsonFields::any(std::string_view key) {
  return take(key);
}

std::string JsonFields::text(std::string_view key) {
  const Json* json = take(key);
  if (json == nullptr) return {};
  if (const auto* text = std::get_if<std::string>(&json->value)) return *text;
  fail(key, "is not a text");
  return {};
}

int64_t JsonFields::count(std::string_view key) {
  const Json* json = take(key);
  if (json == nullptr) return 0;
  const int64_t value = json_count(*json);
  if (value < 0) fail(key, "is not a whole number from 0 to 2^53 - 1");
  return std::max<int64_t>(value, 0);
}

uint64_t JsonFields::hex64(std::string_view key) {
  uint64_t value = 0;
  if (!parse_hex64(text(key), &value)) fail(key, "is not 16 lower-case hex digits");
  return value;
}

const Json::Array& JsonFields::array(std::string_view key) {
  static const Json::Array kEmpty;
  const Json* json = take(key);
  if (json == nullptr) return kEmpty;
  if (const auto* array = std::get_if<Json::Array>(&json->value)) return *array;
  fail(key, "is not an array");
  return kEmpty;
}

const Json::Object& JsonFields::object(std::string_view key) {
  static const Json::Object kEmpty;
  const Json* json = take(key);
  if (json == nullptr) return kEmpty;
  if (const auto* object = std::get_if<Json::Object>(&json->value)) return *object;
  fail(key, "is not an object");
  return kEmpty;
}

std::vector<int64_t> JsonFields::counts(std::string_view key) {
  std::vector<int64_t> values;
  for (const Json& item : array(key)) {
    values.push_back(json_count(item));
    if (values.back() < 0) fail(key, "holds something else than whole numbers from 0 to 2^53 - 1");
  }
  return values;
}

std::vector<std::string> JsonFields::texts(std::string_view key) {
  std::vector<std::string> values;
  for (const Json& item : array(key)) {
    const auto* text = std::get_if<std::string>(&item.value);
    if (text == nullptr) fail(key, "holds something else than texts");
    values.push_back(text ? *text : std::string());
  }
  return values;
}

Status JsonFields::status() const {
  if (!first_error_.is_ok()) return first_error_;
  for (size_t i = 0; i < taken_.size(); ++i) {
    if (!taken_[i]) {
      return corruption_error(cat(path_, ": unknown member \"", (*members_)[i].key, "\""));
    }
  }
  return Status::ok();
}

std::string json_quoted(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true,
                                   nlohmann::json::error_handler_t::replace);
}

std::string json_numbers(const std::vector<int64_t>& values) {
  std::string text;
  for (int64_t value : values) text += cat(text.empty() ? "" : ",", value);
  return cat("[", text, "]");
}

int64_t json_count(const Json& value) {
  const auto* number = std::get_if<int64_t>(&value.value);
  return number != nullptr && *number >= 0 && *number <= kMaxCount ? *number : -1;
}

}  // namespace lockstep
