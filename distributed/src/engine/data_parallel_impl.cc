#include "data_parallel_impl.h"

#include <algorithm>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/norms.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/random.h"

namespace lockstep {
namespace {

// Keeps these seeds apart from others that are mixed from the same seed.
constexpr uint64_t kMicroBatchTag = 0x4d4943524f424131;  // "MICROBA1"
// Ranks that fail together fail within this; who is not there by then is named.
constexpr double kAgreeTimeoutS = 30;

}  // namespace

DataParallel::Impl::~Impl() {
  // Only when an exception passes through a step: its peers must not keep the thread waiting.
  if (worker != nullptr && !worker->is_idle()) world.communicator().abort("the step was given up");
}

void DataParallel::Impl::plan() {
  Communicator& communicator = world.communicator();
  int rank = world.world_rank(), size = world.world_size();
  int64_t leaf = options.leaf_micro_batches;
  num_leaves = (options.micro_batches_per_step + leaf - 1) / leaf;
  leaves = leaves_of_rank(num_leaves, rank, size);
  micro_batches = {leaves.first * leaf,
                   std::min(leaves.end * leaf, options.micro_batches_per_step)};
  fold = plan_fold(num_leaves, leaves);
  bool native = options.reduction == Reduction::kNative;

  const auto& spaces = model.layout().spaces();
  std::vector<GradientBucket> buckets;
  int64_t max_micro_batches = 0, num_parameters = 0, max_blocks = 0;
  std::vector<int64_t> blocks_of_rank(static_cast<size_t>(size), 0);
  for (size_t s = 0; s < spaces.size(); ++s) {
    const FlatSpace& space = spaces[s];
    if (space.role != SpaceRole::kTrainable) {
      value_plans.push_back(
          ShardPlan::plan(plan_buckets(space.num_blocks(), space.num_blocks()), size));
      continue;
    }
    auto runs =
        plan_buckets(space.num_blocks(),
                     blocks_per_bucket(static_cast<int64_t>(options.bucket_mib * 1024 * 1024),
                                       dtype_size_bytes(space.dtype)));
    int trainable_index = static_cast<int>(trainables.size());
    for (size_t b = 0; b < runs.size(); ++b) {
      buckets.push_back(
          {static_cast<int>(s), trainable_index, static_cast<int>(b), space.elems_of(runs[b])});
    }
    value_plans.push_back(ShardPlan::plan(runs, size));
    trainables.push_back(
        {static_cast<int>(s),
         std::make_unique<TreeReducer>(communicator, space, value_plans.back(), num_leaves)});
    num_parameters += static_cast<int64_t>(space.tensors.size());
    for (int r = 0; r < size; ++r)
      blocks_of_rank[static_cast<size_t>(r)] += value_plans.back().num_owned_blocks(r);
  }
  for (int r = 0; r < size; ++r) {
    LeafRange range = leaves_of_rank(num_leaves, r, size);
    max_micro_batches = std::max(max_micro_batches, range.num_leaves() * leaf);
    max_blocks = std::max(max_blocks, blocks_of_rank[static_cast<size_t>(r)]);
  }
  message_shape = {max_micro_batches, max_blocks, num_parameters};
  message_out.resize(message_shape.num_bytes());
  messages_in.resize(message_shape.num_bytes() * static_cast<size_t>(size));

  FoldPlan gradient_fold = native ? FoldPlan{1, {FoldStep{0, {}}}, {leaves}} : fold;
  gradients = std::make_unique<GradientStore>(model, std::move(buckets), gradient_fold,
                                              native ? micro_batches.size() : leaf,
                                              [this](size_t bucket) { on_bucket_ready(bucket); });
  buffers = std::make_unique<BufferStore>(model, communicator, fold, num_leaves,
                                          options.micro_batches_per_step);
  for (const Trainable& t : trainables) {
    public_spaces.push_back(
        {&spaces[static_cast<size_t>(t.space_index)], &t.reducer->plan(),
         model.storages()[static_cast<size_t>(t.space_index)].mutable_data_ptr(),
         gradients->slot_data(static_cast<int>(public_spaces.size()), 0)});
  }
}

void DataParallel::Impl::choose_schedule() {
  schedule = options.schedule;
  if (schedule == CommSchedule::kAuto) {
    // Without a core to spare a communication thread takes its time from compute (facts: 0.84 s
    // became 1.08 s).
    bool spare_core = num_usable_cpus() >= 2 * world.num_local_ranks() * options.intra_op_threads;
    schedule = spare_core || world.num_hosts() > 1 ? CommSchedule::kThread : CommSchedule::kInline;
  }
  // Ranks that share a process serialise backward under one lock, so nothing may wait for a peer
  // inside it.
  if (world.process_lock() != nullptr) schedule = CommSchedule::kAfterBackward;
  if (schedule == CommSchedule::kThread && world.world_size() > 1)
    worker = std::make_unique<CommWorker>();
}

LeafPosition DataParallel::Impl::position_of(int64_t index, bool for_gradients) const {
  if (for_gradients && options.reduction == Reduction::kNative) {
    return {0, index == micro_batches.first, index + 1 == micro_batches.end};
  }
  int64_t leaf = options.leaf_micro_batches;
  bool is_last = index + 1 == micro_batches.end || (index + 1) % leaf == 0;
  return {index / leaf - leaves.first, index % leaf == 0, is_last};
}

// Checks nothing: a rank that failed comes here too, and must get to its peers.
void DataParallel::Impl::begin_step(int64_t at_step) {
  phase = Phase::kAccumulating;
  step = at_step;
  next_micro_batch = micro_batches.first;
  losses.clear();
  weights.clear();
  gradients->begin_step();
  reduced_during_backward = 0;
}

void DataParallel::Impl::begin(int64_t at_step, int64_t index) {
  gradients->begin_micro_batch(position_of(index, true));
  buffers->begin_micro_batch();
  process_lock = lock_and_seed_generators(
      world, mix(mix(options.seed, kMicroBatchTag, 0), static_cast<uint64_t>(at_step),
                 static_cast<uint64_t>(index)));
  in_micro_batch = true;
}

void DataParallel::Impl::on_bucket_ready(size_t bucket) {
  if (world.world_size() == 1) return;
  if (schedule == CommSchedule::kAfterBackward) {
    deferred.push_back(bucket);
  } else if (worker != nullptr) {
    worker->submit([this, bucket] {
      // Nobody catches above a thread.
      try {
        exchange_bucket(bucket);
      } catch (const std::exception& error) {
        comm_status = internal_error(cat("exchange of bucket ", bucket, ": ", error.what()));
      }
    });
  } else {
    exchange_bucket(bucket);
  }
}

void DataParallel::Impl::exchange_bucket(size_t index) {
  if (!comm_status.is_ok()) return;
  const GradientBucket& bucket = gradients->buckets()[index];
  Trainable& trainable = trainables[static_cast<size_t>(bucket.trainable_index)];
  bool is_f32 =
      model.layout().spaces()[static_cast<size_t>(bucket.space_index)].dtype == Dtype::kF32;
  auto run = [&]<typename T>(T) -> Status {
    if (options.reduction == Reduction::kNative) {
      T* values =
          static_cast<T*>(gradients->slot_data(bucket.trainable_index, 0)) + bucket.elems.first;
      return world.communicator().native_all_reduce_sum(values, bucket.elems.num_elems(),
                                                        deadline());
    }
    std::vector<T*> roots;
    for (int i = 0; i < trainable.reducer->num_roots(); ++i) {
      roots.push_back(static_cast<T*>(gradients->slot_data(bucket.trainable_index, i)));
    }
    return trainable.reducer->reduce_bucket(bucket.index_in_space, roots, deadline());
  };
  comm_status = is_f32 ? run(float{}) : run(double{});
  if (in_backward) ++reduced_during_backward;
}

void DataParallel::Impl::finish_backward() {
  buffers->finish_micro_batch(position_of(next_micro_batch, false));
  if (process_lock.owns_lock()) process_lock.unlock();
  gradients->finish_micro_batch();
  in_micro_batch = false;
  if (++next_micro_batch == micro_batches.end) {
    for (size_t bucket : deferred) exchange_bucket(bucket);
    deferred.clear();
  }
}

void DataParallel::Impl::take_part_with_zeros(int64_t at_step) {
  // A backward that failed half-way may have announced buckets: those are not exchanged again.
  bool is_started = phase == Phase::kAccumulating && step == at_step;
  if (in_micro_batch) {
    if (worker != nullptr) worker->drain();
    gradients->discard();
    in_micro_batch = false;
    if (process_lock.owns_lock()) process_lock.unlock();
  }
  if (!is_started) begin_step(at_step);
  while (next_micro_batch < micro_batches.end) {
    begin(at_step, next_micro_batch);
    losses.push_back(0);
    weights.push_back(0);
    finish_backward();
  }
}

// An exchange fails at each rank in its own way and time; what they leave with is one verdict.
Status DataParallel::Impl::agree_on_exchange(const Status& mine) {
  if (mine.is_ok()) return mine;
  phase = Phase::kIdle;
  Status verdict =
      world.control_plane().vote(cat("exchange of step ", step), mine,
                                 Deadline::after_s(std::min(options.timeout_s, kAgreeTimeoutS)));
  return verdict.is_ok() ? mine : verdict;
}

Status DataParallel::Impl::exchange_messages(uint64_t flags, const Status& mine,
                                             std::vector<StepMessage>* messages) {
  StepMessage out;
  out.flags = flags;
  out.integer_buffers_hash = buffers->integer_hash();
  out.error = mine.is_ok() ? 0 : 1;
  out.losses = losses;
  out.weights = weights;
  out.parameter_used = gradients->used();
  for (size_t t = 0; t < public_spaces.size(); ++t) {
    const TrainableSpace& space = public_spaces[t];
    for (BlockRun run : space.plan->owned(world.world_rank())) {
      ElemRun elems = space.space->elems_of(run);
      size_t at = out.block_sums.size(), n = static_cast<size_t>(elems.num_elems());
      out.block_sums.resize(at + static_cast<size_t>(run.num_blocks()));
      std::span<double> sums(out.block_sums.data() + at, static_cast<size_t>(run.num_blocks()));
      if (space.space->dtype == Dtype::kF32) {
        std::span values(static_cast<const float*>(space.gradient_sums) + elems.first, n);
        block_sums_of_squares(*space.space, run, values, sums);
      } else {
        std::span values(static_cast<const double*>(space.gradient_sums) + elems.first, n);
        block_sums_of_squares(*space.space, run, values, sums);
      }
    }
  }
  out.pack(message_shape, message_out);
  LOCKSTEP_RETURN_IF_ERROR(world.communicator().all_gather(
      message_out, messages_in, cat("results of step ", step), deadline()));
  size_t size = message_shape.num_bytes();
  for (int r = 0; r < world.world_size(); ++r) {
    messages->push_back(StepMessage::unpack(
        message_shape,
        std::span<const std::byte>(messages_in).subspan(static_cast<size_t>(r) * size, size)));
  }
  return Status::ok();
}

}  // namespace lockstep
