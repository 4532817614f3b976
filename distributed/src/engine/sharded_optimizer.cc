#include "lockstep/distributed/sharded_optimizer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/check.h"
#include "data_parallel_impl.h"
#include "lockstep/distributed/agreement.h"

namespace lockstep {
namespace {

constexpr const char* kNumUpdates = "optimizer.num_updates";

// A run of elements of one group, in whole-space and in shard coordinates.
struct Segment {
  ElemRun elems;
  int64_t shard_offset = 0;
  size_t group = 0;
};

// This rank's part of one bucket.
struct Piece {
  std::vector<Segment> segments;
};

// This rank's shard of one trainable space.
struct Shard {
  DataParallel::TrainableSpace space;
  std::vector<BlockRun> owned;
  std::vector<int64_t> owned_offsets;  // of each run, in shard elements
  std::vector<DeviceMemory> slots;     // one an optimizer slot
  std::vector<Piece> pieces;           // one a bucket
};

int64_t shard_offset_of(const Shard& shard, int64_t elem) {
  for (size_t i = 0; i < shard.owned.size(); ++i) {
    ElemRun run = shard.space.space->elems_of(shard.owned[i]);
    if (run.first <= elem && elem < run.end) return shard.owned_offsets[i] + elem - run.first;
  }
  LOCKSTEP_CHECK(false, "element ", elem, " is not in this rank's shard of ",
                 shard.space.space->name);
  return 0;
}

std::vector<std::string> describe(const ShardedOptimizerOptions& options,
                                  const FlatOptimizer& optimizer,
                                  std::span<const std::string> group_lines) {
  const ScheduleSpec& schedule = options.schedule;
  std::vector<std::string> lines = {
      optimizer.hyperparameters_text(),
      cat("schedule ", schedule_kind_name(schedule.kind), " warmup_steps ", schedule.warmup_steps,
          " total_steps ", schedule.total_steps, " final_factor ", schedule.final_factor,
          " step_every ", schedule.step_every, " step_factor ", schedule.step_factor),
      cat("clip_max_norm ", options.clip_max_norm)};
  for (const ParamGroup& group : options.groups) {
    lines.push_back(cat("group ", group.name, " learning_rate_scale ", group.learning_rate_scale,
                        " weight_decay ",
                        group.weight_decay ? cat(*group.weight_decay) : "default"));
  }
  lines.insert(lines.end(), group_lines.begin(), group_lines.end());
  return lines;
}

Status check_options(const ShardedOptimizerOptions& options) {
  auto is_factor = [](double value) { return value >= 0 && std::isfinite(value); };
  if (!is_factor(options.clip_max_norm)) {
    return invalid_argument_error(cat("clip_max_norm is ", options.clip_max_norm,
                                      "; it must be a number from 0 (no clipping)"));
  }
  for (const ParamGroup& group : options.groups) {
    if (is_factor(group.learning_rate_scale) && is_factor(group.weight_decay.value_or(0))) continue;
    return invalid_argument_error(
        cat("group '", group.name, "' has learning_rate_scale ", group.learning_rate_scale,
            " and weight_decay ", group.weight_decay.value_or(0), "; both must be numbers from 0"));
  }
  if (options.groups.size() > 1 && !options.group_of) {
    return invalid_argument_error(cat(options.groups.size(),
                                      " parameter groups, but no group_of that says which "
                                      "parameter belongs to which"));
  }
  return Status::ok();
}

}  // namespace

struct ShardedOptimizer::Impl {
  Impl(const DataParallel& m, const ShardedOptimizerOptions& o) : model(m.impl_), options(o) {}

  DataParallel model;  // shares its insides
  ShardedOptimizerOptions options;
  std::unique_ptr<FlatOptimizer> optimizer;
  std::vector<ParamGroup> groups;
  std::vector<Shard> shards;
  int64_t num_updates = 0;
  std::pair<QueueMark, QueueMark> last_update;  // around it, in the compute queue

