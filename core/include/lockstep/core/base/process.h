#pragma once
// How old this process is. Thread-safety: any thread.

namespace lockstep {

/// Seconds since this process was started, to some 10 ms: what a person who started it has waited.
/// Where the system does not say, since its first call.
double process_age_s();

}  // namespace lockstep
