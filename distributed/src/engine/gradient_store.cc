#include "gradient_store.h"

#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

#include "lockstep/core/base/check.h"

namespace lockstep {

class GradientStore::Hook final : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientStore* store, size_t parameter) : store_(store), parameter_(parameter) {}
  void operator()(const torch::autograd::Variable& /*tensor*/) override {
    store_->on_gradient(parameter_);
  }

 private:
  GradientStore* store_;
  size_t parameter_;
};

namespace {

// The buffers that a fold needs: the last slot is only ever written by leaves that are added to
// their left neighbour in the same step, which leaves of one micro-batch do without a buffer.
int slots_needed(const FoldPlan& fold, int64_t leaf_micro_batches, LeafDtype leaf_dtype) {
  if (leaf_micro_batches > 1 || leaf_dtype != LeafDtype::kExact) return fold.num_slots;
  int needed = 1;
  for (const FoldStep& step : fold.steps)
    needed = std::max(needed, step.merges.empty() ? step.slot + 1 : step.slot);
  return needed;
}

// Whether the elements of `grad` lie in memory as those of `view`: one run, in the same order.
// Autograd's contract for parameters that are dense, as ours are.
bool has_layout_of(const at::Tensor& grad, const at::Tensor& view) {
  if (grad.layout() != at::kStrided || grad.scalar_type() != view.scalar_type() ||
      grad.sizes() != view.sizes())
    return false;
  for (int64_t i = 0; i < grad.dim(); ++i) {
    if (grad.size(i) > 1 && grad.stride(i) != view.stride(i)) return false;
  }
  return true;
}

}  // namespace

GradientStore::GradientStore(const FlatModel& model, Device& device,
                             std::vector<GradientBucket> buckets, FoldPlan fold,
                             int64_t leaf_micro_batches, LeafDtype leaf_dtype,
                             std::function<void(size_t)> on_bucket_ready)
    : device_(device),
      fold_(std::move(fold)),
      leaf_dtype_(leaf_dtype),
      num_slots_(slots_needed(fold_, leaf_micro_batches, leaf_dtype)),
      buckets_(std::move(buckets)),
      on_bucket_ready_(std::move(on_bucket_ready)) {
  const auto& spaces = model.layout().spaces();
  std::vector<int> trainable_index(spaces.size(), -1);
  for (size_t s = 0; s < spaces.size(); ++s) {
    if (spaces[s].role != SpaceRole::kTrainable) continue;
    trainable_index[s] = static_cast<int>(slots_.size());
    dtypes_.push_back(spaces[s].dtype);
    auto& slots = slots_.emplace_back();
    for (int i = 0; i < num_slots_; ++i) slots.push_back(at::zeros_like(model.storages()[s]));
  }
  overlapping_.assign(buckets_.size(), 0);
  for (const PlacedTensor& item : model.tensors()) {
    int t = trainable_index[static_cast<size_t>(item.space_index)];
    if (t < 0) continue;
    const TensorPlace& place = spaces[static_cast<size_t>(item.space_index)]
                                   .tensors[static_cast<size_t>(item.tensor_index)];
    Parameter parameter{item.tensor, {}, {}, t, place.offset_elems, place.spec.num_elems()};
    for (const at::Tensor& slot : slots_[static_cast<size_t>(t)]) {
      parameter.views.push_back(model.view(slot, item.space_index, item.tensor_index));
    }
    int64_t first = parameter.first_elem, end = first + parameter.num_elems;
    for (size_t b = 0; b < buckets_.size(); ++b) {
      if (buckets_[b].trainable_index != t || buckets_[b].elems.end <= first ||
          end <= buckets_[b].elems.first)
        continue;
      parameter.buckets.push_back(b);
      ++overlapping_[b];
    }
    names_.push_back(place.spec.name);
    parameters_.push_back(std::move(parameter));
  }
  used_.assign(parameters_.size(), false);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameters_[i].tensor,
                                                   std::make_unique<Hook>(this, i));
  }
}

