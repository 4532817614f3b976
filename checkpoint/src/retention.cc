#include "lockstep/checkpoint/retention.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace lockstep {
namespace {

/// Generations of the best by the metric; equal values: the newer one.
std::set<int64_t> best_generations(const RetentionPolicy& policy,
                                   const std::vector<RetentionCandidate>& candidates) {
  std::vector<std::pair<double, int64_t>> ranked;  // ascending: better first, then newer first
  for (const RetentionCandidate& candidate : candidates) {
    if (!candidate.metrics) continue;
    const auto it = candidate.metrics->find(policy.best_metric);
    if (it == candidate.metrics->end() || std::isnan(it->second)) continue;
    ranked.emplace_back(policy.best_is_lowest ? it->second : -it->second,
                        -candidate.name.generation);
  }
  std::sort(ranked.begin(), ranked.end());
  std::set<int64_t> best;
  for (size_t i = 0; i < ranked.size() && static_cast<int64_t>(i) < policy.keep_best; ++i) {
    best.insert(-ranked[i].second);
  }
  return best;
}

}  // namespace

std::vector<GenerationName> plan_retention(const RetentionPolicy& policy,
                                           const std::vector<RetentionCandidate>& candidates,
                                           int64_t durable_generation) {
  if (policy.keep_latest <= 0) return {};
  std::vector<RetentionCandidate> newest_first;
  for (const RetentionCandidate& candidate : candidates) {
    if (candidate.name.generation <= durable_generation) newest_first.push_back(candidate);
  }
  std::sort(newest_first.begin(), newest_first.end(),
            [](const auto& a, const auto& b) { return a.name.generation > b.name.generation; });
  const std::set<int64_t> best = best_generations(policy, newest_first);
  std::vector<GenerationName> doomed;
  for (size_t i = 0; i < newest_first.size(); ++i) {
    const RetentionCandidate& candidate = newest_first[i];
    const GenerationName& name = candidate.name;
    const bool is_latest = static_cast<int64_t>(i) < policy.keep_latest;
    const bool is_milestone =
        policy.keep_every_steps > 0 && name.step % policy.keep_every_steps == 0;
    if (is_latest || is_milestone || best.count(name.generation) > 0 || !candidate.metrics)
      continue;
    if (name.generation < durable_generation) doomed.push_back(name);
  }
  std::reverse(doomed.begin(), doomed.end());
  return doomed;
}

}  // namespace lockstep
