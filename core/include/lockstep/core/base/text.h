#pragma once
// Small text helpers for messages: joining, numbers, nearest names. Kept free of heavy headers,
// because every file that can fail includes it.

#include <charconv>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

namespace text_detail {
inline void append(std::string& out, std::string_view s) {
  out.append(s);
}
inline void append(std::string& out, const char* s) {
  out.append(s);
}
inline void append(std::string& out, char c) {
  out.push_back(c);
}
inline void append(std::string& out, bool b) {
  out.append(b ? "true" : "false");
}
template <std::integral T>
requires(!std::same_as<T, bool> && !std::same_as<T, char>) void append(std::string& out, T value) {
  char buffer[24];
  auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  out.append(buffer, end);
}
void append(std::string& out, double value);
inline void append(std::string& out, float value) {
  append(out, static_cast<double>(value));
}
}  // namespace text_detail

/// Joins its arguments as text: strings as they are, numbers in decimal (floats in the shortest
/// form that round-trips), bools as true or false.
template <typename... Args>
std::string cat(const Args&... args) {
  std::string out;
  (text_detail::append(out, args), ...);
  return out;
}

/// `value` with exactly `digits` digits after the point.
std::string fixed(double value, int digits);
/// Bytes for people: "1.5 MiB".
std::string human_bytes(uint64_t bytes);
/// 16 lower-case hex digits.
std::string hex64(uint64_t value);
/// Parses what hex64 wrote, exactly 16 lower-case digits; false when it is anything else.
bool parse_hex64(std::string_view text, uint64_t* value);
/// The parts joined with `separator`.
std::string join(std::span<const std::string> parts, std::string_view separator);
/// The candidate with the smallest edit distance to `name`, or empty when none is near (over a
/// third changed).
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);
/// Splits at each `separator`; n separators give n + 1 parts.
std::vector<std::string> split(std::string_view text, char separator);
/// Without leading and trailing spaces, tabs and carriage returns.
std::string_view trim(std::string_view text);

}  // namespace lockstep