GradientStore::~GradientStore() {
  for (Parameter& parameter : parameters_) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter.tensor, nullptr);
    parameter.tensor.mutable_grad() = at::Tensor();
  }
}

void* GradientStore::slot_data(int trainable_index, int slot) const {
  return slots_[static_cast<size_t>(trainable_index)][static_cast<size_t>(slot)].mutable_data_ptr();
}

uint64_t GradientStore::bytes_per_slot() const {
  uint64_t bytes = 0;
  for (const auto& slots : slots_) bytes += slots.empty() ? 0 : slots[0].nbytes();
  return bytes;
}

void GradientStore::begin_step() {
  used_.assign(used_.size(), false);
  next_ready_ = 0;
}

std::byte* GradientStore::elems_of_slot(int trainable_index, int slot, int64_t first_elem) const {
  Dtype dtype = dtypes_[static_cast<size_t>(trainable_index)];
  return static_cast<std::byte*>(slot_data(trainable_index, slot)) +
         first_elem * dtype_size_bytes(dtype);
}

void GradientStore::check_untouched() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i];
    const at::Tensor& grad = parameter.tensor.grad();
    const void* expected = nullptr;
    if (parameter.is_in_leaf)
      expected = parameter.views[static_cast<size_t>(fold_step().slot)].const_data_ptr();
    LOCKSTEP_CHECK((grad.defined() ? grad.const_data_ptr() : nullptr) == expected,
                   "the gradient of '", names_[i],
                   "' was set or cleared by the caller; do not call zero_grad() between "
                   "micro-batches or assign grad: DataParallel clears gradients itself");
  }
}

void GradientStore::begin_micro_batch(const LeafPosition& position) {
  LOCKSTEP_CHECK(!in_micro_batch_,
                 "a micro-batch is still under way: call backward() for each one");
  position_ = position;
  for (Parameter& parameter : parameters_) {
    parameter.has_fired = false;
    if (!position.is_first) continue;
    parameter.is_in_leaf = false;
    parameter.tensor.mutable_grad() = at::Tensor();
  }
  pending_ = overlapping_;
  complete_.assign(buckets_.size(), false);
  in_micro_batch_ = true;
}

void GradientStore::on_gradient(size_t index) {
  Parameter& parameter = parameters_[index];
  LOCKSTEP_CHECK(in_micro_batch_, "backward reached '", names_[index],
                 "' outside a micro-batch; run it through DataParallel::backward");
  LOCKSTEP_CHECK(
      !parameter.has_fired, "'", names_[index],
      "' received a gradient twice in one backward (a re-entrant backward inside the model?)");
  const at::Tensor grad = parameter.is_in_leaf ? at::Tensor() : take(parameter, names_[index]);
  parameter.has_fired = true;
  used_[index] = true;
  const ElemRun all{parameter.first_elem, parameter.first_elem + parameter.num_elems};
  if (!position_.is_last) {
    if (!grad.defined()) return;
    put(parameter, grad, all);
    parameter.tensor.mutable_grad() = parameter.views[static_cast<size_t>(fold_step().slot)];
    return;
  }
  // Piece by piece: the exchange of a large tensor's first bucket begins while the rest is copied.
  for (size_t b : parameter.buckets) {
    const ElemRun bucket = buckets_[b].elems;
    if (grad.defined())
      put(parameter, grad, {std::max(all.first, bucket.first), std::min(all.end, bucket.end)});
    if (--pending_[b] == 0) complete(b);
  }
}

