#pragma once
// A made-up table for trying things out: small, needs no download, learnable in a second.

#include <cstdint>
#include <string>

namespace lockstep {

/// CSV text with columns x0, x1, ... and a 0/1 column "label". Features are independent and near
/// normal; the label says whether a fixed linear function of them plus one product plus noise is
/// above 0. The text is a pure function of the arguments, the same on every machine. Requires: rows
/// >= 1, features >= 2.
std::string make_tabular_csv(int64_t num_rows, int64_t num_features, uint64_t seed);

}  // namespace lockstep
