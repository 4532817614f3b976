#include "gradient_store.h"

#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <cstring>

#include "lockstep/core/base/check.h"
#include "lockstep/core/flat/vector_ops.h"

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

GradientStore::GradientStore(const FlatModel& model, std::vector<GradientBucket> buckets,
                             FoldPlan fold, std::function<void(size_t)> on_bucket_ready)
    : fold_(std::move(fold)),
      buckets_(std::move(buckets)),
      on_bucket_ready_(std::move(on_bucket_ready)) {
  const auto& spaces = model.layout().spaces();
  std::vector<int> trainable_index(spaces.size(), -1);
  for (size_t s = 0; s < spaces.size(); ++s) {
    if (spaces[s].role != SpaceRole::kTrainable) continue;
    trainable_index[s] = static_cast<int>(space_indices_.size());
    space_indices_.push_back(static_cast<int>(s));
    dtypes_.push_back(spaces[s].dtype);
    auto& slots = slots_.emplace_back();
    for (int i = 0; i < fold_.num_slots; ++i) slots.push_back(at::zeros_like(model.storages()[s]));
  }
  overlapping_.assign(buckets_.size(), 0);
  for (const PlacedTensor& item : model.tensors()) {
    int t = trainable_index[static_cast<size_t>(item.space_index)];
    if (t < 0) continue;
    const TensorPlace& place = spaces[static_cast<size_t>(item.space_index)]
                                   .tensors[static_cast<size_t>(item.tensor_index)];
    Parameter parameter{item.tensor, {}, {}, false};
    for (const at::Tensor& slot : slots_[static_cast<size_t>(t)]) {
      parameter.views.push_back(model.view(slot, item.space_index, item.tensor_index));
    }
    int64_t first = place.offset_elems, end = first + place.spec.num_elems();
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

void GradientStore::check_gradient_is_view(size_t index) const {
  const Parameter& parameter = parameters_[index];
  const at::Tensor& grad = parameter.tensor.grad();
  const at::Tensor& view = parameter.views[static_cast<size_t>(current_slot_)];
  LOCKSTEP_CHECK(grad.defined() && grad.const_data_ptr() == view.const_data_ptr(),
                 "the gradient of '", names_[index],
                 "' was replaced; do not call zero_grad() or assign grad: DataParallel clears "
                 "gradients itself");
}

void GradientStore::begin_micro_batch(const LeafPosition& position) {
  LOCKSTEP_CHECK(!in_micro_batch_,
                 "a micro-batch is still under way: call backward() for each one");
  const FoldStep& step = fold_.steps[static_cast<size_t>(position.fold_step)];
  if (current_slot_ >= 0) {
    for (size_t i = 0; i < parameters_.size(); ++i) check_gradient_is_view(i);
  }
  if (position.is_first) {
    for (auto& slots : slots_) {
      at::Tensor& slot = slots[static_cast<size_t>(step.slot)];
      std::memset(slot.mutable_data_ptr(), 0, slot.nbytes());
    }
  }
  if (current_slot_ != step.slot) {
    for (Parameter& parameter : parameters_) {
      parameter.tensor.mutable_grad() = parameter.views[static_cast<size_t>(step.slot)];
    }
    current_slot_ = step.slot;
  }
  for (Parameter& parameter : parameters_) parameter.has_fired = false;
  pending_ = overlapping_;
  complete_.assign(buckets_.size(), false);
  position_ = position;
  in_micro_batch_ = true;
}

void GradientStore::on_gradient(size_t index) {
  Parameter& parameter = parameters_[index];
  LOCKSTEP_CHECK(in_micro_batch_, "backward reached '", names_[index],
                 "' outside a micro-batch; run it through DataParallel::backward");
  LOCKSTEP_CHECK(
      !parameter.has_fired, "'", names_[index],
      "' received a gradient twice in one backward (a re-entrant backward inside the model?)");
  check_gradient_is_view(index);
  parameter.has_fired = true;
  used_[index] = true;
  if (!position_.is_last) return;
  for (size_t bucket : parameter.buckets) {
    if (--pending_[bucket] == 0) complete(bucket);
  }
}

void GradientStore::complete(size_t b) {
  const GradientBucket& bucket = buckets_[b];
  const FoldStep& step = fold_.steps[static_cast<size_t>(position_.fold_step)];
  for (const FoldMerge& merge : step.merges) {
    void* into = slot_data(bucket.trainable_index, merge.into);
    const void* from = slot_data(bucket.trainable_index, merge.from);
    int64_t first = bucket.elems.first, n = bucket.elems.num_elems();
    if (dtypes_[static_cast<size_t>(bucket.trainable_index)] == Dtype::kF32) {
      add_into(static_cast<float*>(into) + first, static_cast<const float*>(from) + first, n);
    } else {
      add_into(static_cast<double*>(into) + first, static_cast<const double*>(from) + first, n);
    }
  }
  complete_[b] = true;
  if (position_.fold_step + 1 != static_cast<int64_t>(fold_.steps.size())) return;
  while (next_ready_ < buckets_.size() && complete_[next_ready_]) on_bucket_ready_(next_ready_++);
}

void GradientStore::finish_micro_batch() {
  LOCKSTEP_CHECK(in_micro_batch_, "no micro-batch is under way");
  if (position_.is_last) {
    for (size_t b = 0; b < buckets_.size(); ++b) {
      if (!complete_[b]) complete(b);
    }
  }
  in_micro_batch_ = false;
}

}  // namespace lockstep
