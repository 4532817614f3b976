#pragma once
// How a benchmark reports a figure of several rounds.

#include <nlohmann/json.hpp>
#include <vector>

#include "lockstep/core/base/quantile.h"

namespace lockstep {

inline nlohmann::json spread(const std::vector<double>& rounds) {
  return {{"median", quantile(rounds, 0.5)}, {"min", quantile(rounds, 0)}, {"max", quantile(rounds, 1)}};
}

}  // namespace lockstep
