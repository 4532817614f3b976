#pragma once
// Times as people write them. Pure.

#include <cstdint>
#include <optional>
#include <string_view>

namespace lockstep {

/// Seconds of "45s", "90m", "36h" or "7d": a whole number of at least 1 with its unit, at most a
/// hundred years; nothing for any other text.
std::optional<int64_t> parse_duration_s(std::string_view text);
/// The wall_clock_ns() value, in whole seconds, of what utc_text() wrote; nothing for any other
/// text.
std::optional<int64_t> parse_utc_text(std::string_view text);

}  // namespace lockstep
