#pragma once
// Order statistics of measured times. Pure. Thread-safety: any thread.

#include <vector>

namespace lockstep {

/// The value at `share` (0 to 1) of the sorted values, the nearest one: 0.5 is the median. 0 for no
/// values.
double quantile(std::vector<double> values, double share);

}  // namespace lockstep
