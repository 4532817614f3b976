#pragma once
// The clock and Deadline. This is the one place that reads a clock; everything that waits takes a
// Deadline.

#include <cstdint>
#include <string>

namespace lockstep {

/// Monotonic time since an arbitrary origin, in nanoseconds. For durations and deadlines.
int64_t monotonic_ns();
/// Wall-clock time since 1970 (UTC), in nanoseconds. For records that people read; never for
/// numbers of training.
int64_t wall_clock_ns();
/// "2026-11-22T13:05:09Z" for a wall_clock_ns() value.
std::string utc_text(int64_t wall_ns);
/// Waits for at least `ns` nanoseconds.
void sleep_ns(int64_t ns);

/// A point of monotonic time after which a wait is given up. A value; cheap to copy.
class Deadline {
 public:
  /// `seconds` from now.
  static Deadline after_s(double seconds);
  bool has_passed() const { return monotonic_ns() >= at_ns_; }
  /// Never negative.
  double remaining_s() const;
  int64_t at_ns() const { return at_ns_; }
  /// The length it was made with, for messages.
  double length_s() const { return length_s_; }

 private:
  int64_t at_ns_ = 0;
  double length_s_ = 0;
};

/// Measures elapsed time from its construction.
class Stopwatch {
 public:
  Stopwatch() : start_ns_(monotonic_ns()) {}
  double elapsed_s() const { return static_cast<double>(monotonic_ns() - start_ns_) * 1e-9; }
  double elapsed_ms() const { return static_cast<double>(monotonic_ns() - start_ns_) * 1e-6; }

 private:
  int64_t start_ns_;
};

}  // namespace lockstep