  Result<std::vector<std::string>> prepare();
  Result<std::vector<std::string>> plan();
  Status update_and_gather(double schedule_factor, double grad_scale, UpdateReport* report);
  void update_piece(const Shard& shard, const Piece& piece, double schedule_factor, double grad_scale);
};

Result<std::vector<std::string>> ShardedOptimizer::Impl::plan() {
  std::vector<std::string> group_lines;
  int rank = model.world().world_rank();
  for (const auto& space : model.trainable_spaces()) {
    Shard shard;
    shard.space = space;
    shard.owned = space.plan->owned(rank);
    int64_t num_elems = 0;
    for (BlockRun run : shard.owned) {
      shard.owned_offsets.push_back(num_elems);
      num_elems += space.space->elems_of(run).num_elems();
    }
    for (size_t i = 0; i < optimizer->slot_names().size(); ++i) {
      shard.slots.push_back(model.device().allocate(
          static_cast<size_t>(num_elems * dtype_size_bytes(space.space->dtype))));
    }
    std::vector<size_t> group_of_tensor;
    for (const TensorPlace& place : space.space->tensors) {
      size_t group = options.group_of ? options.group_of(place.spec.name) : 0;
      if (group >= groups.size()) {
        return invalid_argument_error(cat("parameter '", place.spec.name, "' was put into group ",
                                          group, ", but there are ", groups.size()));
      }
      group_of_tensor.push_back(group);
      if (options.group_of)
        group_lines.push_back(cat(place.spec.name, " in group ", groups[group].name));
    }
    for (int b = 0; b < space.plan->num_buckets(); ++b) {
      ElemRun piece_elems = space.space->elems_of(space.plan->piece(b, rank));
      Piece piece;
      for (size_t t = 0; t < space.space->tensors.size(); ++t) {
        const TensorPlace& place = space.space->tensors[t];
        ElemRun run{std::max(piece_elems.first, place.offset_elems),
                    std::min(piece_elems.end, place.offset_elems + place.spec.num_elems())};
        if (run.num_elems() <= 0) continue;
        piece.segments.push_back({run, shard_offset_of(shard, run.first), group_of_tensor[t]});
      }
      shard.pieces.push_back(std::move(piece));
    }
    shards.push_back(std::move(shard));
  }
  return group_lines;
}

Result<std::vector<std::string>> ShardedOptimizer::Impl::prepare() {
  LOCKSTEP_RETURN_IF_ERROR(check_options(options));
  LOCKSTEP_RETURN_IF_ERROR(check_schedule(options.schedule));
  LOCKSTEP_ASSIGN_OR_RETURN(optimizer, make_optimizer(options.optimizer));
  return plan();
}

void ShardedOptimizer::Impl::update_piece(const Shard& shard, const Piece& piece,
                                          double schedule_factor, double grad_scale) {
  const Dtype dtype = shard.space.space->dtype;
  const int64_t elem_bytes = dtype_size_bytes(dtype);
  for (const Segment& segment : piece.segments) {
    const int64_t at = segment.elems.first * elem_bytes;
    const auto slot = [&](size_t i) -> void* {
      return i < shard.slots.size() ? shard.slots[i].data() + segment.shard_offset * elem_bytes
                                    : nullptr;
    };
    const UpdateArrays arrays{static_cast<std::byte*>(shard.space.parameters) + at,
                              static_cast<const std::byte*>(shard.space.gradient_sums) + at, slot(0),
                              slot(1), segment.elems.num_elems()};
    optimizer->update(model.device().compute(), dtype, arrays,
                      update_scalars(options.optimizer, groups[segment.group], schedule_factor,
                                     num_updates, grad_scale));
  }
}

Status ShardedOptimizer::Impl::update_and_gather(double schedule_factor, double grad_scale,
                                                 UpdateReport* report) {
  DeviceQueue& queue = model.device().compute();
  const auto [last_begin, last_end] = last_update;
  QueueMark begin = queue.mark();
  for (size_t s = 0; s < shards.size(); ++s) {
    const Shard& shard = shards[s];
    // From the bucket that the next forward reads first.
    for (size_t b = shard.pieces.size(); b-- > 0;) {
      const Stopwatch watch;
      update_piece(shard, shard.pieces[b], schedule_factor, grad_scale);
      report->update_ms += watch.elapsed_ms();
      LOCKSTEP_RETURN_IF_ERROR(model.gather_updated(static_cast<int>(s), static_cast<int>(b)));
    }
  }
  last_update = {std::move(begin), queue.mark()};
  // The gradients of this step came after the update before it.
  if (!model.device().is_host()) report->update_ms = queue.ms_between(last_begin, last_end);
  return Status::ok();
}

Result<ShardedOptimizer> ShardedOptimizer::make(DataParallel& model,
                                                const ShardedOptimizerOptions& options) {
  auto impl = std::make_unique<Impl>(model, options);
  impl->groups =
      options.groups.empty() ? std::vector<ParamGroup>{{"all", 1.0, std::nullopt}} : options.groups;
  ControlPlane& plane = model.world().control_plane();
  Deadline deadline = Deadline::after_s(model.options().timeout_s);
  // What fails on one rank alone is voted on: a rank that just left would let the others wait.
  auto group_lines = caught([&] { return impl->prepare(); });
  LOCKSTEP_RETURN_IF_ERROR(
      plane.vote("optimizer", group_lines.is_ok() ? Status::ok() : group_lines.status(), deadline));
  LOCKSTEP_RETURN_IF_ERROR(check_same_on_all_ranks(
      plane, "optimizer", describe(options, *impl->optimizer, *group_lines), deadline));
  return ShardedOptimizer(std::move(impl));
}

ShardedOptimizer::ShardedOptimizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ShardedOptimizer::ShardedOptimizer(ShardedOptimizer&&) noexcept = default;
ShardedOptimizer& ShardedOptimizer::operator=(ShardedOptimizer&&) noexcept = default;
ShardedOptimizer::~ShardedOptimizer() = default;

Result<UpdateReport> ShardedOptimizer::step(const StepGradients& gradients) {
  LOCKSTEP_CHECK(gradients.is_finite, "the gradients of step ", gradients.step,
                 " are not finite; skip or stop");
  impl_->model.claim_gradients(gradients.step);
  UpdateReport report;
  const auto& options = impl_->options;
  double schedule_factor = learning_rate_factor(options.schedule, gradients.step);
  report.learning_rate = options.optimizer.learning_rate * schedule_factor;
  if (options.clip_max_norm > 0 && gradients.gradient_norm > options.clip_max_norm) {
    report.clip_factor = options.clip_max_norm / gradients.gradient_norm;
  }
  report.num_updates = ++impl_->num_updates;
  const double grad_scale = report.clip_factor / gradients.total_weight;
  // A device that has failed throws.
  LOCKSTEP_RETURN_IF_ERROR(
      caught([&] { return impl_->update_and_gather(schedule_factor, grad_scale, &report); })
          .with_context(cat("update of step ", gradients.step)));
  return report;
}

std::vector<StateKind> ShardedOptimizer::state_kinds() const {
  std::vector<StateKind> kinds;
  for (const Shard& shard : impl_->shards) {
    for (const std::string& slot : impl_->optimizer->slot_names())
      kinds.push_back({shard.space.space->name, slot});
  }
  return kinds;
}

std::vector<StateSlice> ShardedOptimizer::owned_state() {
  std::vector<StateSlice> slices;
  const auto& names = impl_->optimizer->slot_names();
  const auto& memory = impl_->model.impl_->state_memory;
  for (Shard& shard : impl_->shards) {
    auto elem_bytes = static_cast<size_t>(dtype_size_bytes(shard.space.space->dtype));
    for (size_t slot = 0; slot < names.size(); ++slot) {
      for (size_t i = 0; i < shard.owned.size(); ++i) {
        auto n = static_cast<size_t>(shard.space.space->elems_of(shard.owned[i]).num_elems());
        slices.push_back(
            {{shard.space.space->name, names[slot]},
             shard.owned[i],
             shard.slots[slot].bytes().subspan(
                 static_cast<size_t>(shard.owned_offsets[i]) * elem_bytes, n * elem_bytes),
             memory});
      }
    }
  }
  return slices;
}

Scalars ShardedOptimizer::scalars() const {
  return {{kNumUpdates, impl_->num_updates}};
}

Status ShardedOptimizer::restore_scalars(const Scalars& scalars) {
  auto it = scalars.find(kNumUpdates);
  if (it == scalars.end() || !std::holds_alternative<int64_t>(it->second) ||
      std::get<int64_t>(it->second) < 0) {
    return corruption_error(
        cat("the checkpoint has no count '", kNumUpdates, "'; it was not made with an optimizer"));
  }
  impl_->num_updates = std::get<int64_t>(it->second);
  return Status::ok();
}

uint64_t ShardedOptimizer::state_bytes() const {
  uint64_t bytes = 0;
  for (const Shard& shard : impl_->shards) {
    for (const DeviceMemory& slot : shard.slots) bytes += slot.num_bytes();
  }
  return bytes;
}

const ShardedOptimizerOptions& ShardedOptimizer::options() const {
  return impl_->options;
}

StateSchema state_schema(const DataParallel& model, const ShardedOptimizer& optimizer) {
  StateSchema schema;
  schema.layout = model.layout();
  auto slots = optimizer.state_kinds();
  for (const StateKind& value : model.state_kinds()) {
    schema.kinds.push_back(value);
    for (const StateKind& slot : slots) {
      if (slot.space == value.space) schema.kinds.push_back(slot);
    }
  }
  return schema;
}

OwnedState owned_state(DataParallel& model, ShardedOptimizer& optimizer) {
  OwnedState state{model.owned_values()};
  for (StateSlice& slice : optimizer.owned_state()) state.slices.push_back(std::move(slice));
  return state;
}

}  // namespace lockstep
