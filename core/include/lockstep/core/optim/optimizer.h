#pragma once
// Optimizers as element-wise updates of flat spans. A shard may be cut anywhere: each element's new
// value depends only on that element and on scalars, with the same rounding at every position and
// on every instruction set. They know no ranks and own no state: slots are memory of the caller's.
// Thread-safety: const, any thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/device/flat_kernels.h"

namespace lockstep {

/// Which optimizer and with what; the [optimizer] table of a recipe.
struct OptimizerSpec {
  std::string name = "adamw";   ///< "adamw" or "sgd"
  double learning_rate = 1e-3;  ///< before the schedule
  double beta1 = 0.9;           ///< adamw
  double beta2 = 0.999;         ///< adamw
  double eps = 1e-8;            ///< adamw
  double weight_decay = 0.01;   ///< adamw: decoupled from the gradient; sgd: added to it
  double momentum = 0;          ///< sgd
};

/// Parameters that are updated with settings of their own.
struct ParamGroup {
  std::string name;
  double learning_rate_scale = 1;
  std::optional<double> weight_decay;  ///< instead of the optimizer's
};

/// What one update needs to know beside the spans.
struct UpdateScalars {
  int64_t update_index = 1;  ///< 1 for the first update; for the bias correction
  double learning_rate = 0;
  double weight_decay = 0;
  double grad_scale = 1;  ///< each gradient element is multiplied by it first
};

/// The scalars of a group: learning rate = spec's x schedule factor x group's scale; the group's
/// weight decay or else the spec's.
UpdateScalars update_scalars(const OptimizerSpec& spec, const ParamGroup& group,
                             double schedule_factor, int64_t update_index, double grad_scale);

/// An update rule for spans of one flat space. Slots start as zeros; an element whose parameter,
/// gradient and slots are zero stays zero, so padding does.
class FlatOptimizer {
 public:
  virtual ~FlatOptimizer() = default;
  /// As in OptimizerSpec.
  virtual std::string_view name() const = 0;
  /// State kinds in the order update() wants their spans, e.g. {"adamw.exp_avg",
  /// "adamw.exp_avg_sq"}.
  virtual const std::vector<std::string>& slot_names() const = 0;
  /// All hyperparameters in a fixed form, for comparing ranks and runs.
  virtual std::string hyperparameters_text() const = 0;

  /// Updates `param` and the slots in place, by the kernels of the place where they are. Scalars
  /// are combined in fp64 and rounded once to the element type; element arithmetic is in the
  /// element type, F32 or F64. Slots in the order of slot_names(). Requires: as many slots as
  /// names, of the parameter's type and length; no overlap; update_index from 1. Errors: UsageError
  /// otherwise. Not-finite gradients give not-finite parameters: check before. Cost: one pass over
  /// memory.
  virtual void update(FlatKernels& kernels, Dtype dtype, const UpdateArrays& arrays,
                      const UpdateScalars& scalars) const = 0;
};

/// Errors: kInvalidArgument for an unknown name (with the nearest known one) or a value out of
/// range. Source: AdamW: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, with PyTorch's
/// convention that the decay is multiplied by the learning rate. SGD: PyTorch's convention
/// (momentum buffer without dampening, p -= lr * buffer).
Result<std::unique_ptr<FlatOptimizer>> make_optimizer(const OptimizerSpec& spec);

}  // namespace lockstep
