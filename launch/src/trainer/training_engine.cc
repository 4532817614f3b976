#include "training_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/evaluation.h"

namespace lockstep {
namespace {

constexpr double kEvaluationTimeoutS = 600;
constexpr size_t kMaxNamed = 8;

// Small training batches would make evaluation slow; its batches are fixed by the recipe alone all
// the same.
int64_t evaluation_batch_size(int64_t micro_batch_size) {
  return std::max<int64_t>(micro_batch_size, 100);
}

Batch batch_on(const Device& device, const Batch& batch) {
  if (device.is_host()) return batch;
  const at::Device there{std::string(device.name())};
  // A copy out of memory that is not pinned would wait for everything before it.
  const auto moved = [&](const at::Tensor& tensor) {
    return (there.is_cuda() ? tensor.pin_memory() : tensor).to(there, /*non_blocking=*/true);
  };
  return {moved(batch.inputs), moved(batch.targets), batch.num_samples};
}

std::string listed(const std::vector<int64_t>& values) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) text += cat(i > 0 ? ", " : "", values[i]);
  return text;
}

std::string first_few(const std::vector<std::string>& names) {
  std::vector<std::string> some(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                   names.size(), kMaxNamed)));
  return join(some, ", ") + (names.size() > kMaxNamed ? ", ..." : "");
}

}  // namespace

TrainingEngine::TrainingEngine(const TrainingParts& parts) : parts_(parts) {
  IndexRange range = parts_.parallel->micro_batch_range();
  LoaderOptions options;
  options.first_micro_batch = range.first;
  options.end_micro_batch = range.end;
  options.end_step = parts_.end_step;
  if (parts_.is_channels_last) options.memory_format = at::MemoryFormat::ChannelsLast;
  loader_ = std::make_unique<BatchLoader>(*parts_.data->train, *parts_.sampler, options);
  parts_.model->set_training(true);
}

StepRecord TrainingEngine::record_of(int64_t step) const {
  StepRecord record;
  record.step = step;
  record.epoch = parts_.sampler->position(step).epoch;
  record.num_samples = parts_.sampler->global_batch_size();
  return record;
}

Status TrainingEngine::work_micro_batches(int64_t step) {
  for (MicroBatch micro_batch : parts_.parallel->micro_batches(step)) {
    const Stopwatch watch;
    auto batch = loader_->get({step, micro_batch.index});
    loader_ms_ += watch.elapsed_ms();
    if (!batch.is_ok()) return batch.status();
    Status done = caught([&] {
      parts_.parallel->backward(micro_batch,
                                parts_.model->loss(batch_on(parts_.parallel->device(), *batch)),
                                static_cast<double>(batch->num_samples));
      return Status::ok();
    });
    if (!done.is_ok()) {
      return done.with_context(
          cat("step ", step, ", micro-batch ", micro_batch.index, ": forward or backward failed"));
    }
  }
  return Status::ok();
}

Result<StepOutcome> TrainingEngine::run_step(int64_t step, uint64_t flags) {
  Stopwatch watch;
  loader_ms_ = 0;
  Status mine = pending_failure_;
  if (mine.is_ok()) mine = caught([&] { return work_micro_batches(step); });
  LOCKSTEP_ASSIGN_OR_RETURN(StepGradients gradients, parts_.parallel->reduce(step, flags, mine));
  StepOutcome outcome;
  outcome.flags = gradients.flags;
  outcome.record = record_of(step);
  outcome.record.loss = gradients.mean_loss;
  outcome.record.gradient_norm = gradients.gradient_norm;
  if (gradients.is_finite) {
    LOCKSTEP_ASSIGN_OR_RETURN(UpdateReport update, parts_.optimizer->step(gradients));
    outcome.record.learning_rate = update.learning_rate;
    outcome.record.clip_factor = update.clip_factor;
    outcome.record.update_ms = update.update_ms;
  } else {
    outcome.record.is_applied = false;
    outcome.record.bad_numbers = describe_bad_numbers(gradients);
  }
  if (!gradients.unused_parameters.empty() && !has_told_unused_) {
    has_told_unused_ = true;
    if (parts_.parallel->world().world_rank() == 0) {
      parts_.log.warn(cat("step ", step, ": ", gradients.unused_parameters.size(),
                          " parameters got no gradient in any micro-batch and count as zero: ",
                          first_few(gradients.unused_parameters)));
    }
  }
  warn_of_full_memory(step);
  const DataParallel::OverlapReport overlap = parts_.parallel->overlap();
  outcome.record.communication_ms = overlap.communication_ms;
  outcome.record.exposed_ms = overlap.exposed_ms;
  outcome.record.loader_ms = loader_ms_;
  outcome.record.step_ms = watch.elapsed_ms();
  step_times_.push_back(
      {outcome.record.step_ms, outcome.record.exposed_ms, loader_ms_, outcome.record.update_ms});
  return outcome;
}

void TrainingEngine::warn_of_full_memory(int64_t step) {
  const DeviceMemoryUse use = parts_.parallel->device().memory_use();
  if (use.num_times_full == num_times_full_) return;
  num_times_full_ = use.num_times_full;
  parts_.log.warn(cat("step ", step, ": ", parts_.parallel->device().name(),
                      " had no room for what was asked, ", use.peak_in_use, " of ", use.total,
                      " bytes were in use at most; where cuDNN goes on by another algorithm, bits "
                      "are not those of another number of ranks: lower train.micro_batch_size"));
}

