#pragma once
// GradientStore: the flat gradient buffers of a model and the folding of micro-batches along the
// reduction tree. Backward accumulates straight into views of the current leaf's buffer; as soon as
// every parameter of a bucket has its gradient, the bucket is folded, and after the rank's last
// leaf it is announced. Must not know: other ranks.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "flat_model.h"
#include "lockstep/core/flat/tree.h"

namespace lockstep {

/// A bucket of one trainable space, in the order of announcement (gradients arrive from the end of
/// the model).
struct GradientBucket {
  int space_index = 0;      ///< in the layout
  int trainable_index = 0;  ///< among the trainable spaces
  int index_in_space = 0;
  ElemRun elems;
};

/// Where one micro-batch stands among those of this rank.
struct LeafPosition {
  int64_t fold_step = 0;  ///< index into FoldPlan::steps
  bool is_first = true;   ///< the first micro-batch of its leaf: the buffer is zeroed
  bool is_last = true;    ///< the last one: buckets are folded
};

class GradientStore {
 public:
  /// `on_bucket_ready(i)` is called in ascending i, inside backward or finish_micro_batch, after
  /// the rank's last leaf was folded for buckets[i]. Puts hooks on the module's parameters; the
  /// store must outlive every backward.
  GradientStore(const FlatModel& model, std::vector<GradientBucket> buckets, FoldPlan fold,
                std::function<void(size_t)> on_bucket_ready);
  ~GradientStore();
  GradientStore(const GradientStore&) = delete;
  GradientStore& operator=(const GradientStore&) = delete;

  /// Forgets what was announced and used in the step before.
  void begin_step();
  /// Points the parameters' gradients at the leaf's buffer.
  void begin_micro_batch(const LeafPosition& position);
  /// After backward: parameters that got no gradient count as zero; folds and announces what is
  /// left.
  void finish_micro_batch();
  /// Forgets the micro-batch under way, e.g. after an exception in its backward. Buckets that it
  /// has announced stay announced until the next step.
  void discard() { in_micro_batch_ = false; }

  /// Data of one buffer of a trainable space.
  void* slot_data(int trainable_index, int slot) const;
  int num_slots() const { return fold_.num_slots; }
  uint64_t bytes_per_slot() const;
  const std::vector<GradientBucket>& buckets() const { return buckets_; }
  /// By trainable parameter: whether it had a gradient in this step.
  const std::vector<bool>& used() const { return used_; }
  const std::vector<std::string>& parameter_names() const { return names_; }

 private:
  class Hook;
  struct Parameter {
    at::Tensor tensor;
    std::vector<at::Tensor> views;  ///< one a slot
    std::vector<size_t> buckets;    ///< that it overlaps
    bool has_fired = false;
  };
  void on_gradient(size_t parameter);
  void check_gradient_is_view(size_t parameter) const;
  void complete(size_t bucket);

  FoldPlan fold_;
  std::vector<GradientBucket> buckets_;
  std::function<void(size_t)> on_bucket_ready_;
  std::vector<int> space_indices_;              ///< of the trainable spaces, in the layout
  std::vector<Dtype> dtypes_;                   ///< by trainable space
  std::vector<std::vector<at::Tensor>> slots_;  ///< [trainable space][slot], flat
  std::vector<Parameter> parameters_;
  std::vector<std::string> names_;
  std::vector<bool> used_;
  std::vector<int> overlapping_;  ///< by bucket: parameters that overlap it
  std::vector<int> pending_;      ///< by bucket: of them, those still without a gradient
  std::vector<bool> complete_;
  size_t next_ready_ = 0;
  LeafPosition position_;
  bool in_micro_batch_ = false;
  int current_slot_ = -1;
};

}  // namespace lockstep
