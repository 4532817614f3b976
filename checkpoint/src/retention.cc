#include "lockstep/checkpoint/retention.h"

#include <algorithm>
#include <cmath>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

using Candidates = std::span<const RetentionCandidate>;

/// A rule that looks at one candidate at a time.
template <typename Wants>
auto each(Wants wants) {
  return [wants](Candidates newest_first, int64_t now_ns) {
    std::vector<bool> keep(newest_first.size());
    for (size_t i = 0; i < keep.size(); ++i) keep[i] = wants(newest_first[i], now_ns);
    return keep;
  };
}

/// The metric's value, smaller is better; nothing when there is none to compare.
std::optional<double> rank_value(const RetentionCandidate& candidate, const std::string& metric,
                                 BestIs best_is) {
  if (!candidate.facts) return std::nullopt;
  const auto it = candidate.facts->metrics.find(metric);
  if (it == candidate.facts->metrics.end() || std::isnan(it->second)) return std::nullopt;
  return best_is == BestIs::kLowest ? it->second : -it->second;
}

std::string best_text(const std::string& metric, BestIs best_is, int64_t count) {
  return cat("best", count > 1 ? cat(" ", count) : "", " by ",
             best_is == BestIs::kLowest ? "min:" : "max:", metric);
}

}  // namespace

RetentionRule keep_latest(int64_t count) {
  LOCKSTEP_CHECK(count >= 1, "keep the latest ", count);
  return {cat("latest ", count), false, [count](Candidates newest_first, int64_t) {
            std::vector<bool> keep(newest_first.size(), false);
            std::fill_n(keep.begin(), std::min<int64_t>(count, std::ssize(keep)), true);
            return keep;
          }};
}

RetentionRule keep_every_steps(int64_t steps) {
  LOCKSTEP_CHECK(steps >= 1, "keep every ", steps, " steps");
  return {cat("every ", steps, " steps"), false,
          each([steps](const RetentionCandidate& candidate, int64_t) {
            return candidate.name.step % steps == 0;
          })};
}

RetentionRule keep_best(const std::string& metric, BestIs best_is, int64_t count) {
  LOCKSTEP_CHECK(count >= 1, "keep the best ", count);
  return {best_text(metric, best_is, count), true,
          [metric, best_is, count](Candidates newest_first, int64_t) {
            std::vector<std::pair<double, size_t>> ranked;  // better first, then newer first
            for (size_t i = 0; i < newest_first.size(); ++i) {
              const auto value = rank_value(newest_first[i], metric, best_is);
              if (value) ranked.emplace_back(*value, i);
            }
            std::sort(ranked.begin(), ranked.end());
            std::vector<bool> keep(newest_first.size(), false);
            const auto num_kept = std::min<int64_t>(count, std::ssize(ranked));
            for (int64_t i = 0; i < num_kept; ++i)
              keep[ranked[static_cast<size_t>(i)].second] = true;
            return keep;
          },
          metric};
}

RetentionRule keep_for(int64_t seconds) {
  LOCKSTEP_CHECK(seconds >= 1, "keep for ", seconds, " seconds");
  return {cat("younger than ", seconds, " s"), true,
          each([seconds](const RetentionCandidate& candidate, int64_t now_ns) {
            // What says no time when it was saved can't be called old.
            if (!candidate.facts || !candidate.facts->saved_ns) return true;
            return (now_ns - *candidate.facts->saved_ns) / 1'000'000'000 < seconds;
          })};
}

Result<RetentionRule> parse_keep_best(std::string_view text) {
  const std::vector<std::string> parts = split(text, ':');
  int64_t count = 1;
  bool is_good = (parts.size() == 2 || parts.size() == 3) &&
                 (parts[0] == "min" || parts[0] == "max") && !parts[1].empty();
  if (is_good && parts.size() == 3) {
    const char* end = parts[2].data() + parts[2].size();
    const auto parsed = std::from_chars(parts[2].data(), end, count);
    is_good = parsed.ec == std::errc() && parsed.ptr == end && count >= 1;
  }
  if (!is_good) {
    return invalid_argument_error(
        cat("expected min: or max:, the name of a metric, and perhaps how many, as in max:accuracy "
            "or min:loss:3; found \"",
            text, "\""));
  }
  return keep_best(parts[1], parts[0] == "min" ? BestIs::kLowest : BestIs::kHighest, count);
}

bool RetentionPolicy::needs_facts() const {
  return std::any_of(keep_any.begin(), keep_any.end(),
                     [](const RetentionRule& rule) { return rule.needs_facts; });
}

std::vector<RetentionVerdict> plan_retention(const RetentionPolicy& policy,
                                             std::vector<RetentionCandidate> candidates,
                                             int64_t durable_generation, int64_t now_ns) {
  std::sort(candidates.begin(), candidates.end(),
            [](const auto& a, const auto& b) { return a.name.generation > b.name.generation; });
  std::vector<RetentionVerdict> verdicts;
  for (const RetentionCandidate& candidate : candidates) {
    RetentionVerdict verdict{candidate.name, {}};
    const int64_t generation = candidate.name.generation;
    if (generation == durable_generation) verdict.kept_because.push_back("the newest durable one");
    if (generation > durable_generation) verdict.kept_because.push_back("newer than is durable");
    if (policy.keep_any.empty()) verdict.kept_because.push_back("no rule");
    if (policy.needs_facts() && !candidate.facts) {
      verdict.kept_because.push_back(cat("can't be judged: ", candidate.problem));
    }
    verdicts.push_back(std::move(verdict));
  }
  // What may yet be lost must not stand in for one of the latest or the best.
  const auto first_durable = static_cast<size_t>(
      std::count_if(candidates.begin(), candidates.end(), [&](const RetentionCandidate& candidate) {
        return candidate.name.generation > durable_generation;
      }));
  const Candidates durable = Candidates(candidates).subspan(first_durable);
  for (const RetentionRule& rule : policy.keep_any) {
    const std::vector<bool> keep = rule.keeps(durable, now_ns);
    LOCKSTEP_CHECK(keep.size() == durable.size(), "the rule \"", rule.text, "\" judged ",
                   keep.size(), " of ", durable.size(), " checkpoints");
    for (size_t i = 0; i < keep.size(); ++i) {
      if (keep[i]) verdicts[first_durable + i].kept_because.push_back(rule.text);
    }
  }
  return verdicts;
}

}  // namespace lockstep