std::string TrainingEngine::describe_bad_numbers(const StepGradients& gradients) const {
  int64_t bad = gradients.first_bad_micro_batch;
  if (bad < 0) {
    return cat("step ", gradients.step, ": every loss is finite, but the gradient is not (norm ",
               gradients.gradient_norm, "); mean loss ", gradients.mean_loss);
  }
  return cat("step ", gradients.step, ": the loss of micro-batch ", bad, " is ",
             gradients.micro_batch_losses[static_cast<size_t>(bad)], "; its samples are ",
             listed(parts_.sampler->sample_indices(gradients.step, bad)));
}

Result<StepOutcome> TrainingEngine::skip_step(int64_t step, uint64_t flags) {
  World& world = parts_.parallel->world();
  LOCKSTEP_ASSIGN_OR_RETURN(auto all_flags, world.control_plane().all_gather(
                                                cat("flags of skipped step ", step), cat(flags),
                                                Deadline::after_s(kEvaluationTimeoutS)));
  StepOutcome outcome;
  outcome.record = record_of(step);
  outcome.record.loss = std::nan("");
  outcome.record.gradient_norm = std::nan("");
  outcome.record.is_applied = false;
  for (const std::string& text : all_flags) outcome.flags |= std::stoull(text);
  return outcome;
}

Result<std::vector<EvalCounts>> TrainingEngine::evaluate_own_batches(int64_t batch_size,
                                                                     int64_t num_batches,
                                                                     const FlagsQuestion& flags,
                                                                     uint64_t* told) {
  World& world = parts_.parallel->world();
  const Dataset& test = *parts_.data->test;
  IndexRange mine = evaluation_batches_of_rank(num_batches, world.world_rank(), world.world_size());
  std::vector<EvalCounts> counts;
  for (int64_t i = mine.first; i < mine.end; ++i) {
    if (((*told = flags()) & kFlagStop) != 0) return counts;
    LOCKSTEP_ASSIGN_OR_RETURN(Batch batch,
                              test.batch(evaluation_batch(test.num_samples(), batch_size, i)));
    if (parts_.is_channels_last)
      batch.inputs = to_memory_format(batch.inputs, at::MemoryFormat::ChannelsLast);
    Status done = caught([&] {
      counts.push_back(parts_.model->evaluate(batch_on(parts_.parallel->device(), batch)));
      return Status::ok();
    });
    if (!done.is_ok()) return done.with_context(cat("evaluation batch ", i));
  }
  return counts;
}

Result<EvalOutcome> TrainingEngine::evaluate(int64_t num_steps, const FlagsQuestion& flags) {
  World& world = parts_.parallel->world();
  int64_t batch_size = evaluation_batch_size(parts_.sampler->micro_batch_size());
  int64_t num_batches = num_evaluation_batches(parts_.data->test->num_samples(), batch_size);
  parts_.model->set_training(false);
  uint64_t told = 0;
  // What is measured and saved must not be parameters of which a part did not come.
  const Status are_there = parts_.parallel->wait_for_parameters();
  auto counts = are_there.is_ok() ? evaluate_own_batches(batch_size, num_batches, flags, &told)
                                  : Result<std::vector<EvalCounts>>(are_there);
  parts_.model->set_training(true);
  Deadline deadline = Deadline::after_s(kEvaluationTimeoutS);
  LOCKSTEP_RETURN_IF_ERROR(
      world.control_plane().vote(cat("evaluation after ", num_steps, " steps"),
                                 counts.is_ok() ? Status::ok() : counts.status(), deadline));
  // This rank's flags, then its counts.
  const size_t count_bytes = counts->size() * sizeof(EvalCounts);
  std::string mine(sizeof(told) + count_bytes, '\0');
  std::memcpy(mine.data(), &told, sizeof(told));
  if (count_bytes > 0) std::memcpy(mine.data() + sizeof(told), counts->data(), count_bytes);
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto all, world.control_plane().all_gather("evaluation counts", std::move(mine), deadline));
  EvalOutcome outcome;
  for (const std::string& part : all) {
    if (part.size() < sizeof(told)) return internal_error("evaluation counts that can't be read");
    std::memcpy(&told, part.data(), sizeof(told));
    outcome.flags |= told;
  }
  // Counts of all ranks or none: part of the test set is no evaluation.
  if ((outcome.flags & kFlagStop) != 0) return outcome;
  EvalRecord record;
  record.num_steps = num_steps;
  record.epoch = num_steps > 0 ? parts_.sampler->position(num_steps - 1).epoch : 0;
  double loss_sum = 0;
  for (const std::string& part : all) {
    for (size_t at = sizeof(told); at + sizeof(EvalCounts) <= part.size();
         at += sizeof(EvalCounts)) {
      EvalCounts one;
      std::memcpy(&one, part.data() + at, sizeof(one));
      record.num_correct += one.num_correct;
      record.num_samples += one.num_samples;
      loss_sum += one.loss_sum;
    }
  }
  record.loss = loss_sum / static_cast<double>(record.num_samples);
  record.accuracy =
      static_cast<double>(record.num_correct) / static_cast<double>(record.num_samples);
  outcome.record = record;
  return outcome;
}

}  // namespace lockstep
