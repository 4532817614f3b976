#include "buffer_store.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <utility>

#include "gradient_store.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/bucketer.h"

namespace lockstep {

// A floating space. Each fold slot holds the n values followed by n counts of the micro-batches
// that changed them, so that both travel in one exchange.
struct BufferStore::FloatSpace {
  at::Tensor live, base;
  int64_t n = 0;
  Dtype dtype = Dtype::kF32;
  FlatSpace doubled;
  std::vector<at::Tensor> slots;
  std::unique_ptr<TreeReducer> reducer;

  std::byte* values(int slot) const {
    return static_cast<std::byte*>(slots[static_cast<size_t>(slot)].mutable_data_ptr());
  }
  std::byte* counts(int slot) const { return values(slot) + n * dtype_size_bytes(dtype); }

  void record(DeviceQueue& queue, int slot, bool is_first) const {
    queue.record_change(
        dtype, {live.const_data_ptr(), base.const_data_ptr(), values(slot), counts(slot), is_first},
        n);
  }

  Status reduce(DeviceQueue& queue, int num_slots, int64_t num_micro_batches, Deadline deadline) {
    std::vector<void*> roots;
    for (int i = 0; i < num_slots; ++i) roots.push_back(values(i));
    for (int bucket = 0; bucket < reducer->plan().num_buckets(); ++bucket) {
      LOCKSTEP_RETURN_IF_ERROR(reducer->reduce_bucket(
          bucket, std::span<void* const>(roots).first(static_cast<size_t>(reducer->num_roots())),
          deadline));
      LOCKSTEP_RETURN_IF_ERROR(reducer->all_gather_bucket(bucket, roots[0], deadline));
    }
    queue.mean_of_changed(dtype, base.mutable_data_ptr(), values(0), counts(0), num_micro_batches,
                          n);
    return Status::ok();
  }
};

BufferStore::BufferStore(const FlatModel& model, Device& device, Communicator& communicator,
                         const FoldPlan& fold, int64_t num_leaves, int64_t micro_batches_per_step)
    : device_(device),
      communicator_(communicator),
      fold_(fold),
      micro_batches_per_step_(micro_batches_per_step) {
  const auto& spaces = model.layout().spaces();
  for (size_t s = 0; s < spaces.size(); ++s) {
    if (spaces[s].role != SpaceRole::kBuffer) continue;
    const at::Tensor& live = model.storages()[s];
    if (spaces[s].dtype != Dtype::kF32 && spaces[s].dtype != Dtype::kF64) {
      integers_.push_back({live, live.clone(), live.clone(),
                           at::zeros_like(live, live.options().dtype(at::kBool)), &spaces[s], false,
                           std::vector<std::byte>(live.nbytes())});
      continue;
    }
    auto space = std::make_unique<FloatSpace>();
    space->live = live;
    space->base = live.clone();
    space->n = spaces[s].num_elems;
    space->dtype = spaces[s].dtype;
    space->doubled.name = cat(spaces[s].name, " with counts of changes");
    space->doubled.role = SpaceRole::kBuffer;
    space->doubled.dtype = spaces[s].dtype;
    space->doubled.num_elems = 2 * space->n;
    for (int i = 0; i < fold_.num_slots; ++i)
      space->slots.push_back(live.new_zeros({2 * space->n}));
    auto buckets = plan_buckets(space->doubled.num_blocks(), space->doubled.num_blocks());
    space->reducer = std::make_unique<TreeReducer>(
        communicator, space->doubled, ShardPlan::plan(buckets, communicator.world_size()),
        num_leaves, TreeReducerOptions{}, device);
    spaces_.push_back(std::move(space));
  }
}

BufferStore::~BufferStore() = default;

void BufferStore::copy(const at::Tensor& to, const at::Tensor& from) const {
  device_.compute().copy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
}

void BufferStore::begin_micro_batch() {
  for (auto& space : spaces_) copy(space->live, space->base);
  for (auto& space : integers_) copy(space.live, space.base);
}

void BufferStore::finish_micro_batch(const LeafPosition& position) {
  const FoldStep& step = fold_.steps[static_cast<size_t>(position.fold_step)];
  for (auto& space : spaces_) {
    space->record(device_.compute(), step.slot, position.is_first);
    if (!position.is_last) continue;
    for (const FoldMerge& merge : step.merges) {
      device_.compute().add_into(space->dtype, space->values(merge.into), space->values(merge.from),
                                 2 * space->n);
    }
  }
  for (auto& space : integers_) note_integers(&space);
}

void BufferStore::note_integers(IntegerSpace* space) const {
  if (std::exchange(space->has_result, true)) {
    space->differs.logical_or_(space->live.ne(space->first));
    return;
  }
  copy(space->first, space->live);
  space->differs.zero_();
}

Status BufferStore::settle_integers(Deadline deadline) {
  DeviceQueue& queue = device_.compute();
  for (IntegerSpace& space : integers_) {
    if (!space.has_result) continue;
    std::vector<char> differs(space.differs.nbytes());
    queue.copy(space.result.data(), space.first.const_data_ptr(), space.result.size());
    queue.copy(differs.data(), space.differs.const_data_ptr(), differs.size());
    LOCKSTEP_RETURN_IF_ERROR(queue.settle("integer buffers", deadline));
    for (const TensorPlace& place : space.space->tensors) {
      const auto begin = differs.begin() + place.offset_elems;
      const bool is_conflict = std::any_of(begin, begin + place.spec.num_elems(),
                                           [](char differs_here) { return differs_here != 0; });
      if (is_conflict && conflict_.empty()) conflict_ = place.spec.name;
    }
  }
  return Status::ok();
}

Status BufferStore::reduce(Deadline deadline) {
  DeviceQueue& queue = device_.communication();
  queue.wait_for(device_.compute().mark());
  for (auto& space : spaces_) {
    LOCKSTEP_RETURN_IF_ERROR(
        space->reduce(queue, fold_.num_slots, micro_batches_per_step_, deadline));
  }
  if (!spaces_.empty()) LOCKSTEP_RETURN_IF_ERROR(communicator_.settle("buffers", deadline));
  device_.compute().wait_for(queue.mark());
  for (auto& space : integers_) {
    if (std::exchange(space.has_result, false)) copy(space.base, space.first);
  }
  discard();
  return Status::ok();
}

void BufferStore::take_over_live() {
  for (auto& space : spaces_) copy(space->base, space->live);
  for (auto& space : integers_) copy(space.base, space.live);
}

void BufferStore::discard() {
  begin_micro_batch();
  for (auto& space : integers_) space.has_result = false;
  conflict_.clear();
}

uint64_t BufferStore::integer_hash() const {
  uint64_t hash = 0;
  for (const auto& space : integers_) {
    if (!space.has_result) continue;
    hash = mix(hash, xxh3_64(space.result), 1);
  }
  return hash;
}

std::vector<std::string> BufferStore::integer_lines() const {
  std::vector<std::string> lines;
  for (const auto& space : integers_) {
    const std::byte* data = space.result.data();
    auto elem_bytes = static_cast<size_t>(dtype_size_bytes(space.space->dtype));
    for (const TensorPlace& place : space.space->tensors) {
      std::span<const std::byte> bytes(data + static_cast<size_t>(place.offset_elems) * elem_bytes,
                                       static_cast<size_t>(place.spec.num_elems()) * elem_bytes);
      lines.push_back(cat(place.spec.name, " (hash ", hex64(xxh3_64(bytes)), ")"));
    }
  }
  return lines;
}

uint64_t BufferStore::bytes() const {
  uint64_t bytes = 0;
  for (const auto& space : spaces_) {
    bytes += 2 * space->live.nbytes();
    for (const auto& slot : space->slots) bytes += slot.nbytes();
  }
  for (const auto& space : integers_) bytes += 3 * space.live.nbytes() + space.differs.nbytes();
  return bytes;
}

}  // namespace lockstep
