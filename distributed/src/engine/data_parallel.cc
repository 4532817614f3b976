#include "lockstep/distributed/data_parallel.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>

#include <cmath>

#include "data_parallel_impl.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/agreement.h"
#include "parallel_start.h"
#include "step_outcome.h"

namespace lockstep {
namespace {

std::span<std::byte> bytes_of(const at::Tensor& flat) {
  return {static_cast<std::byte*>(flat.mutable_data_ptr()), flat.nbytes()};
}

}  // namespace

Result<DataParallel> DataParallel::make(World& world, torch::nn::Module& module,
                                        const DataParallelOptions& options) {
  Deadline deadline = Deadline::after_s(options.timeout_s > 0 ? options.timeout_s : 1);
  std::unique_ptr<Communicator> communicator;
  if (options.accelerator != nullptr) {
    LOCKSTEP_ASSIGN_OR_RETURN(communicator, options.accelerator->connect(world, deadline));
  }
  // What fails on one rank alone is voted on: a rank that just left would let the others wait.
  auto made = caught([&]() -> Result<std::shared_ptr<Impl>> {
    LOCKSTEP_RETURN_IF_ERROR(check_options(options, world.world_size()));
    set_compute_mode(options.intra_op_threads);
    const std::string_view device =
        options.accelerator != nullptr ? options.accelerator->name() : host_device().name();
    LOCKSTEP_ASSIGN_OR_RETURN(FlatModel flat, FlatModel::make(module, device));
    LOCKSTEP_RETURN_IF_ERROR(check_dtypes(flat.layout()));
    auto impl = std::make_shared<Impl>(world, options, std::move(flat));
    impl->device_communicator = std::move(communicator);
    return impl;
  });
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote("model", made.status(), deadline));
  std::shared_ptr<Impl> impl = std::move(made).value();
  // Before the buckets: ranks that were told different sizes would measure, or not.
  LOCKSTEP_RETURN_IF_ERROR(check_same_on_all_ranks(world.control_plane(), "model and its options",
                                                   fingerprint(impl->model.layout(), options),
                                                   deadline));
  LOCKSTEP_RETURN_IF_ERROR(impl->choose_buckets());
  const Status planned = caught([&] {
    impl->plan();
    impl->choose_schedule();
    return Status::ok();
  });
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote("memory for training", planned, deadline));
  if (options.broadcast_initial_weights && world.world_size() > 1) {
    for (const at::Tensor& storage : impl->model.storages()) {
      LOCKSTEP_RETURN_IF_ERROR(impl->broadcast(bytes_of(storage), 0, "initial weights"));
    }
    impl->buffers->take_over_live();
  }
  return DataParallel(std::move(impl));
}