/// The gradient that autograd has left, which from here on is the leaf's.
at::Tensor GradientStore::take(Parameter& parameter, const std::string& name) {
  at::Tensor grad = std::move(parameter.tensor.mutable_grad());
  parameter.tensor.mutable_grad() = at::Tensor();
  LOCKSTEP_CHECK(grad.defined() && has_layout_of(grad, parameter.views[0]), "the gradient of '",
                 name,
                 "' is not a dense tensor of the parameter's shape and dtype (a sparse "
                 "embedding?); only dense gradients can be reduced");
  parameter.is_in_leaf = true;
  return grad;
}

/// `part` of a parameter's gradient, in elements of its space, to where the leaf is.
void GradientStore::put(const Parameter& parameter, const at::Tensor& grad, ElemRun part) {
  const int t = parameter.trainable_index, slot = fold_step().slot;
  const int64_t elem_bytes = dtype_size_bytes(dtypes_[static_cast<size_t>(t)]);
  const std::byte* values = static_cast<const std::byte*>(grad.const_data_ptr()) +
                            (part.first - parameter.first_elem) * elem_bytes;
  if (is_added_at_once()) {  // has no slot
    add(t, fold_step().merges[0].into, part.first, values, part.num_elems());
    return;
  }
  std::byte* to = elems_of_slot(t, slot, part.first);
  if (is_rounded(t) && has_one_micro_batch()) {
    device_.compute().round_to_bf16(reinterpret_cast<float*>(to),
                                    reinterpret_cast<const float*>(values), part.num_elems());
  } else {
    device_.compute().copy(to, values, static_cast<size_t>(part.num_elems() * elem_bytes));
  }
}

void GradientStore::take_zeros(Parameter& parameter) {
  int t = parameter.trainable_index, slot = fold_step().slot;
  int64_t first = parameter.first_elem, n = parameter.num_elems;
  const Dtype dtype = dtypes_[static_cast<size_t>(t)];
  if (!is_added_at_once()) {
    device_.compute().fill_zero(elems_of_slot(t, slot, first),
                                static_cast<size_t>(n * dtype_size_bytes(dtype)));
    return;
  }
  // Adding zero is not nothing: it turns -0 into +0, as it does where the zeros have a buffer.
  device_.compute().add_zeros(dtype, elems_of_slot(t, fold_step().merges[0].into, first), n);
}

void GradientStore::add(int trainable_index, int into_slot, int64_t first_elem, const void* from,
                        int64_t num_elems) {
  device_.compute().add_into(dtypes_[static_cast<size_t>(trainable_index)],
                             elems_of_slot(trainable_index, into_slot, first_elem), from,
                             num_elems);
}

void GradientStore::complete(size_t b) {
  const GradientBucket& bucket = buckets_[b];
  const auto& merges = fold_step().merges;
  if (is_rounded(bucket.trainable_index) && !has_one_micro_batch()) {
    auto* leaf = reinterpret_cast<float*>(
        elems_of_slot(bucket.trainable_index, fold_step().slot, bucket.elems.first));
    device_.compute().round_to_bf16(leaf, leaf, bucket.elems.num_elems());
  }
  for (size_t i = is_added_at_once() ? 1 : 0; i < merges.size(); ++i) {
    add(bucket.trainable_index, merges[i].into, bucket.elems.first,
        elems_of_slot(bucket.trainable_index, merges[i].from, bucket.elems.first),
        bucket.elems.num_elems());
  }
  complete_[b] = true;
  if (position_.fold_step + 1 != static_cast<int64_t>(fold_.steps.size())) return;
  while (next_ready_ < buckets_.size() && complete_[next_ready_]) on_bucket_ready_(next_ready_++);
}

void GradientStore::finish_micro_batch() {
  LOCKSTEP_CHECK(in_micro_batch_, "no micro-batch is under way");
  if (position_.is_last) {
    for (Parameter& parameter : parameters_) {
      if (!parameter.is_in_leaf) take_zeros(parameter);
    }
    for (size_t b = 0; b < buckets_.size(); ++b) {
      if (!complete_[b]) complete(b);
    }
  }
  in_micro_batch_ = false;
}

}  // namespace lockstep
