#include "lockstep/core/optim/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr std::array<std::pair<ScheduleKind, std::string_view>, 4> kNames = {{
    {ScheduleKind::kConstant, "constant"},
    {ScheduleKind::kCosine, "cosine"},
    {ScheduleKind::kLinear, "linear"},
    {ScheduleKind::kStep, "step"},
}};

// 0 at the first step after the warm-up, 1 from total_steps on.
double progress_of(const ScheduleSpec& spec, int64_t step) {
  return std::min(1.0, static_cast<double>(step - spec.warmup_steps) /
                           static_cast<double>(spec.total_steps - spec.warmup_steps));
}

}  // namespace

std::string_view schedule_kind_name(ScheduleKind kind) {
  for (const auto& [known, name] : kNames) {
    if (known == kind) return name;
  }
  LOCKSTEP_CHECK(false, "schedule kind number ", static_cast<int>(kind));
}

std::optional<ScheduleKind> parse_schedule_kind(std::string_view name) {
  for (const auto& [kind, known] : kNames) {
    if (known == name) return kind;
  }
  return std::nullopt;
}

Status check_schedule(const ScheduleSpec& spec) {
  if (spec.warmup_steps < 0)
    return invalid_argument_error(
        cat("schedule.warmup_steps is ", spec.warmup_steps, "; it must not be negative"));
  const bool has_end = spec.kind == ScheduleKind::kCosine || spec.kind == ScheduleKind::kLinear;
  if (has_end && spec.total_steps <= spec.warmup_steps)
    return invalid_argument_error(cat("schedule.total_steps is ", spec.total_steps,
                                      "; it must be greater than schedule.warmup_steps, which is ",
                                      spec.warmup_steps));
  if (has_end && !(spec.final_factor >= 0 && std::isfinite(spec.final_factor)))
    return invalid_argument_error(
        cat("schedule.final_factor is ", spec.final_factor, "; it must be 0 or more"));
  if (spec.kind == ScheduleKind::kStep && spec.step_every < 1)
    return invalid_argument_error(
        cat("schedule.step_every is ", spec.step_every, "; it must be 1 or more"));
  if (spec.kind == ScheduleKind::kStep &&
      !(spec.step_factor > 0 && std::isfinite(spec.step_factor)))
    return invalid_argument_error(
        cat("schedule.step_factor is ", spec.step_factor, "; it must be greater than 0"));
  return Status::ok();
}

double learning_rate_factor(const ScheduleSpec& spec, int64_t step) {
  LOCKSTEP_CHECK(step >= 0, "step ", step);
  if (step < spec.warmup_steps)
    return static_cast<double>(step + 1) / static_cast<double>(spec.warmup_steps);
  switch (spec.kind) {
    case ScheduleKind::kConstant:
      return 1.0;
    case ScheduleKind::kCosine: {
      const double shape = 0.5 * (1.0 + std::cos(std::numbers::pi * progress_of(spec, step)));
      return spec.final_factor + (1.0 - spec.final_factor) * shape;
    }
    case ScheduleKind::kLinear:
      return 1.0 + (spec.final_factor - 1.0) * progress_of(spec, step);
    case ScheduleKind::kStep:
      return std::pow(spec.step_factor,
                      static_cast<double>((step - spec.warmup_steps) / spec.step_every));
  }
  LOCKSTEP_CHECK(false, "schedule kind number ", static_cast<int>(spec.kind));
}

}  // namespace lockstep
