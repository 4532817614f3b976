#pragma once
// TrainableModel: a LibTorch module together with what training asks of it: a loss and an
// evaluation. It knows nothing of optimizers, ranks or files. Thread-safety: one thread at a time.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "lockstep/core/data/batch.h"

namespace torch::nn {
class Module;
}

namespace lockstep {

/// Counts that add up exactly over batches and ranks. The caller adds loss_sum in batch order.
struct EvalCounts {
  int64_t num_correct = 0;
  int64_t num_samples = 0;
  double loss_sum = 0;  ///< of the samples' losses
};

class TrainableModel {
 public:
  virtual ~TrainableModel() = default;
  /// The module whose parameters and buffers are trained. Lifetime: that of this object.
  virtual torch::nn::Module& module() = 0;
  /// The mean loss over the batch's samples, a scalar to call backward() on.
  virtual at::Tensor loss(const Batch& batch) = 0;
  /// Counts over one batch, without gradients. Requires: set_training(false), or dropout and batch
  /// statistics will be those of training.
  virtual EvalCounts evaluate(const Batch& batch) = 0;
  /// Puts the module in training or evaluation mode.
  void set_training(bool is_training);
};

/// How a classifier's outputs become a loss and a prediction.
enum class LossKind : uint8_t {
  kSoftmaxCrossEntropy,        ///< outputs [b, classes]: logits; prediction: the largest
  kSigmoidBinaryCrossEntropy,  ///< outputs [b, 1]: the logit of class 1; prediction: 1 when it is
                               ///< above 0
};

/// A TrainableModel from any module and the function that runs it. Ownership: shares the module.
/// Shapes: `forward` maps inputs [b, ...] to outputs as `loss` wants them.
std::unique_ptr<TrainableModel> make_classifier(
    std::shared_ptr<torch::nn::Module> module, std::function<at::Tensor(const at::Tensor&)> forward,
    LossKind loss_kind);

/// Moves all tensors of `module` to a device as LibTorch spells it ("cuda:0"), values unchanged.
void move_to(const std::string& device, torch::nn::Module& module);

/// Puts the 4-d parameters of `module` into `format`, values unchanged, also where strides are
/// ambiguous (one input channel). Call before the parameters are laid out in flat space; give it
/// inputs of the same format, else nothing is gained.
void set_weight_format(torch::nn::Module& module, at::MemoryFormat format);

}  // namespace lockstep
