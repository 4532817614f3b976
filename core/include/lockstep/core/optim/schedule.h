#pragma once
// Learning-rate schedules as pure functions of the step: nothing to save, resuming is exact by
// construction. Thread-safety: values.

#include <cstdint>
#include <optional>
#include <string_view>

#include "lockstep/core/base/status.h"

namespace lockstep {

enum class ScheduleKind : uint8_t {
  kConstant,  ///< 1
  kCosine,    ///< half a cosine from 1 to final_factor
  kLinear,    ///< a straight line from 1 to final_factor
  kStep,      ///< step_factor^n after n * step_every steps
};

/// "constant", "cosine", "linear", "step".
std::string_view schedule_kind_name(ScheduleKind kind);
std::optional<ScheduleKind> parse_schedule_kind(std::string_view name);

struct ScheduleSpec {
  ScheduleKind kind = ScheduleKind::kConstant;
  int64_t warmup_steps = 0;  ///< the factor grows linearly: step s has (s+1)/warmup_steps of it
  int64_t total_steps =
      1;  ///< where cosine and linear arrive at final_factor; later steps stay there
  double final_factor = 0;   ///< cosine and linear only
  int64_t step_every = 1;    ///< step only, counted from the end of the warm-up
  double step_factor = 0.1;  ///< step only
};

/// Errors: kInvalidArgument naming the field, what it was and what it may be.
Status check_schedule(const ScheduleSpec& spec);

/// What the learning rate is multiplied by at `step`, counted from 0.
/// During the warm-up the factor is (step+1)/warmup_steps; from then on the schedule's shape over
/// t = (step - warmup_steps) / (total_steps - warmup_steps), so the first step after the warm-up
/// has factor 1 and step total_steps would have final_factor. Requires: step >= 0 and
/// check_schedule(spec) is OK.
double learning_rate_factor(const ScheduleSpec& spec, int64_t step);

}  // namespace lockstep
