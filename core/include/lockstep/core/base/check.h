#pragma once
// LOCKSTEP_CHECK: the caller's mistakes and broken invariants. Always on, also in release builds.

#include <stdexcept>
#include <string>

#include "lockstep/core/base/text.h"

namespace lockstep {

/// The caller broke a documented requirement, or an invariant of ours does not hold.
class UsageError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Throws UsageError with the place, the condition and `message`.
[[noreturn]] void throw_usage_error(const char* file, int line, const char* condition,
                                    const std::string& message);

}  // namespace lockstep

/// Throws UsageError unless `condition` (which must have no side effect) holds; the other arguments
/// are joined with cat() and should say what was expected, what was found, and what to do.
#define LOCKSTEP_CHECK(condition, ...)                                                             \
  do {                                                                                             \
    if (!(condition)) [[unlikely]]                                                                 \
      ::lockstep::throw_usage_error(__FILE__, __LINE__, #condition, ::lockstep::cat(__VA_ARGS__)); \
  } while (false)
