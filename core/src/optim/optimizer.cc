#include "lockstep/core/optim/optimizer.h"

#include <array>
#include <cmath>
#include <limits>

#include "kernel_variants.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "optimizer_kernels.h"

namespace lockstep {
namespace {

template <typename T>
void check_spans(std::span<T> param, std::span<const T> grad, std::span<const std::span<T>> slots,
                 const std::vector<std::string>& slot_names) {
  LOCKSTEP_CHECK(grad.size() == param.size(), "param has ", param.size(), " elements, grad ",
                 grad.size());
  LOCKSTEP_CHECK(slots.size() == slot_names.size(), "expected ", slot_names.size(),
                 " slots, found ", slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    LOCKSTEP_CHECK(slots[i].size() == param.size(), "param has ", param.size(), " elements, slot ",
                   slot_names[i], " ", slots[i].size());
  }
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
  void update(std::span<float> param, std::span<const float> grad,
              std::span<const std::span<float>> slots,
              const UpdateScalars& scalars) const override {
    update_elems(param, grad, slots, scalars);
  }
  void update(std::span<double> param, std::span<const double> grad,
              std::span<const std::span<double>> slots,
              const UpdateScalars& scalars) const override {
    update_elems(param, grad, slots, scalars);
  }

 private:
  template <typename T>
  AdamWFactors<T> factors(const UpdateScalars& scalars) const {
    const auto t = static_cast<double>(scalars.update_index);
    const double correction1 = 1.0 - std::pow(spec_.beta1, t);
    const double correction2 = 1.0 - std::pow(spec_.beta2, t);
    return {
        .grad_scale = static_cast<T>(scalars.grad_scale),
        .decay = static_cast<T>(1.0 - scalars.learning_rate * scalars.weight_decay),
        .one_minus_beta1 = static_cast<T>(1.0 - spec_.beta1),
        .beta2 = static_cast<T>(spec_.beta2),
        .one_minus_beta2 = static_cast<T>(1.0 - spec_.beta2),
        .inv_sqrt_correction2 = static_cast<T>(1.0 / std::sqrt(correction2)),
        .eps = static_cast<T>(spec_.eps),
        .step_size = static_cast<T>(scalars.learning_rate / correction1),
    };
  }

  template <typename T>
  void update_elems(std::span<T> param, std::span<const T> grad,
                    std::span<const std::span<T>> slots, const UpdateScalars& scalars) const {
    check_spans(param, grad, slots, slot_names_);
    LOCKSTEP_CHECK(scalars.update_index >= 1, "update_index ", scalars.update_index,
                   "; the first is 1");
    run_kernel<AdamWUpdate>(best_kernel_variant(), param.data(), grad.data(), slots[0].data(),
                            slots[1].data(), static_cast<int64_t>(param.size()),
                            factors<T>(scalars));
  }

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
  void update(std::span<float> param, std::span<const float> grad,
              std::span<const std::span<float>> slots,
              const UpdateScalars& scalars) const override {
    update_elems(param, grad, slots, scalars);
  }
  void update(std::span<double> param, std::span<const double> grad,
              std::span<const std::span<double>> slots,
              const UpdateScalars& scalars) const override {
    update_elems(param, grad, slots, scalars);
  }

 private:
  template <typename T>
  void update_elems(std::span<T> param, std::span<const T> grad,
                    std::span<const std::span<T>> slots, const UpdateScalars& scalars) const {
    check_spans(param, grad, slots, slot_names_);
    const SgdFactors<T> factors = {.grad_scale = static_cast<T>(scalars.grad_scale),
                                   .weight_decay = static_cast<T>(scalars.weight_decay),
                                   .momentum = static_cast<T>(spec_.momentum),
                                   .learning_rate = static_cast<T>(scalars.learning_rate)};
    const auto num_elems = static_cast<int64_t>(param.size());
    if (slots.empty())
      run_kernel<SgdUpdate>(best_kernel_variant(), param.data(), grad.data(), num_elems, factors);
    else
      run_kernel<SgdMomentumUpdate>(best_kernel_variant(), param.data(), grad.data(),
                                    slots[0].data(), num_elems, factors);
  }

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
