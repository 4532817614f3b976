#pragma once
// Waiting on a condition for a bounded time.

#include <condition_variable>
#include <mutex>

namespace lockstep {

/// Returns when notified, after `seconds`, or earlier for no reason: call it in a loop that looks
/// at its condition and its Deadline. Any number of seconds is fine; below 0 counts as 0.
void wait_at_most(std::condition_variable& changed, std::unique_lock<std::mutex>& lock,
                  double seconds);

}  // namespace lockstep
