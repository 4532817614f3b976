#pragma once
// A peer that a benchmark is run against: a command of its own, started by one rank.

#include <cstdint>
#include <string>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// What a peer says of itself.
struct PeerStep {
  double step_ms = 0;
  int64_t samples_per_step = 0;  ///< of all its ranks
};

/// Runs `command` in a shell, on every processor that this process may be given and without the
/// launcher's variables, so that it may start ranks of its own. Returns "step_ms" and
/// "samples_per_step" of the JSON object on the last line that it prints on standard output. Errors,
/// with its last words: kInvalidArgument where it fails or prints no such line, kTimeout when the
/// deadline has passed (its processes are killed).
Result<PeerStep> step_of_peer(const std::string& command, Deadline deadline);

}  // namespace lockstep