DataParallel::DataParallel(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
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

IndexRange DataParallel::micro_batch_range() const {
  return impl_->micro_batches;
}

void DataParallel::begin_micro_batch(const MicroBatch& micro_batch) {
  Impl& impl = *impl_;
  LOCKSTEP_CHECK(!impl.in_micro_batch, "backward() was not called for micro-batch ",
                 impl.next_micro_batch, " of step ", impl.step);
  if (micro_batch.index == impl.micro_batches.first) {
    LOCKSTEP_CHECK(impl.phase != Impl::Phase::kAccumulating, "step ", impl.step,
                   " was begun but not reduced; call reduce(), with the error if a micro-batch "
                   "failed");
    impl.model.check_still_flat();
    impl.begin_step(micro_batch.step);
  }
  LOCKSTEP_CHECK(impl.step == micro_batch.step && impl.next_micro_batch == micro_batch.index,
                 "micro-batch ", micro_batch.index, " of step ", micro_batch.step,
                 " out of order: expected ", impl.next_micro_batch, " of step ", impl.step);
  impl.begin(micro_batch.step, micro_batch.index);
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
  if (impl.gate != nullptr) {
    if (impl.is_on_device()) impl.gate->pass_marks();  // another thread runs backward there
    impl.gate->rest();
  }
  impl.losses.push_back(mean_loss.detach().to(at::kDouble, /*non_blocking=*/false, /*copy=*/true));
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
  // Caught, here and below: a device that has failed throws, and no rank may leave alone.
  if (!my_status.is_ok()) {
    const Status took_part = caught([&] {
      impl.take_part_with_zeros(step);
      return Status::ok();
    });
    if (!took_part.is_ok()) return impl.agree_on_exchange(my_status);
  }
  LOCKSTEP_CHECK(impl.phase == Impl::Phase::kAccumulating && impl.step == step, "reduce(", step,
                 ") but the step under way is ",
                 impl.phase == Impl::Phase::kAccumulating ? cat(impl.step) : "none");
  LOCKSTEP_CHECK(impl.next_micro_batch == impl.micro_batches.end, "reduce(", step,
                 ") before backward() of every micro-batch: at ", impl.next_micro_batch, " of ",
                 impl.micro_batches.end);
  Result<std::vector<double>> sums = caught([&] { return impl.end_exchanges(); });
  LOCKSTEP_RETURN_IF_ERROR(impl.agree_on_exchange(sums.status()));
  if (my_status.is_ok() && !impl.buffers->integer_conflict().empty()) {
    my_status = invalid_argument_error(
        cat("step ", step, ": integer buffer '", impl.buffers->integer_conflict(),
            "' differs between two micro-batches; it must not depend on the data"));
  }
  std::vector<StepMessage> messages;
  Status exchanged;
  impl.run_exposed([&] {
    exchanged = caught(
        [&] { return impl.exchange_messages(flags, my_status, *std::move(sums), &messages); });
  });
  LOCKSTEP_RETURN_IF_ERROR(impl.agree_on_exchange(exchanged));
  impl.last_overlap = {static_cast<int>(impl.gradients->buckets().size()),
                       impl.reduced_during_backward, std::exchange(impl.communication_ms, 0),
                       std::exchange(impl.exposed_ms, 0)};
  impl.phase = Impl::Phase::kIdle;
  for (const StepMessage& message : messages) {
    if (message.error == 0) continue;
    impl.buffers->discard();
    return impl.world.control_plane().vote(cat("step ", step), my_status, impl.deadline());
  }
  for (const StepMessage& message : messages) {
    if (message.integer_buffers_hash == messages[0].integer_buffers_hash) continue;
    std::vector<std::string> lines = impl.buffers->integer_lines();
    impl.buffers->discard();
    return check_same_on_all_ranks(
        impl.world.control_plane(),
        cat("module's integer buffers after step ", step, ", which must not depend on the data"),
        lines, impl.deadline());
  }
  StepGradients out;
  out.step = step;
  settle_step(messages, impl.public_spaces, impl.gradients->parameter_names(), &out);
  if (!impl.buffers->is_empty()) {
    if (out.is_finite) {
      LOCKSTEP_RETURN_IF_ERROR(
          impl.agree_on_exchange(caught([&] { return impl.buffers->reduce(impl.deadline()); })));
    } else {
      impl.buffers->discard();
    }
  }
  impl.phase = Impl::Phase::kReduced;
  return out;
}

void DataParallel::claim_gradients(int64_t step) {
  LOCKSTEP_CHECK(impl_->phase == Impl::Phase::kReduced && impl_->step == step,
                 "the gradients of step ", step, " are not in place: the last step is ",
                 impl_->step, ", and each may be applied once, before the next one begins");
  impl_->phase = Impl::Phase::kIdle;
}

Status DataParallel::publish_restored_state() {
  LOCKSTEP_RETURN_IF_ERROR(wait_for_parameters());
  Impl& impl = *impl_;
  const auto& spaces = impl.model.layout().spaces();
  impl.follow_compute();
  size_t trainable = 0;
  for (size_t s = 0; s < spaces.size(); ++s) {
    const ShardPlan& plan = impl.value_plans[s];
    if (spaces[s].role == SpaceRole::kTrainable) {
      for (int b = 0; b < plan.num_buckets(); ++b)
        LOCKSTEP_RETURN_IF_ERROR(impl.gather_bucket(trainable, b));
      LOCKSTEP_RETURN_IF_ERROR(
          impl.data_communicator().settle(cat("restored ", spaces[s].name), impl.deadline()));
      ++trainable;
      continue;
    }
    auto bytes = bytes_of(impl.model.storages()[s]);
    auto elem_bytes = static_cast<size_t>(dtype_size_bytes(spaces[s].dtype));
    for (int r = 0; r < impl.world.world_size(); ++r) {
      for (BlockRun run : plan.owned(r)) {
        ElemRun elems = spaces[s].elems_of(run);
        auto piece = bytes.subspan(static_cast<size_t>(elems.first) * elem_bytes,
                                   static_cast<size_t>(elems.num_elems()) * elem_bytes);
        if (impl.world.world_size() > 1)
          LOCKSTEP_RETURN_IF_ERROR(impl.broadcast(piece, r, cat("restored ", spaces[s].name)));
      }
    }
  }
  impl.buffers->take_over_live();
  return Status::ok();
}

Status DataParallel::wait_for_parameters() {
  Impl& impl = *impl_;
  if (impl.gate == nullptr) return Status::ok();
  if (impl.worker != nullptr) impl.run_exposed([&] { impl.worker->drain(); });
  if (impl.is_on_device() && impl.comm_status.is_ok())
    impl.comm_status = impl.data_communicator().settle("parameters", impl.deadline());
  impl.gate->pass_marks();
  impl.gate->rest();
  return impl.comm_status;
}

const FlatLayout& DataParallel::layout() const {
  return impl_->model.layout();
}
World& DataParallel::world() {
  return impl_->world;
}
const DataParallelOptions& DataParallel::options() const {
  return impl_->options;
}
Device& DataParallel::device() {
  return impl_->device;
}
CommSchedule DataParallel::schedule() const {
  return impl_->schedule;
}
DataParallel::BucketChoice DataParallel::bucket_choice() const {
  return impl_->bucket_choice;
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
    for (BlockRun run : impl_->value_plans[s].owned(impl_->world.world_rank())) {
      ElemRun elems = spaces[s].elems_of(run);
      slices.push_back({{spaces[s].name, std::string(value_kind(spaces[s].role))},
                        run,
                        bytes.subspan(static_cast<size_t>(elems.first) * elem_bytes,
                                      static_cast<size_t>(elems.num_elems()) * elem_bytes),
                        impl_->state_memory});
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

Status DataParallel::gather_updated(int space_index, int bucket) {
  Impl& impl = *impl_;
  if (impl.gate != nullptr) {
    impl.gather_behind(static_cast<size_t>(space_index), bucket);
    return Status::ok();
  }
  Status status;
  impl.run_exposed([&] { status = impl.gather_bucket(static_cast<size_t>(space_index), bucket); });
  return status;
}

}  // namespace lockstep
