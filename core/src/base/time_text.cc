#include "lockstep/core/base/time_text.h"

#include <charconv>
#include <ctime>
#include <string>

#include "lockstep/core/base/deadline.h"

namespace lockstep {

std::optional<int64_t> parse_duration_s(std::string_view text) {
  constexpr int64_t kMaxS = int64_t{100} * 366 * 86'400;
  if (text.empty()) return std::nullopt;
  int64_t unit_s = 0;
  if (text.back() == 's') unit_s = 1;
  if (text.back() == 'm') unit_s = 60;
  if (text.back() == 'h') unit_s = 3'600;
  if (text.back() == 'd') unit_s = 86'400;
  int64_t count = 0;
  const char* end = text.data() + text.size() - 1;
  const auto parsed = std::from_chars(text.data(), end, count);
  if (unit_s == 0 || parsed.ec != std::errc() || parsed.ptr != end || count < 1 ||
      count > kMaxS / unit_s) {
    return std::nullopt;
  }
  return count * unit_s;
}

std::optional<int64_t> parse_utc_text(std::string_view text) {
  const std::string whole(text);
  std::tm parts{};
  const char* end = strptime(whole.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end != whole.c_str() + whole.size()) return std::nullopt;
  const int64_t ns = int64_t{timegm(&parts)} * 1'000'000'000;
  // strptime is lenient: what is written in another way than ours is no time of ours.
  return utc_text(ns) == text ? std::optional(ns) : std::nullopt;
}

}  // namespace lockstep
