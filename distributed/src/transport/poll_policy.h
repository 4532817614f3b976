#pragma once
// PollPolicy: when a wait that polls looks at its deadline, and when it gives the processor away.
// WireRate: how long waits for a network have been, and so how long the next one will be.
// Pure: they know no clock. Not thread-safe: one wait's own, one communicator's own.

#include <cstddef>
#include <cstdint>

namespace lockstep {

class PollPolicy {
 public:
  /// Polls without progress between looks at the deadline, an abort and the lost ranks.
  static constexpr int kPollsPerLook = 64;

  /// What to do after a poll.
  struct Advice {
    bool should_look = false;
    bool should_yield = false;
  };

  /// `spin_polls`: polls in a row without progress before the processor is given away.
  explicit PollPolicy(uint16_t spin_polls) : spin_polls_(spin_polls) {}

  /// Progress ends a row of idle polls, but does not put off the next look: a wait whose messages
  /// come in a trickle looks too.
  Advice after_poll(bool has_moved) {
    if (has_moved) {
      num_idle_ = 0;
      return {};
    }
    bool should_yield = num_idle_ == spin_polls_;
    if (!should_yield) ++num_idle_;  // no further than that: a wait may be of any length
    num_since_look_ = static_cast<uint16_t>((num_since_look_ + 1) % kPollsPerLook);
    return {num_since_look_ == 0, should_yield};
  }

 private:
  uint16_t spin_polls_;
  uint16_t num_idle_ = 0;        ///< in a row, at most spin_polls_
  uint16_t num_since_look_ = 0;  ///< idle polls, less than kPollsPerLook
};

class WireRate {
 public:
  /// Shorter exchanges are latency and what buffers let through at once: they say nothing.
  static constexpr size_t kMinBytes = size_t{128} << 10;

  /// An exchange of `num_bytes` in its longer direction was waited for `wait_ns`. Neither the
  /// fastest counts (all of it may have been there when this rank came) nor the slowest (a peer may
  /// have come late), but the median: each wait moves what is known by a step in its direction.
  void saw(size_t num_bytes, double wait_ns) {
    if (num_bytes < kMinBytes) return;
    double sample = wait_ns / static_cast<double>(num_bytes);
    if (ns_per_byte_ == 0) {
      ns_per_byte_ = sample;
    } else {
      ns_per_byte_ = sample > ns_per_byte_ ? ns_per_byte_ * kStep : ns_per_byte_ / kStep;
    }
  }
  /// What a wait for `num_bytes` usually takes, in ns; 0 as long as nothing is known.
  double usual_wait_ns(size_t num_bytes) const {
    return ns_per_byte_ * static_cast<double>(num_bytes);
  }

 private:
  static constexpr double kStep = 1.1;

  double ns_per_byte_ = 0;
};

}  // namespace lockstep
