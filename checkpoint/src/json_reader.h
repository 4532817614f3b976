#pragma once
// Strict JSON for files that may be damaged or hostile: no duplicate keys, bounded depth, valid
// UTF-8, nothing after the value, no exceptions out. The JSON library stays behind this header's
// .cc files.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

/// A parsed JSON value. Numbers are kept as integers when written as integers that fit, else as
/// doubles.
struct Json {
  struct Member;
  using Array = std::vector<Json>;
  /// In the order of the text; keys are unique.
  using Object = std::vector<Member>;
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value;

  const Json* find(std::string_view key) const;
};

/// Not a std::pair, which asks for the whole of Json while Json is still being declared.
struct Json::Member {
  std::string key;
  Json value;
};

/// Parses the whole of `text`. `where` names the file in errors.
/// Errors: kCorruption. Cost: at most about ten times the text in memory; depth at most 16.
Result<Json> parse_json(std::string_view text, std::string_view where);

/// Reads the members of one object and remembers the first thing that is wrong: read everything,
/// then ask status().
class JsonFields {
 public:
  /// `path` is put in front of member names in errors, e.g. "manifest.json: shards[3]".
  JsonFields(const Json& object, std::string path);

  std::string text(std::string_view key);
  /// A non-negative integer below 2^53.
  int64_t count(std::string_view key);
  uint64_t hex64(std::string_view key);
  std::vector<int64_t> counts(std::string_view key);
  std::vector<std::string> texts(std::string_view key);
  const Json::Array& array(std::string_view key);
  const Json::Object& object(std::string_view key);
  const Json* any(std::string_view key);

  /// What was wrong first, or, when nothing was, an error about members that nobody read.
  Status status() const;
  void fail(std::string_view key, std::string_view what);
  const std::string& path() const { return path_; }

 private:
  const Json* take(std::string_view key);

  const Json::Object* members_ = nullptr;
  std::vector<bool> taken_;
  std::string path_;
  Status first_error_;
};

/// `text` as a JSON string with its quotes. Requires: valid UTF-8 (else replaced).
std::string json_quoted(std::string_view text);
/// "[2,3]"
std::string json_numbers(const std::vector<int64_t>& values);
/// The element as a non-negative integer below 2^53, or -1.
int64_t json_count(const Json& value);

}  // namespace lockstep
