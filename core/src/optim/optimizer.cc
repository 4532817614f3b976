#include "lockstep/core/optim/optimizer.h"

#include <array>
#include <cmath>
#include <limits>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

void check_arrays(const UpdateArrays& arrays, const FlatOptimizer& optimizer) {
  const size_t found = (arrays.first != nullptr ? 1 : 0) + (arrays.second != nullptr ? 1 : 0);
  LOCKSTEP_CHECK(arrays.num_elems == 0 || found == optimizer.slot_names().size(), optimizer.name(),
                 " has ", optimizer.slot_names().size(), " slots, found ", found);
}

class AdamW final : public FlatOptimizer {
 public:
  explicit AdamW(const OptimizerSpec& spec) : spec_(spec) {}

  std::string_view name() const override { return "adamw"; }
  const std::vector<std::string>& slot_names() const override { return slot_names_; }
  std::string hyperparameters_text() const override {
    return cat("adamw learning_rate=", spec_.learning_rate, " beta1=", spec_.beta1,
               " beta2=", spec_.beta2, " eps=", spec_.eps, " weight_decay=", spec_.weight_decay);
  }
  void update(FlatKernels& kernels, Dtype dtype, const UpdateArrays& arrays,
              const UpdateScalars& scalars) const override {
    check_arrays(arrays, *this);
    LOCKSTEP_CHECK(scalars.update_index >= 1, "update_index ", scalars.update_index,
                   "; the first is 1");
    const auto t = static_cast<double>(scalars.update_index);
    const double correction1 = 1.0 - std::pow(spec_.beta1, t);
    const double correction2 = 1.0 - std::pow(spec_.beta2, t);
    kernels.update_adamw(dtype, arrays,
                         {.grad_scale = scalars.grad_scale,
                          .decay = 1.0 - scalars.learning_rate * scalars.weight_decay,
                          .one_minus_beta1 = 1.0 - spec_.beta1,
                          .beta2 = spec_.beta2,
                          .one_minus_beta2 = 1.0 - spec_.beta2,
                          .inv_sqrt_correction2 = 1.0 / std::sqrt(correction2),
                          .eps = spec_.eps,
                          .step_size = scalars.learning_rate / correction1});
  }

 private:
  OptimizerSpec spec_;
  std::vector<std::string> slot_names_ = {"adamw.exp_avg", "adamw.exp_avg_sq"};
};

class Sgd final : public FlatOptimizer {
 public:
  explicit Sgd(const OptimizerSpec& spec) : spec_(spec) {
    if (spec.momentum != 0) slot_names_.push_back("sgd.momentum");
  }

  std::string_view name() const override { return "sgd"; }
  const std::vector<std::string>& slot_names() const override { return slot_names_; }
  std::string hyperparameters_text() const override {
    return cat("sgd learning_rate=", spec_.learning_rate, " momentum=", spec_.momentum,
               " weight_decay=", spec_.weight_decay);
  }
  void update(FlatKernels& kernels, Dtype dtype, const UpdateArrays& arrays,
              const UpdateScalars& scalars) const override {
    check_arrays(arrays, *this);
    kernels.update_sgd(dtype, arrays,
                       {.grad_scale = scalars.grad_scale,
                        .weight_decay = scalars.weight_decay,
                        .momentum = spec_.momentum,
                        .learning_rate = scalars.learning_rate});
  }

 private:
  OptimizerSpec spec_;
  std::vector<std::string> slot_names_;
};

Status check_in(std::string_view field, double value, double low, double end) {
  if (low <= value && value < end) return Status::ok();
  return invalid_argument_error(
      cat("optimizer.", field, " is ", value, "; it must be at least ", low, " and ",
          std::isinf(end) ? std::string("finite") : cat("less than ", end)));
}

Status check_spec(const OptimizerSpec& spec) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  LOCKSTEP_RETURN_IF_ERROR(check_in("learning_rate", spec.learning_rate, 0, kInfinity));
  LOCKSTEP_RETURN_IF_ERROR(check_in("weight_decay", spec.weight_decay, 0, kInfinity));
  LOCKSTEP_RETURN_IF_ERROR(check_in("beta1", spec.beta1, 0, 1));
  LOCKSTEP_RETURN_IF_ERROR(check_in("beta2", spec.beta2, 0, 1));
  // Smaller ones would be 0 in fp32, and an element without any gradient so far would become 0 / 0.
  LOCKSTEP_RETURN_IF_ERROR(check_in("eps", spec.eps, 1e-37, kInfinity));
  return check_in("momentum", spec.momentum, 0, 1);
}

}  // namespace

UpdateScalars update_scalars(const OptimizerSpec& spec, const ParamGroup& group,
                             double schedule_factor, int64_t update_index, double grad_scale) {
  return {.update_index = update_index,
          .learning_rate = spec.learning_rate * schedule_factor * group.learning_rate_scale,
          .weight_decay = group.weight_decay.value_or(spec.weight_decay),
          .grad_scale = grad_scale};
}

Result<std::unique_ptr<FlatOptimizer>> make_optimizer(const OptimizerSpec& spec) {
  LOCKSTEP_RETURN_IF_ERROR(check_spec(spec));
  if (spec.name == "adamw") return std::unique_ptr<FlatOptimizer>(new AdamW(spec));
  if (spec.name == "sgd") return std::unique_ptr<FlatOptimizer>(new Sgd(spec));
  const std::array<std::string, 2> known = {"adamw", "sgd"};
  const std::string nearest = nearest_name(spec.name, known);
  return invalid_argument_error(cat("optimizer.name is '", spec.name, "'; known are adamw and sgd",
                                    nearest.empty() ? "" : cat("; did you mean ", nearest, "?")));
}

}  // namespace lockstep
