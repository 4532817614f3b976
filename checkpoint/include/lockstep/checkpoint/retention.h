#pragma once
// Which checkpoints to delete: a pure decision over what is there. It can only ever name
// checkpoints older than one that is durable. Thread-safety: values.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/names.h"

namespace lockstep {

/// A checkpoint is kept when any of the rules wants it.
struct RetentionPolicy {
  int64_t keep_latest = 0;       ///< the newest K generations; 0: all of them
  int64_t keep_every_steps = 0;  ///< also those whose step is a multiple of this; 0: no such rule
  int64_t keep_best = 0;         ///< also the best B by `best_metric`; 0: no such rule
  std::string best_metric;       ///< e.g. "eval.loss"
  bool best_is_lowest = true;
};

struct RetentionCandidate {
  GenerationName name;
  /// Its metrics, or nothing when its manifest can't be read: then it is kept, whatever the rules
  /// say.
  std::optional<std::map<std::string, double>> metrics;
};

/// The checkpoints to delete, oldest first. Never `durable_generation` or a newer one. A checkpoint
/// without the metric, or with a value that is not a number, is never among the best.
std::vector<GenerationName> plan_retention(const RetentionPolicy& policy,
                                           const std::vector<RetentionCandidate>& candidates,
                                           int64_t durable_generation);

}  // namespace lockstep
