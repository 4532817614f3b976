#include "lockstep/core/train/save_interval.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr size_t kStepsLookedAt = 64;
constexpr size_t kSavesLookedAt = 5;
constexpr double kNoticedChange = 0.2;
// Far above any run, and exact as a double and in the bits of a step's flags.
constexpr double kMaxSteps = 1e12;
constexpr double kShortestStepS = 1e-9;

void keep_last(std::deque<double>& values, double value, size_t count) {
  values.push_back(value);
  if (values.size() > count) values.pop_front();
}

double median(const std::deque<double>& values) {
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

}  // namespace

const char* interval_bound_text(IntervalBound bound) {
  switch (bound) {
    case IntervalBound::kLeastLoss:
      return "least_loss";
    case IntervalBound::kMaxOverhead:
      return "max_overhead";
    case IntervalBound::kSaveDuration:
      return "save_duration";
    case IntervalBound::kOneStep:
      return "one_step";
  }
  return "least_loss";
}

double least_loss_interval_s(double cost_s, double mtbf_s) {
  // Beyond that the series is not valid, and failures come faster than saves.
  if (cost_s >= 2 * mtbf_s) return mtbf_s;
  const double ratio = cost_s / (2 * mtbf_s);
  return std::sqrt(2 * cost_s * mtbf_s) * (1 + std::sqrt(ratio) / 3 + ratio / 9) - cost_s;
}

PlannedInterval plan_save_interval(const SaveCosts& costs, const IntervalTerms& terms) {
  LOCKSTEP_CHECK(terms.mtbf_s > 0 && terms.max_overhead > 0 && terms.max_overhead < 1, "mtbf ",
                 terms.mtbf_s, " s, max_overhead ", terms.max_overhead);
  LOCKSTEP_CHECK(std::isfinite(costs.step_s + costs.stall_s + costs.save_s) && costs.step_s >= 0 &&
                     costs.stall_s >= 0 && costs.save_s >= 0,
                 "costs must be finite and not negative");
  const double step_s = std::max(costs.step_s, kShortestStepS);
  PlannedInterval planned;
  double steps = std::round(least_loss_interval_s(costs.stall_s, terms.mtbf_s) / step_s);
  const auto at_least = [&](double least, IntervalBound bound) {
    if (steps >= least) return;
    steps = least;
    planned.bound = bound;
  };
  at_least(1, IntervalBound::kOneStep);
  const double allowed_s = costs.stall_s * (1 - terms.max_overhead) / terms.max_overhead;
  at_least(std::ceil(allowed_s / step_s), IntervalBound::kMaxOverhead);
  at_least(std::ceil(costs.save_s / step_s), IntervalBound::kSaveDuration);
  planned.steps = static_cast<int64_t>(std::min(steps, kMaxSteps));
  return planned;
}

void IntervalChooser::add_step(double ms) {
  keep_last(step_ms_, ms, kStepsLookedAt);
}

void IntervalChooser::add_save(double stall_ms, double save_ms) {
  // The first one pays for the pages of its buffers.
  if (++num_saves_ == 2) {
    stall_ms_.clear();
    save_ms_.clear();
  }
  keep_last(stall_ms_, stall_ms, kSavesLookedAt);
  keep_last(save_ms_, save_ms, kSavesLookedAt);
}

int64_t IntervalChooser::wanted_steps() {
  if (step_ms_.empty() || save_ms_.empty()) return 0;
  const SaveCosts costs{median(step_ms_) * 1e-3, median(stall_ms_) * 1e-3,
                        *std::max_element(save_ms_.begin(), save_ms_.end()) * 1e-3};
  const PlannedInterval planned = plan_save_interval(costs, terms_);
  const auto was = static_cast<double>(wanted_);
  if (wanted_ > 0 && std::abs(static_cast<double>(planned.steps) - was) <= kNoticedChange * was)
    return wanted_;
  costs_ = costs;
  planned_ = planned;
  wanted_ = planned.steps;
  why_ = cat(interval_bound_text(planned.bound), ": a step takes ", fixed(costs.step_s * 1e3, 2),
             " ms, training waits ", fixed(costs.stall_s * 1e3, 2), " ms for a save that takes ",
             fixed(costs.save_s * 1e3, 1), " ms, a failure comes every ",
             fixed(terms_.mtbf_s / 3600, 2), " hours, saves may take ",
             fixed(terms_.max_overhead * 100, 2), "% of the time");
  return wanted_;
}

}  // namespace lockstep
