#include "lockstep/distributed/data_parallel.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>

#include <atomic>
#include <cmath>
#include <mutex>
#include <optional>

#include "buffer_store.h"
#include "comm_worker.h"
#include "flat_model.h"
#include "gradient_store.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/norms.h"
#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/tree_reducer.h"
#include "parallel_start.h"
#include "step_message.h"
#include "step_outcome.h"

namespace lockstep {
namespace {

std::span<std::byte> bytes_of(const at::Tensor& flat) {
  return {static_cast<std::byte*>(flat.mutable_data_ptr()), flat.nbytes()};
}

}  // namespace

struct DataParallel::Impl {
  Impl(World& w, const DataParallelOptions& o, FlatModel m)
      : world(&w), options(o), model(std::move(m)) {}

  // A trainable space with what its exchange needs.
  struct Trainable {
    int space_index = 0;
    std::unique_ptr<TreeReducer> reducer;
  };

  World* world;
  DataParallelOptions options;
  FlatModel model;
  CommSchedule schedule = CommSchedule::kInline;
  int64_t num_leaves = 0;
  LeafRange leaves, micro_batches;  // of this rank; LeafRange counts micro-batches in the second
  FoldPlan fold;
  std::vector<Trainable> trainables;
  std::vector<TrainableSpace> public_spaces;
  std::vector<ShardPlan> value_plans;  // by space of the layout: who saves which blocks
  std::unique_ptr<GradientStore> gradients;
  std::unique_ptr<BufferStore> buffers;
  StepMessageShape message_shape;
  std::vector<std::byte> message_out, messages_in;

  // The step under way.
  int64_t step = -1;
  int64_t next_micro_batch = 0;
  bool in_micro_batch = false;
  std::unique_lock<std::mutex> process_lock;
  std::vector<double> losses, weights;
  std::vector<size_t> deferred;  // buckets to exchange after backward
  Status comm_status;            // written by the communication thread, read after drain()
  std::atomic<bool> in_backward{false};
  std::atomic<int> reduced_during_backward{0};
  OverlapReport last_overlap;
  std::unique_ptr<CommWorker> worker;  // last: joined before what it uses goes away

  Deadline deadline() const { return Deadline::after_s(options.timeout_s); }

