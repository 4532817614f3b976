#include "buffer_store.h"

#include <ATen/ops/empty_like.h>

#include <cstring>
#include <type_traits>

#include "gradient_store.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/vector_ops.h"
#include "lockstep/distributed/bucketer.h"

namespace lockstep {

// A floating space. Each fold slot holds the n values followed by n counts of the micro-batches
// that changed them, so that both travel in one exchange.
struct BufferStore::FloatSpace {
  at::Tensor live, base;
  int64_t n = 0;
  bool is_f32 = true;
  FlatSpace doubled;
  std::vector<at::Tensor> slots;
  std::unique_ptr<TreeReducer> reducer;

  template <typename F>
  auto with_type(F&& f) {
    return is_f32 ? f(float{}) : f(double{});
  }

  template <typename T>
  T* slot(int i) {
    return slots[static_cast<size_t>(i)].mutable_data_ptr<T>();
  }

  template <typename T>
  void record(int slot_index, bool is_first) {
    using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    T* values = slot<T>(slot_index);
    T* counts = values + n;
    const T* now = live.const_data_ptr<T>();
    const T* before = base.const_data_ptr<T>();
    for (int64_t i = 0; i < n; ++i) {
      Bits a, b;
      std::memcpy(&a, now + i, sizeof(T));
      std::memcpy(&b, before + i, sizeof(T));
      T changed = a == b ? T{0} : T{1};
      values[i] = is_first ? now[i] : values[i] + now[i];
      counts[i] = is_first ? changed : counts[i] + changed;
    }
  }

  template <typename T>
  Status reduce(int num_slots, int64_t num_micro_batches, Deadline deadline) {
    std::vector<T*> roots;
    for (int i = 0; i < num_slots; ++i) roots.push_back(slot<T>(i));
    for (int bucket = 0; bucket < reducer->plan().num_buckets(); ++bucket) {
      LOCKSTEP_RETURN_IF_ERROR(reducer->reduce_bucket(
          bucket, std::span<T* const>(roots).first(static_cast<size_t>(reducer->num_roots())),
          deadline));
      LOCKSTEP_RETURN_IF_ERROR(reducer->all_gather_bucket(bucket, roots[0], deadline));
    }
    T* result = base.mutable_data_ptr<T>();
    for (int64_t i = 0; i < n; ++i) {
      if (roots[0][n + i] != T{0}) result[i] = roots[0][i] / static_cast<T>(num_micro_batches);
    }
    return Status::ok();
  }
};

BufferStore::BufferStore(const FlatModel& model, Communicator& communicator, const FoldPlan& fold,
                         int64_t num_leaves, int64_t micro_batches_per_step)
    : fold_(fold), micro_batches_per_step_(micro_batches_per_step) {
  const auto& spaces = model.layout().spaces();
  for (size_t s = 0; s < spaces.size(); ++s) {
    if (spaces[s].role != SpaceRole::kBuffer) continue;
    const at::Tensor& live = model.storages()[s];
    if (spaces[s].dtype != Dtype::kF32 && spaces[s].dtype != Dtype::kF64) {
      integers_.push_back({live, live.clone(), at::empty_like(live), &spaces[s], false});
      continue;
    }
    auto space = std::make_unique<FloatSpace>();
    space->live = live;
    space->base = live.clone();
    space->n = spaces[s].num_elems;
    space->is_f32 = spaces[s].dtype == Dtype::kF32;
    space->doubled.name = cat(spaces[s].name, " with counts of changes");
    space->doubled.role = SpaceRole::kBuffer;
    space->doubled.dtype = spaces[s].dtype;
    space->doubled.num_elems = 2 * space->n;
    for (int i = 0; i < fold_.num_slots; ++i)
      space->slots.push_back(live.new_zeros({2 * space->n}));
    auto buckets = plan_buckets(space->doubled.num_blocks(), space->doubled.num_blocks());
    space->reducer = std::make_unique<TreeReducer>(
        communicator, space->doubled, ShardPlan::plan(buckets, communicator.world_size()),
        num_leaves);
    spaces_.push_back(std::move(space));
  }
}

BufferStore::~BufferStore() = default;

void BufferStore::begin_micro_batch() {
  for (auto& space : spaces_) {
    std::memcpy(space->live.mutable_data_ptr(), space->base.const_data_ptr(), space->live.nbytes());
  }
  for (auto& space : integers_) {
    std::memcpy(space.live.mutable_data_ptr(), space.base.const_data_ptr(), space.live.nbytes());
  }
}

void BufferStore::finish_micro_batch(const LeafPosition& position) {
  const FoldStep& step = fold_.steps[static_cast<size_t>(position.fold_step)];
  for (auto& space : spaces_) {
    space->with_type([&]<typename T>(T) {
      space->template record<T>(step.slot, position.is_first);
      if (!position.is_last) return;
      for (const FoldMerge& merge : step.merges) {
        add_into(space->template slot<T>(merge.into), space->template slot<T>(merge.from),
                 2 * space->n);
      }
    });
  }
  for (auto& space : integers_) {
    if (!space.has_result) {
      std::memcpy(space.result.mutable_data_ptr(), space.live.const_data_ptr(),
                  space.live.nbytes());
      space.has_result = true;
      continue;
    }
    if (std::memcmp(space.result.const_data_ptr(), space.live.const_data_ptr(),
                    space.live.nbytes()) == 0)
      continue;
    for (const TensorPlace& place : space.space->tensors) {
      auto size = static_cast<size_t>(dtype_size_bytes(space.space->dtype));
      auto offset = static_cast<size_t>(place.offset_elems) * size;
      auto bytes = static_cast<size_t>(place.spec.num_elems()) * size;
      if (conflict_.empty() &&
          std::memcmp(static_cast<const char*>(space.result.const_data_ptr()) + offset,
                      static_cast<const char*>(space.live.const_data_ptr()) + offset, bytes) != 0) {
        conflict_ = place.spec.name;
      }
    }
  }
}

Status BufferStore::reduce(Deadline deadline) {
  for (auto& space : spaces_) {
    LOCKSTEP_RETURN_IF_ERROR(space->with_type([&]<typename T>(T) {
      return space->template reduce<T>(fold_.num_slots, micro_batches_per_step_, deadline);
    }));
  }
  for (auto& space : integers_) {
    if (space.has_result) {
      std::memcpy(space.base.mutable_data_ptr(), space.result.const_data_ptr(),
                  space.live.nbytes());
    }
    space.has_result = false;
  }
  discard();
  return Status::ok();
}

void BufferStore::take_over_live() {
  for (auto& space : spaces_) {
    std::memcpy(space->base.mutable_data_ptr(), space->live.const_data_ptr(), space->live.nbytes());
  }
  for (auto& space : integers_) {
    std::memcpy(space.base.mutable_data_ptr(), space.live.const_data_ptr(), space.live.nbytes());
  }
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
    std::span<const std::byte> bytes(static_cast<const std::byte*>(space.result.const_data_ptr()),
                                     space.result.nbytes());
    hash = mix(hash, xxh3_64(bytes), 1);
  }
  return hash;
}

std::vector<std::string> BufferStore::integer_lines() const {
  std::vector<std::string> lines;
  for (const auto& space : integers_) {
    const auto* data = static_cast<const std::byte*>(space.result.const_data_ptr());
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
  for (const auto& space : integers_) bytes += 3 * space.live.nbytes();
  return bytes;
}

}  // namespace lockstep
