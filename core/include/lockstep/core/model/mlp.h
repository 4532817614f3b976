#pragma once
// mlp: fully connected ReLU layers for flat inputs.

#include <cstdint>
#include <memory>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/data/dataset.h"
#include "lockstep/core/model/model.h"

namespace lockstep {

struct MlpOptions {
  std::vector<int64_t> hidden = {};  ///< widths of the hidden layers, may be empty
  double dropout = 0;                ///< after each hidden layer's ReLU, in [0, 1)
  LossKind loss = LossKind::kSoftmaxCrossEntropy;
};

/// Shapes: inputs [b, ...], flattened; outputs [b, classes], or [b, 1] with the sigmoid loss.
/// Initial weights are drawn from the library's generator: seed it before. Parameters: "0.weight",
/// "0.bias", "1.weight", ... Errors: kInvalidArgument for a width below 1, a dropout outside [0,
/// 1), a sigmoid for other than 2 classes.
Result<std::unique_ptr<TrainableModel>> make_mlp(const MlpOptions& options, const SampleSpec& spec);

}  // namespace lockstep