  void plan();
  void choose_schedule();
  LeafPosition position_of(int64_t micro_batch, bool for_gradients) const;
  void begin_step(int64_t at_step);
  void begin(int64_t at_step, int64_t index);
  void on_bucket_ready(size_t bucket);
  void exchange_bucket(size_t bucket);
  void finish_backward();
  void take_part_with_zeros(int64_t at_step);
  Status exchange_messages(uint64_t flags, const Status& mine, std::vector<StepMessage>* messages);
};

void DataParallel::Impl::plan() {
  Communicator& communicator = world->communicator();
  int rank = world->world_rank(), size = world->world_size();
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
                                              native ? micro_batches.num_leaves() : leaf,
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
    bool spare_core = num_usable_cpus() >= 2 * world->num_local_ranks() * options.intra_op_threads;
    schedule = spare_core || world->num_hosts() > 1 ? CommSchedule::kThread : CommSchedule::kInline;
  }
  // Ranks that share a process serialise backward under one lock, so nothing may wait for a peer
  // inside it.
  if (world->process_lock() != nullptr) schedule = CommSchedule::kAfterBackward;
  if (schedule == CommSchedule::kThread && world->world_size() > 1)
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

void DataParallel::Impl::begin_step(int64_t at_step) {
  LOCKSTEP_CHECK(!in_micro_batch, "backward() was not called for micro-batch ", next_micro_batch,
                 " of step ", step);
  model.check_still_flat();
  step = at_step;
  next_micro_batch = micro_batches.first;
  losses.clear();
  weights.clear();
  gradients->begin_step();
  reduced_during_backward = 0;
}

void DataParallel::Impl::begin(int64_t at_step, int64_t index) {
  LOCKSTEP_CHECK(!in_micro_batch, "backward() was not called for micro-batch ", next_micro_batch,
                 " of step ", step);
  LOCKSTEP_CHECK(step == at_step && next_micro_batch == index, "micro-batch ", index, " of step ",
                 at_step, " out of order: expected ", next_micro_batch, " of step ", step);
  gradients->begin_micro_batch(position_of(index, true));
  buffers->begin_micro_batch();
  if (std::mutex* lock = world->process_lock()) process_lock = std::unique_lock(*lock);
  seed_generators(mix(options.seed, static_cast<uint64_t>(at_step), static_cast<uint64_t>(index)));
  in_micro_batch = true;
}

void DataParallel::Impl::on_bucket_ready(size_t bucket) {
  if (world->world_size() == 1) return;
  if (schedule == CommSchedule::kAfterBackward) {
    deferred.push_back(bucket);
  } else if (worker != nullptr) {
    worker->submit([this, bucket] { exchange_bucket(bucket); });
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
      return world->communicator().native_all_reduce_sum(values, bucket.elems.num_elems(),
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
  bool is_started = step == at_step && (in_micro_batch || next_micro_batch > micro_batches.first);
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
    for (BlockRun run : space.plan->owned(world->world_rank())) {
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
  LOCKSTEP_RETURN_IF_ERROR(world->communicator().all_gather(
      message_out, messages_in, cat("results of step ", step), deadline()));
  size_t size = message_shape.num_bytes();
  for (int r = 0; r < world->world_size(); ++r) {
    messages->push_back(StepMessage::unpack(
        message_shape,
        std::span<const std::byte>(messages_in).subspan(static_cast<size_t>(r) * size, size)));
  }
  return Status::ok();
}

static Result<FlatModel> make_flat(World& world, torch::nn::Module& module,
                                   const DataParallelOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(check_options(options, world.world_size()));
  LOCKSTEP_ASSIGN_OR_RETURN(FlatModel flat, FlatModel::make(module));
  LOCKSTEP_RETURN_IF_ERROR(check_trainable_dtypes(flat.layout()));
  return flat;
}

Result<DataParallel> DataParallel::make(World& world, torch::nn::Module& module,
                                        const DataParallelOptions& options) {
  // What fails on one rank alone is voted on: a rank that just left would let the others wait.
  Deadline deadline = Deadline::after_s(options.timeout_s > 0 ? options.timeout_s : 1);
  Result<FlatModel> flat = make_flat(world, module, options);
  LOCKSTEP_RETURN_IF_ERROR(
      world.control_plane().vote("model", flat.is_ok() ? Status::ok() : flat.status(), deadline));
  set_compute_mode(options.intra_op_threads);
  LOCKSTEP_RETURN_IF_ERROR(check_same_on_all_ranks(world.control_plane(), "model and its options",
                                                   fingerprint(flat->layout(), options), deadline));
  auto impl = std::make_unique<Impl>(world, options, std::move(flat).value());
  impl->plan();
  impl->choose_schedule();
  if (options.broadcast_initial_weights && world.world_size() > 1) {
    for (const at::Tensor& storage : impl->model.storages()) {
      LOCKSTEP_RETURN_IF_ERROR(
          world.communicator().broadcast(bytes_of(storage), 0, "initial weights", deadline));
    }
    impl->buffers->take_over_live();
  }
  return DataParallel(std::move(impl));
}

DataParallel::DataParallel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DataParallel::DataParallel(DataParallel&&) noexcept = default;
DataParallel& DataParallel::operator=(DataParallel&&) noexcept = default;
DataParallel::~DataParallel() = default;

MicroBatchRange::Iterator::Iterator(DataParallel* owner, int64_t step, int64_t index, int64_t end)
    : owner_(owner), step_(step), index_(index), end_(end) {
  if (index_ != end_) owner_->begin_micro_batch({step_, index_});
}

MicroBatchRange::Iterator& MicroBatchRange::Iterator::operator++() {
  if (++index_ != end_) owner_->begin_micro_batch({step_, index_});
  return *this;
}

MicroBatchRange DataParallel::micro_batches(int64_t step) {
  return {this, step, impl_->micro_batches.first, impl_->micro_batches.end};
}

LeafRange DataParallel::micro_batch_range() const {
  return impl_->micro_batches;
}

void DataParallel::begin_micro_batch(const MicroBatch& micro_batch) {
  if (micro_batch.index == impl_->micro_batches.first) impl_->begin_step(micro_batch.step);
  impl_->begin(micro_batch.step, micro_batch.index);
}

void DataParallel::backward(const MicroBatch& micro_batch, const at::Tensor& mean_loss,
                            double weight) {
  Impl& impl = *impl_;
  LOCKSTEP_CHECK(impl.in_micro_batch && micro_batch.step == impl.step &&
                     micro_batch.index == impl.next_micro_batch,
                 "backward() for micro-batch ", micro_batch.index, " of step ", micro_batch.step,
                 ", but the current one is ", impl.next_micro_batch, " of step ", impl.step);
  LOCKSTEP_CHECK(mean_loss.numel() == 1, "the loss must be a scalar, found ", mean_loss.numel(),
                 " elements");
  LOCKSTEP_CHECK(weight > 0 && std::isfinite(weight),
                 "the weight of a micro-batch must be positive, found ", weight);
  impl.gradients->check_untouched();
  impl.losses.push_back(mean_loss.item<double>());
  impl.weights.push_back(weight);
  impl.in_backward = true;
  try {
    mean_loss.backward(at::scalar_tensor(weight, mean_loss.options()).expand_as(mean_loss));
  } catch (...) {
    impl.in_backward = false;
    impl.losses.pop_back();
    impl.weights.pop_back();
    throw;
  }
  impl.in_backward = false;
  impl.finish_backward();
}

Result<StepGradients> DataParallel::reduce(int64_t step, uint64_t flags, const Status& mine) {
  Impl& impl = *impl_;
  Status my_status = mine;
  if (!my_status.is_ok()) impl.take_part_with_zeros(step);
  LOCKSTEP_CHECK(impl.step == step && impl.next_micro_batch == impl.micro_batches.end, "reduce(",
                 step, ") before backward() of every micro-batch: at ", impl.next_micro_batch,
                 " of ", impl.micro_batches.end, " in step ", impl.step);
  if (impl.worker != nullptr) impl.worker->drain();
  impl.last_overlap = {static_cast<int>(impl.gradients->buckets().size()),
                       impl.reduced_during_backward};
  LOCKSTEP_RETURN_IF_ERROR(impl.comm_status);
  if (my_status.is_ok() && !impl.buffers->integer_conflict().empty()) {
    my_status = invalid_argument_error(
        cat("step ", step, ": integer buffer '", impl.buffers->integer_conflict(),
            "' differs between two micro-batches; it must not depend on the data"));
  }
  std::vector<StepMessage> messages;
  LOCKSTEP_RETURN_IF_ERROR(impl.exchange_messages(flags, my_status, &messages));
  for (const StepMessage& message : messages) {
    if (message.error == 0) continue;
    impl.buffers->discard();
    return impl.world->control_plane().vote(cat("step ", step), my_status, impl.deadline());
  }
  for (const StepMessage& message : messages) {
    if (message.integer_buffers_hash == messages[0].integer_buffers_hash) continue;
    std::vector<std::string> lines = impl.buffers->integer_lines();
    impl.buffers->discard();
    return check_same_on_all_ranks(
        impl.world->control_plane(),
        cat("module's integer buffers after step ", step, ", which must not depend on the data"),
        lines, impl.deadline());
  }
  StepGradients out;
  out.step = step;
  settle_step(messages, impl.public_spaces, impl.gradients->parameter_names(), &out);
  if (!impl.buffers->is_empty()) {
    if (out.is_finite) {
      LOCKSTEP_RETURN_IF_ERROR(impl.buffers->reduce(impl.deadline()));
    } else {
      impl.buffers->discard();
    }
  }
  return out;
}

Status DataParallel::publish_restored_state() {
  Impl& impl = *impl_;
  const auto& spaces = impl.model.layout().spaces();
  int trainable = 0;
  for (size_t s = 0; s < spaces.size(); ++s) {
    const ShardPlan& plan = impl.value_plans[s];
    if (spaces[s].role == SpaceRole::kTrainable) {
      for (int b = 0; b < plan.num_buckets(); ++b)
        LOCKSTEP_RETURN_IF_ERROR(all_gather_parameters(trainable, b));
      ++trainable;
      continue;
    }
    auto bytes = bytes_of(impl.model.storages()[s]);
    auto elem_bytes = static_cast<size_t>(dtype_size_bytes(spaces[s].dtype));
    for (int r = 0; r < impl.world->world_size(); ++r) {
      for (BlockRun run : plan.owned(r)) {
        ElemRun elems = spaces[s].elems_of(run);
        auto piece = bytes.subspan(static_cast<size_t>(elems.first) * elem_bytes,
                                   static_cast<size_t>(elems.num_elems()) * elem_bytes);
        LOCKSTEP_RETURN_IF_ERROR(impl.world->communicator().broadcast(
            piece, r, cat("restored ", spaces[s].name), impl.deadline()));
      }
    }
  }
  impl.buffers->take_over_live();
  return Status::ok();
}

const FlatLayout& DataParallel::layout() const {
  return impl_->model.layout();
}
World& DataParallel::world() {
  return *impl_->world;
}
const DataParallelOptions& DataParallel::options() const {
  return impl_->options;
}
CommSchedule DataParallel::schedule() const {
  return impl_->schedule;
}
DataParallel::OverlapReport DataParallel::overlap() const {
  return impl_->last_overlap;
}

std::vector<StateKind> DataParallel::state_kinds() const {
  std::vector<StateKind> kinds;
  for (const FlatSpace& space : layout().spaces())
    kinds.push_back({space.name, std::string(value_kind(space.role))});
  return kinds;
}

std::vector<StateSlice> DataParallel::owned_values() {
  std::vector<StateSlice> slices;
  const auto& spaces = layout().spaces();
  for (size_t s = 0; s < spaces.size(); ++s) {
    auto bytes = bytes_of(impl_->model.storages()[s]);
    auto elem_bytes = static_cast<size_t>(dtype_size_bytes(spaces[s].dtype));
    for (BlockRun run : impl_->value_plans[s].owned(impl_->world->world_rank())) {
      ElemRun elems = spaces[s].elems_of(run);
      slices.push_back({{spaces[s].name, std::string(value_kind(spaces[s].role))},
                        run,
                        bytes.subspan(static_cast<size_t>(elems.first) * elem_bytes,
                                      static_cast<size_t>(elems.num_elems()) * elem_bytes)});
    }
  }
  return slices;
}

MemoryLedger DataParallel::memory() const {
  MemoryLedger ledger;
  const auto& spaces = layout().spaces();
  for (const FlatSpace& space : spaces) {
    if (space.role != SpaceRole::kBuffer)
      ledger.parameter_bytes += static_cast<uint64_t>(space.num_bytes());
  }
  ledger.gradient_bytes = impl_->gradients->bytes_per_slot();
  ledger.fold_bytes =
      ledger.gradient_bytes * static_cast<uint64_t>(impl_->gradients->num_slots() - 1);
  ledger.buffer_bytes = impl_->buffers->bytes();
  for (const auto& t : impl_->trainables)
    ledger.exchange_bytes += static_cast<uint64_t>(t.reducer->scratch_bytes());
  return ledger;
}

std::span<const DataParallel::TrainableSpace> DataParallel::trainable_spaces() const {
  return impl_->public_spaces;
}

Status DataParallel::all_gather_parameters(int space_index, int bucket) {
  const TrainableSpace& space = impl_->public_spaces[static_cast<size_t>(space_index)];
  TreeReducer& reducer = *impl_->trainables[static_cast<size_t>(space_index)].reducer;
  if (space.space->dtype == Dtype::kF32) {
    return reducer.all_gather_bucket(bucket, static_cast<float*>(space.parameters),
                                     impl_->deadline());
  }
  return reducer.all_gather_bucket(bucket, static_cast<double*>(space.parameters),
                                   impl_->deadline());
}

}  // namespace lockstep
