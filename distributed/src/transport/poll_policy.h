#pragma once
// PollPolicy: when a wait that polls looks at its deadline, and when it gives the processor away.
// Pure: counts polls, knows no clock. Not thread-safe: one wait's own.

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

}  // namespace lockstep
