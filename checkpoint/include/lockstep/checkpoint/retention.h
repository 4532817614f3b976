#pragma once
// Which checkpoints to delete: rules, each a pure function over what is there, and a policy that
// keeps what any of its rules wants. Whatever the rules say, it never names the newest durable
// checkpoint, a newer one, or one that a rule can't judge. Thread-safety: values.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// What a manifest says that rules look at.
struct RetentionFacts {
  std::map<std::string, double> metrics;
  std::optional<int64_t> saved_ns;  ///< wall clock; nothing when the manifest's time is no time
};

struct RetentionCandidate {
  GenerationName name;
  /// Nothing when the manifest was not read, or can't be: then rules that need it can't judge it.
  std::optional<RetentionFacts> facts = std::nullopt;
  std::string problem = {};  ///< why the manifest can't be read
};

/// One reason to keep checkpoints.
struct RetentionRule {
  std::string text;          ///< "latest 3": for people
  bool needs_facts = false;  ///< else names are enough, and no manifest is read for it
  /// For each candidate, newest generation first, whether the rule wants it kept at `now_ns`.
  std::function<std::vector<bool>(std::span<const RetentionCandidate> newest_first, int64_t now_ns)>
      keeps;
  std::string metric = {};  ///< that it compares; empty: none
};

/// The newest `count` generations. Requires: count of at least 1.
RetentionRule keep_latest(int64_t count);
/// Those whose step is a multiple of `steps`. Requires: steps of at least 1.
RetentionRule keep_every_steps(int64_t steps);
enum class BestIs : uint8_t { kLowest, kHighest };
/// The best `count` by a metric, e.g. "loss"; of equal ones the newer. One without the metric, or
/// with a value that is not a number, is never among them. Requires: count of at least 1.
RetentionRule keep_best(const std::string& metric, BestIs best_is, int64_t count);
/// Those saved less than `seconds` ago. One from the future (another host's clock) is young.
/// Requires: seconds of at least 1.
RetentionRule keep_for(int64_t seconds);

/// "max:accuracy", "min:loss", "min:loss:3" (the three best) as a rule.
/// Errors: kInvalidArgument.
Result<RetentionRule> parse_keep_best(std::string_view text);

/// A checkpoint is kept when any of the rules wants it; without rules all are.
struct RetentionPolicy {
  std::vector<RetentionRule> keep_any;
  bool needs_facts() const;
};

struct RetentionVerdict {
  GenerationName name;
  std::vector<std::string> kept_because;  ///< of the rules' texts, or what protects it
  bool is_doomed() const { return kept_because.empty(); }
};

/// One verdict for each candidate, newest generation first. `durable_generation` and newer ones are
/// always kept. Rules that need facts which a candidate lacks keep it.
std::vector<RetentionVerdict> plan_retention(const RetentionPolicy& policy,
                                             std::vector<RetentionCandidate> candidates,
                                             int64_t durable_generation, int64_t now_ns);

}  // namespace lockstep
