#pragma once
// GradientStore: the flat gradient buffers of a model and the folding of micro-batches along the
// reduction tree. A parameter's first gradient of a leaf is taken from autograd as it is and copied
// or, where the tree adds this leaf at once, added to its place while it is in cache; further
// micro-batches of the leaf are accumulated there by autograd itself. As soon as every parameter of
// a bucket has its gradient, the bucket is folded, and after the rank's last leaf it is announced.
// Must not know: other ranks.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "flat_model.h"
#include "lockstep/core/device/device.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/distributed/data_parallel.h"

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
  bool is_first = true;   ///< the first micro-batch of its leaf
  bool is_last = true;    ///< the last one: buckets are folded
};

class GradientStore {
 public:
  /// `on_bucket_ready(i)` is called in ascending i, inside backward or finish_micro_batch, after
  /// the rank's last leaf was folded for buckets[i], by the thread that runs backward (on a GPU not
  /// the caller's), its work handed over to the device's queue of compute. `leaf_micro_batches`:
  /// the most that a leaf has; with 1 a leaf that is added at once needs no buffer, unless it is
  /// rounded (`leaf_dtype`) before. Puts hooks on the module's parameters; the store must outlive
  /// every backward.
  GradientStore(const FlatModel& model, Device& device, std::vector<GradientBucket> buckets,
                FoldPlan fold, int64_t leaf_micro_batches, LeafDtype leaf_dtype,
                std::function<void(size_t)> on_bucket_ready);
  ~GradientStore();
  GradientStore(const GradientStore&) = delete;
  GradientStore& operator=(const GradientStore&) = delete;

  /// Forgets what was announced and used in the step before.
  void begin_step();
  /// Makes ready for one backward: at a leaf's first micro-batch no parameter has a gradient.
  void begin_micro_batch(const LeafPosition& position);
  /// Before backward: throws UsageError naming the first parameter whose gradient the caller has
  /// set, or has cleared in the middle of a leaf.
  void check_untouched() const;
  /// After backward: parameters that got no gradient count as zero; folds and announces what is
  /// left.
  void finish_micro_batch();
  /// Forgets the micro-batch under way, e.g. after an exception in its backward. Buckets that it
  /// has announced stay announced until the next step.
  void discard() { in_micro_batch_ = false; }

  /// Data of one buffer of a trainable space.
  void* slot_data(int trainable_index, int slot) const;
  int num_slots() const { return num_slots_; }
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
    std::vector<size_t> buckets;    ///< that it overlaps, from its end to its begin
    int trainable_index = 0;
    int64_t first_elem = 0, num_elems = 0;  ///< in its space
    bool has_fired = false;                 ///< in this micro-batch
    bool is_in_leaf = false;                ///< the leaf has a gradient of it
  };
  void on_gradient(size_t parameter);
  static at::Tensor take(Parameter& parameter, const std::string& name);
  void put(const Parameter& parameter, const at::Tensor& grad, ElemRun part);
  void take_zeros(Parameter& parameter);
  void add(int trainable_index, int into_slot, int64_t first_elem, const void* from,
           int64_t num_elems);
  void complete(size_t bucket);
  std::byte* elems_of_slot(int trainable_index, int slot, int64_t first_elem) const;
  const FoldStep& fold_step() const {
    return fold_.steps[static_cast<size_t>(position_.fold_step)];
  }
  /// Whether the leaf under way goes to its left neighbour in the tree without a buffer of its own.
  bool is_added_at_once() const {
    return has_one_micro_batch() && !fold_step().merges.empty() &&
           leaf_dtype_ == LeafDtype::kExact;
  }
  bool has_one_micro_batch() const { return position_.is_first && position_.is_last; }
  bool is_rounded(int trainable_index) const {
    return leaf_dtype_ == LeafDtype::kBf16 &&
           dtypes_[static_cast<size_t>(trainable_index)] == Dtype::kF32;
  }

  Device& device_;
  FoldPlan fold_;
  LeafDtype leaf_dtype_;
  int num_slots_ = 0;
  std::vector<GradientBucket> buckets_;
  std::function<void(size_t)> on_bucket_ready_;
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
};

}  // namespace lockstep
