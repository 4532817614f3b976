#include "framework_keys.h"

#include <algorithm>

namespace lockstep {

namespace {

template <typename T>
void store_value(T& field, const KeyValue& value) {
  field = std::get<T>(value);
}
void store_value(std::array<double, 2>& field, const KeyValue& value) {
  const auto& list = std::get<std::vector<double>>(value);
  std::copy_n(list.begin(), field.size(), field.begin());
}

template <typename T>
KeyValue as_key_value(const T& field) {
  return field;
}
KeyValue as_key_value(const std::array<double, 2>& field) {
  return std::vector<double>(field.begin(), field.end());
}

/// A key that must be given, kept in `tables.*Table.*Field`.
template <auto Table, auto Field>
FrameworkKey required(std::string table, KeySpec spec) {
  return {std::move(table), std::move(spec), [](RecipeTables& tables, const KeyValue& value) {
            store_value(tables.*Table.*Field, value);
          }};
}

/// A key whose default is the field's initial value.
template <auto Table, auto Field>
FrameworkKey optional(std::string table, KeySpec spec) {
  spec.or_default(as_key_value(RecipeTables{}.*Table.*Field));
  return required<Table, Field>(std::move(table), std::move(spec));
}

// Far above any use, and low enough that products of them are exact.
constexpr double kMaxSteps = 1e15;
constexpr double kMaxEpochs = 1e8;
constexpr double kMaxBatch = 1 << 30;
constexpr double kMaxMicroBatches = 1 << 20;
constexpr double kMaxBucketMib = 1 << 20;
constexpr double kMaxTimeoutS = 30 * 86400;

using Tables = RecipeTables;
using Keys = std::vector<FrameworkKey>;

void add_model_and_data(Keys& keys) {
  keys.push_back(
      required<&Tables::model, &ModelRecipe::name>("model", string_key("name", "which model")));
  keys.push_back(
      required<&Tables::data, &DataRecipe::name>("data", string_key("name", "which data set")));
  keys.push_back(optional<&Tables::data, &DataRecipe::path>(
      "data",
      string_key("path", "file or folder; empty: the data set's usual place").outside_hash()));
  keys.push_back(optional<&Tables::data, &DataRecipe::identity>(
      "data", string_key("identity", "identity of the content; empty: whatever is found")));
}

void add_train(Keys& keys) {
  keys.push_back(optional<&Tables::train, &TrainRecipe::seed>(
      "train", int_key("seed", "of initial weights, sample order, dropout").at_least(0)));
  keys.push_back(optional<&Tables::train, &TrainRecipe::steps>(
      "train", int_key("steps", "length of the run; 0: given in epochs")
                   .at_least(0)
                   .at_most(kMaxSteps)
                   .outside_hash()));
  keys.push_back(optional<&Tables::train, &TrainRecipe::epochs>(
      "train", int_key("epochs", "length of the run; 0: given in steps")
                   .at_least(0)
                   .at_most(kMaxEpochs)
                   .outside_hash()));
  keys.push_back(required<&Tables::train, &TrainRecipe::micro_batch_size>(
      "train", int_key("micro_batch_size", "samples of one forward and backward pass")
                   .at_least(1)
                   .at_most(kMaxBatch)));
  keys.push_back(required<&Tables::train, &TrainRecipe::micro_batches_per_step>(
      "train", int_key("micro_batches_per_step", "over all ranks; also the largest number of ranks")
                   .at_least(1)
                   .at_most(kMaxMicroBatches)));
  keys.push_back(optional<&Tables::train, &TrainRecipe::leaf_micro_batches>(
      "train", int_key("leaf_micro_batches", "micro-batches accumulated in place as one leaf")
                   .at_least(1)
                   .at_most(kMaxMicroBatches)));
  keys.push_back(optional<&Tables::train, &TrainRecipe::memory_format>(
      "train", string_key("memory_format", "of weights and inputs of convolutions")
                   .one_of({"contiguous", "channels_last"})));
  keys.push_back(optional<&Tables::train, &TrainRecipe::intra_op_threads>(
      "train",
      int_key("intra_op_threads", "compute threads of each rank").at_least(1).at_most(1024)));
  keys.push_back(optional<&Tables::train, &TrainRecipe::reduction>(
      "train", string_key("reduction", "native is not invariant, for comparison")
                   .one_of({"tree", "native"})));
  keys.push_back(optional<&Tables::train, &TrainRecipe::leaf_dtype>(
      "train", string_key("leaf_dtype",
                          "bf16: each leaf's gradient is rounded to it before it is added in f32; "
                          "half the bytes on the wire where a rank has one leaf")
                   .one_of({"f32", "bf16"})));
  keys.push_back(optional<&Tables::train, &TrainRecipe::device>(
      "train", string_key("device", "auto: a GPU where each rank has one, else the processor")
                   .one_of({"auto", "cpu", "cuda"})
                   .outside_hash()));
  keys.push_back(optional<&Tables::train, &TrainRecipe::bucket_mib>(
      "train", float_key("bucket_mib",
                         "gradient exchanged at a time; 0: chosen from what an exchange is "
                         "measured to cost at the start")
                   .at_least(0)
                   .at_most(kMaxBucketMib)
                   .outside_hash()));
  keys.push_back(optional<&Tables::train, &TrainRecipe::timeout_s>(
      "train", float_key("timeout_s", "seconds that one exchange may wait for the other ranks")
                   .above(0)
                   .at_most(kMaxTimeoutS)
                   .outside_hash()));
  keys.push_back(optional<&Tables::train, &TrainRecipe::on_nonfinite>(
      "train", string_key("on_nonfinite", "what to do about a step whose numbers are not finite")
                   .one_of({"stop", "skip", "rollback"})));
}

void add_optimizer(Keys& keys) {
  keys.push_back(optional<&Tables::optimizer, &OptimizerRecipe::name>(
      "optimizer", string_key("name", "which optimizer").one_of({"adamw", "sgd"})));
  keys.push_back(optional<&Tables::optimizer, &OptimizerRecipe::learning_rate>(
      "optimizer", float_key("learning_rate", "before the schedule").at_least(0)));
  keys.push_back(optional<&Tables::optimizer, &OptimizerRecipe::betas>(
      "optimizer", float_list_key("betas", "of adamw").of_length(2).at_least(0).below(1)));
  keys.push_back(optional<&Tables::optimizer, &OptimizerRecipe::eps>(
      "optimizer", float_key("eps", "of adamw").at_least(1e-37)));
  keys.push_back(optional<&Tables::optimizer, &OptimizerRecipe::weight_decay>(
      "optimizer",
      float_key("weight_decay", "adamw: decoupled; sgd: added to the gradient").at_least(0)));
  keys.push_back(optional<&Tables::optimizer, &OptimizerRecipe::momentum>(
      "optimizer", float_key("momentum", "of sgd").at_least(0).below(1)));
}

void add_schedule(Keys& keys) {
  keys.push_back(optional<&Tables::schedule, &ScheduleRecipe::name>(
      "schedule", string_key("name", "shape of the learning rate after the warm-up")
                      .one_of({"constant", "cosine", "linear", "step"})));
  keys.push_back(optional<&Tables::schedule, &ScheduleRecipe::warmup_steps>(
      "schedule", int_key("warmup_steps", "steps of linear growth").at_least(0)));
  keys.push_back(optional<&Tables::schedule, &ScheduleRecipe::total_steps>(
      "schedule",
      int_key("total_steps", "end of cosine and linear; 0: the length of the run").at_least(0)));
  keys.push_back(optional<&Tables::schedule, &ScheduleRecipe::final_factor>(
      "schedule",
      float_key("final_factor", "share of the learning rate at the end of cosine and linear")
          .at_least(0)));
  keys.push_back(optional<&Tables::schedule, &ScheduleRecipe::step_every>(
      "schedule", int_key("step_every", "steps between two drops of step").at_least(1)));
  keys.push_back(optional<&Tables::schedule, &ScheduleRecipe::step_factor>(
      "schedule", float_key("step_factor", "factor of each drop of step").above(0)));
}

void add_clip_eval_checkpoint(Keys& keys) {
  keys.push_back(optional<&Tables::clip, &ClipRecipe::max_norm>(
      "clip", float_key("max_norm", "of the global gradient; 0: no clipping").at_least(0)));
  keys.push_back(optional<&Tables::eval, &EvalRecipe::every_epochs>(
      "eval", int_key("every_epochs", "0: only at the end").at_least(0).outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::every_steps>(
      "checkpoint", int_key("every_steps", "0: not by steps").at_least(0).outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::every_epochs>(
      "checkpoint", int_key("every_epochs", "0: not by epochs").at_least(0).outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::mode>(
      "checkpoint", string_key("mode", "sync: training waits for a save; async: for its copy alone")
                        .one_of({"sync", "async"})
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::when_busy>(
      "checkpoint", string_key("when_busy", "async: a save that is due during another")
                        .one_of({"wait", "skip"})
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::io>(
      "checkpoint", string_key("io", "how shards travel; auto: the first that the system allows")
                        .one_of({"auto", "io_uring", "threads", "buffered"})
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::staging_mib>(
      "checkpoint",
      int_key("staging_mib", "async: MiB of a rank's memory for copies; 0: its whole shard")
          .at_least(0)
          .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::max_write_mib_per_s>(
      "checkpoint", int_key("max_write_mib_per_s", "async: of each rank; 0: no limit")
                        .at_least(0)
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::read_back>(
      "checkpoint",
      bool_key("read_back", "read shards back from the disk before the commit").outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::keep_latest>(
      "checkpoint",
      int_key("keep_latest", "how many of the newest to keep").at_least(1).outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::keep_every_steps>(
      "checkpoint", int_key("keep_every_steps", "also keep those at multiples of it; 0: none")
                        .at_least(0)
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::keep_best>(
      "checkpoint",
      string_key("keep_best",
                 "also keep the best by a metric at the end of an epoch: max:accuracy, min:loss")
          .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::keep_for>(
      "checkpoint",
      string_key("keep_for", "also keep those younger than this: 90m, 36h, 7d; empty: none")
          .outside_hash()));
}

void add_checkpoint_interval(Keys& keys) {
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::every>(
      "checkpoint", string_key("every",
                               "auto: as often as loses least time to saves and failures, "
                               "from what saves were measured to cost")
                        .one_of({"fixed", "auto"})
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::mtbf_hours>(
      "checkpoint", float_key("mtbf_hours", "auto: mean time between failures of the whole job")
                        .at_least(0)
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::max_overhead>(
      "checkpoint", float_key("max_overhead", "auto: share of the time that saves may take")
                        .above(0)
                        .below(1)
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::grace_s>(
      "checkpoint", float_key("grace_s",
                              "seconds from a stop signal to the kill, as the launcher gives them; "
                              "0: not known, a stop always tries to save")
                        .at_least(0)
                        .outside_hash()));
  keys.push_back(optional<&Tables::checkpoint, &CheckpointRecipe::timeout_s>(
      "checkpoint", float_key("timeout_s",
                              "seconds that a rank may take for its part of a save or restore, "
                              "beyond the time of its bytes; more for a disk that stalls")
                        .above(0)
                        .at_most(kMaxTimeoutS)
                        .outside_hash()));
}

Keys make_keys() {
  Keys keys;
  add_model_and_data(keys);
  add_train(keys);
  add_optimizer(keys);
  add_schedule(keys);
  add_clip_eval_checkpoint(keys);
  add_checkpoint_interval(keys);
  return keys;
}

}  // namespace

const std::vector<FrameworkKey>& all_framework_keys() {
  static const Keys keys = make_keys();
  return keys;
}

}  // namespace lockstep
