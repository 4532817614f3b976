#include "lockstep/core/data/tabular.h"

#include <cmath>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/rng.h"

namespace lockstep {
namespace {

// Weights have length 1, so that the linear part of the score has variance 1; at these sizes of the
// product and the noise about 93 of 100 labels can be foretold from the features.
constexpr double kProductWeight = 0.3;
constexpr double kNoiseWeight = 0.2;
constexpr uint64_t kWeightsSample = ~uint64_t{0};  // no row has this number
constexpr int kDecimals = 6;

std::vector<double> make_weights(int64_t num_features, uint64_t seed) {
  Rng rng(seed, kWeightsSample);
  std::vector<double> weights(static_cast<size_t>(num_features));
  double square_sum = 0;
  for (double& weight : weights) {
    // Away from 0, so that each feature matters.
    weight = (0.5 + rng.next_uniform()) * (rng.next_below(2) == 0 ? -1 : 1);
    square_sum += weight * weight;
  }
  for (double& weight : weights) weight /= std::sqrt(square_sum);
  return weights;
}

}  // namespace

std::string make_tabular_csv(int64_t num_rows, int64_t num_features, uint64_t seed) {
  LOCKSTEP_CHECK(num_rows >= 1 && num_features >= 2, "a table of ", num_rows, " rows and ",
                 num_features, " features; at least 1 and 2 are needed");
  std::vector<double> weights = make_weights(num_features, seed);
  std::string text;
  for (int64_t column = 0; column < num_features; ++column) text += cat("x", column, ",");
  text += "label\n";
  std::vector<double> features(weights.size());
  for (int64_t row = 0; row < num_rows; ++row) {
    Rng rng(seed, static_cast<uint64_t>(row));
    double score = 0;
    for (size_t column = 0; column < features.size(); ++column) {
      features[column] = rng.next_normal();
      score += weights[column] * features[column];
      text += cat(fixed(features[column], kDecimals), ",");
    }
    score += kProductWeight * features[0] * features[1] + kNoiseWeight * rng.next_normal();
    text += score > 0 ? "1\n" : "0\n";
  }
  return text;
}

}  // namespace lockstep
