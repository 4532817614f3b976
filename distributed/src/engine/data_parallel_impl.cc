#include "data_parallel_impl.h"

#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "bucket_choice.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/random.h"

namespace lockstep {
namespace {

// Keeps these seeds apart from others that are mixed from the same seed.
constexpr uint64_t kMicroBatchTag = 0x4d4943524f424131;  // "MICROBA1"
// A rank whose exchange fails waits for the others to find out, which may take them their whole
// time-out, but no longer than this; who is not there by then is named.
constexpr double kAgreeTimeoutS = 30;
// Of a rank alone on the host, which exchanges nothing: gradients are folded while they are in
// cache.
constexpr double kBucketMibAlone = 4;
constexpr double kMib = 1024 * 1024;
// What an exchange costs beside its measured latency where its thread shares a processor with
// compute, which was idle when that was measured: the two take turns, and one has the processor for
// about this long (Linux's base slice). Measured: DESIGN.md 7.
constexpr double kTurnS = 3e-3;

}  // namespace

DataParallel::Impl::~Impl() {
  end_on_device();
  if (worker == nullptr || worker->is_idle()) return;
  if (phase == Phase::kAccumulating) {
    // An exception passes through a step: its peers must not keep the thread waiting.
    world.communicator().abort("the step was given up");
  } else {
    worker->drain();
  }
}

// The module lives on and may be used: its parameters are to be those of the last step. And nothing
// of ours may go while an exchange works in it.
void DataParallel::Impl::end_on_device() {
  if (device_communicator == nullptr) return;
  // A device that has failed throws at whatever it is asked.
  const Status ended = caught([&]() -> Status {
    if (phase == Phase::kAccumulating) return aborted_error("a step is under way");
    LOCKSTEP_RETURN_IF_ERROR(comm_status);
    if (gate != nullptr) gate->pass_marks();
    return device_communicator->settle("parameters of the last step", deadline());
  });
  if (ended.is_ok()) return;
  device_communicator->abort("the step was given up");
  const Status quiet = caught([&] {
    return device.communication().settle("exchanges that were given up",
                                         Deadline::after_s(kAgreeTimeoutS));
  });
  if (!quiet.is_ok()) world.log().warn(quiet.message());
  // Now, not after the gradients: one that still connects would begin to work in them.
  device_communicator.reset();
}

TreeReducerOptions DataParallel::Impl::transfers() const {
  TreeReducerOptions transfers = TreeReducerOptions::between(world, device);
  transfers.leaves_are_bf16 = options.leaf_dtype == LeafDtype::kBf16;
  return transfers;
}

Status DataParallel::Impl::choose_buckets() {
  uint64_t total_bytes = 0;
  for (const FlatSpace& space : model.layout().spaces()) {
    if (space.role == SpaceRole::kTrainable)
      total_bytes += static_cast<uint64_t>(space.num_bytes());
  }
  // A device is told of each bucket; alone it has no reason for more than one.
  const double alone_mib =
      is_on_device() ? std::ceil(static_cast<double>(total_bytes) / kMib) : kBucketMibAlone;
  bucket_choice.bucket_mib = options.bucket_mib > 0 ? options.bucket_mib : std::max(alone_mib, 1.0);
  if (options.bucket_mib > 0 || world.world_size() == 1) return Status::ok();
  LOCKSTEP_ASSIGN_OR_RETURN(ExchangeCost cost,
                            measure_exchange(data_communicator(), world.control_plane(), device,
                                             transfers(), deadline()));
  if (world.num_hosts() > 1 && !is_on_device()) cost.latency_s += kTurnS;
  bucket_choice.bucket_mib =
      shared_evenly(best_bucket_bytes(total_bytes, cost), world.world_size()) / kMib;
  bucket_choice.latency_ms = cost.latency_s * 1e3;
  bucket_choice.gb_per_s = cost.s_per_byte > 0 ? 1e-9 / cost.s_per_byte : 0;
  return Status::ok();
}

void DataParallel::Impl::plan() {
  Communicator& communicator = data_communicator();
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
    auto runs = plan_buckets(
        space.num_blocks(), blocks_per_bucket(static_cast<int64_t>(bucket_choice.bucket_mib * kMib),
                                              dtype_size_bytes(space.dtype)));
    int trainable_index = static_cast<int>(trainables.size());
    for (size_t b = 0; b < runs.size(); ++b) {
      buckets.push_back(
          {static_cast<int>(s), trainable_index, static_cast<int>(b), space.elems_of(runs[b])});
    }
    value_plans.push_back(ShardPlan::plan(runs, size));
    // Buckets go from the end of the space to its begin, sums the other way.
    num_block_sums += value_plans.back().num_owned_blocks(rank);
    int64_t first = num_block_sums;
    for (size_t b = 0; b < runs.size(); ++b)
      first_block_sum.push_back(first -=
                                value_plans.back().piece(static_cast<int>(b), rank).num_blocks());
    trainables.push_back(
        {static_cast<int>(s), std::make_unique<TreeReducer>(communicator, space, value_plans.back(),
                                                            num_leaves, transfers(), device)});
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
  block_sums = device.allocate(static_cast<size_t>(max_blocks) * sizeof(double));
  gradients = std::make_unique<GradientStore>(
      model, device, std::move(buckets), gradient_fold, native ? micro_batches.size() : leaf,
      options.leaf_dtype, [this](size_t bucket) { on_bucket_ready(bucket); });
  buffers = std::make_unique<BufferStore>(model, device, communicator, fold, num_leaves,
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
  // A device's queue is behind compute by itself.
  if (is_on_device()) schedule = CommSchedule::kInline;
  if (world.world_size() == 1) return;
  if (schedule == CommSchedule::kThread) worker = std::make_unique<CommWorker>();
  if (worker == nullptr && !is_on_device()) return;
  std::vector<std::span<const std::byte>> buckets;
  for (const TrainableSpace& space : public_spaces) {
    first_gate_bucket.push_back(buckets.size());
    const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(space.space->dtype));
    for (int b = 0; b < space.plan->num_buckets(); ++b) {
      const ElemRun elems = space.space->elems_of(space.plan->bucket(b));
      buckets.emplace_back(static_cast<const std::byte*>(space.parameters) +
                               static_cast<size_t>(elems.first) * elem_bytes,
                           static_cast<size_t>(elems.num_elems()) * elem_bytes);
    }
  }
  gate = std::make_unique<ParameterGate>(device, std::move(buckets));
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
  exchange_tasks.clear();
  exchanged_marks.clear();
  reduced_during_backward = 0;
}

void DataParallel::Impl::begin(int64_t at_step, int64_t index) {
  gradients->begin_micro_batch(position_of(index, true));
  buffers->begin_micro_batch();
  process_lock =
      lock_and_seed_generators(world,
                               mix(mix(options.seed, kMicroBatchTag, 0),
                                   static_cast<uint64_t>(at_step), static_cast<uint64_t>(index)),
                               device);
  in_micro_batch = true;
}

void DataParallel::Impl::on_bucket_ready(size_t bucket) {
  if (world.world_size() == 1) return;
  if (schedule == CommSchedule::kAfterBackward) {
    deferred.push_back(bucket);
  } else if (worker != nullptr) {
    exchange_tasks.push_back(worker->submit([this, bucket] {
      // Nobody catches above a thread.
      const Status done = caught([&] {
        exchange_bucket(bucket);
        return Status::ok();
      });
      if (!done.is_ok()) comm_status = done.with_context(cat("exchange of bucket ", bucket));
    }));
  } else if (is_on_device()) {
    follow_compute();
    exchange_bucket(bucket);
    exchanged_marks.push_back(device.communication().mark());
  } else {
    run_exposed([this, bucket] { exchange_bucket(bucket); });
  }
}

void DataParallel::Impl::run_exposed(const std::function<void()>& communicate) {
  const Stopwatch watch;
  communicate();
  exposed_ms += watch.elapsed_ms();
}

void DataParallel::Impl::exchange_bucket(size_t index) {
  if (!comm_status.is_ok()) return;
  const Stopwatch watch;
  const QueueMark begin = device.communication().mark();
  const GradientBucket& bucket = gradients->buckets()[index];
  Trainable& trainable = trainables[static_cast<size_t>(bucket.trainable_index)];
  if (options.reduction == Reduction::kNative) {
    const Dtype dtype = model.layout().spaces()[static_cast<size_t>(bucket.space_index)].dtype;
    auto sum = [&]<typename T>(T) {
      T* values =
          static_cast<T*>(gradients->slot_data(bucket.trainable_index, 0)) + bucket.elems.first;
      return data_communicator().native_all_reduce_sum(values, bucket.elems.num_elems(),
                                                       deadline());
    };
    comm_status = dtype == Dtype::kF32 ? sum(float{}) : sum(double{});
  } else {
    std::vector<void*> roots;
    for (int i = 0; i < trainable.reducer->num_roots(); ++i)
      roots.push_back(gradients->slot_data(bucket.trainable_index, i));
    comm_status = trainable.reducer->reduce_bucket(bucket.index_in_space, roots, deadline());
  }
  if (is_on_device()) {
    exchange_marks.emplace_back(begin, device.communication().mark());
  } else {
    communication_ms += watch.elapsed_ms();
  }
  if (in_backward) ++reduced_during_backward;
}

Status DataParallel::Impl::gather_bucket(size_t trainable, int bucket) {
  if (world.world_size() == 1) return Status::ok();
  const Stopwatch watch;
  const QueueMark begin = device.communication().mark();
  const Status status = trainables[trainable].reducer->all_gather_bucket(
      bucket, public_spaces[trainable].parameters, deadline());
  if (is_on_device()) {
    exchange_marks.emplace_back(begin, device.communication().mark());
  } else {
    communication_ms += watch.elapsed_ms();
  }
  return status;
}

Status DataParallel::Impl::broadcast(std::span<std::byte> bytes, int root, std::string_view what) {
  follow_compute();
  LOCKSTEP_RETURN_IF_ERROR(data_communicator().broadcast(bytes, root, what, deadline()));
  return data_communicator().settle(what, deadline());
}

// On a device the exchanges of a step are still under way when backward returns.
// `computed`: when compute had nothing left to do but wait for them. It may have a whole step
// before it, which no exchange's time-out is to measure.
Status DataParallel::Impl::settle_exchanges(const QueueMark& computed) {
  if (!is_on_device() || !comm_status.is_ok()) return comm_status;
  // The communicator first: it alone notices a peer that is gone, for which compute may wait too.
  comm_status = data_communicator().settle(cat("exchanges of step ", step), deadline());
  LOCKSTEP_RETURN_IF_ERROR(comm_status);
  LOCKSTEP_RETURN_IF_ERROR(
      device.compute().settle("compute of a step", Deadline::after_s(kMaxComputeS)));
  DeviceQueue& queue = device.communication();
  for (const auto& [begin, end] : exchange_marks) communication_ms += queue.ms_between(begin, end);
  if (!exchange_marks.empty())
    exposed_ms += std::max(0.0, queue.ms_between(computed, exchange_marks.back().second));
  exchange_marks.clear();
  if (gate != nullptr) exposed_ms += gate->take_waited_ms();
  return Status::ok();
}

void DataParallel::Impl::gather_behind(size_t trainable, int bucket) {
  const size_t gated = first_gate_bucket[trainable] + static_cast<size_t>(bucket);
  gate->watch();
  if (worker == nullptr) {
    follow_compute();
    QueueMark gathered;
    const Status done = caught([&] {
      const Status handed = comm_status.is_ok() ? gather_bucket(trainable, bucket) : comm_status;
      gathered = device.communication().mark();
      return handed;
    });
    if (comm_status.is_ok()) comm_status = done;
    // Whatever happened: one that reads a closed bucket waits for ever.
    gate->close(gated);
    gate->open(gated, std::move(gathered));
    return;
  }
  gate->close(gated);
  worker->submit([this, trainable, bucket, gated] {
    if (comm_status.is_ok()) comm_status = caught([&] { return gather_bucket(trainable, bucket); });
    gate->open(gated);
  });
}

void DataParallel::Impl::finish_backward() {
  buffers->finish_micro_batch(position_of(next_micro_batch, false));
  if (process_lock.owns_lock()) process_lock.unlock();
  gradients->finish_micro_batch();
  in_micro_batch = false;
  if (++next_micro_batch == micro_batches.end) {
    run_exposed([this] {
      for (size_t bucket : deferred) exchange_bucket(bucket);
    });
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
    losses.push_back(
        at::zeros({}, at::TensorOptions(at::kDouble).device(std::string(device.name()))));
    weights.push_back(0);
    finish_backward();
  }
}

// An exchange fails at each rank in its own way and time; what they leave with is one verdict.
Status DataParallel::Impl::agree_on_exchange(const Status& mine) {
  if (mine.is_ok()) return mine;
  phase = Phase::kIdle;
  in_micro_batch = false;
  if (process_lock.owns_lock()) process_lock.unlock();
  // Without the step: one rank may find out in the last exchange of a step, another in the next
  // one.
  Status verdict = world.control_plane().vote(
      "exchange between ranks", mine.with_context(cat("step ", step)),
      Deadline::after_s(std::min(2 * options.timeout_s, kAgreeTimeoutS)));
  // Where the others did not come to the vote, what this rank met is the better half of the story.
  if (verdict.message().find(mine.message()) != std::string::npos) return verdict;
  return verdict.is_ok() ? mine : mine.with_context(verdict.message());
}

// Read back once a step, not once a micro-batch: on a GPU each reading waits for it.
std::vector<double> DataParallel::Impl::losses_of_step() const {
  std::vector<double> values;
  if (losses.empty()) return values;
  std::vector<at::Tensor> together;
  for (const at::Tensor& loss : losses) together.push_back(loss.reshape({}));
  const at::Tensor all = at::stack(together).cpu();
  const double* data = all.const_data_ptr<double>();
  return {data, data + all.numel()};
}

// Bucket by bucket, behind its exchange, while the next ones are on the wire.
void DataParallel::Impl::sum_squares() {
  DeviceQueue& queue = device.compute();
  auto* sums = reinterpret_cast<double*>(block_sums.data());
  for (size_t i = 0; i < gradients->buckets().size(); ++i) {
    if (i < exchange_tasks.size()) run_exposed([&] { worker->wait_for(exchange_tasks[i]); });
    if (i < exchanged_marks.size()) queue.wait_for(exchanged_marks[i]);
    const GradientBucket& bucket = gradients->buckets()[i];
    const TrainableSpace& space = public_spaces[static_cast<size_t>(bucket.trainable_index)];
    const BlockRun own = space.plan->piece(bucket.index_in_space, world.world_rank());
    if (own.num_blocks() == 0) continue;
    const ElemRun elems = space.space->elems_of(own);
    queue.block_sums_of_squares(space.space->dtype,
                                static_cast<const std::byte*>(space.gradient_sums) +
                                    elems.first * dtype_size_bytes(space.space->dtype),
                                elems.num_elems(), sums + first_block_sum[i]);
  }
}

Result<std::vector<double>> DataParallel::Impl::end_exchanges() {
  const QueueMark computed = device.compute().mark();
  sum_squares();
  if (worker != nullptr) {
    run_exposed([this] { worker->drain(); });
    gate->rest();
    exposed_ms += gate->take_waited_ms();
  }
  LOCKSTEP_RETURN_IF_ERROR(settle_exchanges(computed));
  std::vector<double> values(static_cast<size_t>(num_block_sums));
  device.compute().copy(values.data(), block_sums.data(), values.size() * sizeof(double));
  const Deadline until = Deadline::after_s(kMaxComputeS);
  LOCKSTEP_RETURN_IF_ERROR(device.compute().settle("norms of a step", until));
  LOCKSTEP_RETURN_IF_ERROR(buffers->settle_integers(until));
  return values;
}

Status DataParallel::Impl::exchange_messages(uint64_t flags, const Status& mine,
                                             std::vector<double> sums,
                                             std::vector<StepMessage>* messages) {
  StepMessage out;
  out.flags = flags;
  out.integer_buffers_hash = buffers->integer_hash();
  out.error = mine.is_ok() ? 0 : 1;
  out.losses = losses_of_step();
  out.weights = weights;
  out.parameter_used = gradients->used();
  out.block_sums = std::move(sums);
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
