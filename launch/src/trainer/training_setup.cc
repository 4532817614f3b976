#include "training_setup.h"

#include <torch/version.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/base/time_text.h"
#include "lockstep/launch/version.h"

namespace lockstep {

DataParallelOptions parallel_options(const Recipe& recipe) {
  const TrainRecipe& train = recipe.train();
  DataParallelOptions options;
  options.seed = static_cast<uint64_t>(train.seed);
  options.micro_batches_per_step = train.micro_batches_per_step;
  options.leaf_micro_batches = train.leaf_micro_batches;
  options.reduction = train.reduction == "native" ? Reduction::kNative : Reduction::kTree;
  options.leaf_dtype = train.leaf_dtype == "bf16" ? LeafDtype::kBf16 : LeafDtype::kExact;
  options.bucket_mib = train.bucket_mib;
  options.timeout_s = train.timeout_s;
  options.intra_op_threads = static_cast<int>(train.intra_op_threads);
  return options;
}

ShardedOptimizerOptions optimizer_options(const Recipe& recipe) {
  ShardedOptimizerOptions options;
  const OptimizerRecipe& optimizer = recipe.optimizer();
  options.optimizer.name = optimizer.name;
  options.optimizer.learning_rate = optimizer.learning_rate;
  options.optimizer.beta1 = optimizer.betas[0];
  options.optimizer.beta2 = optimizer.betas[1];
  options.optimizer.eps = optimizer.eps;
  options.optimizer.weight_decay = optimizer.weight_decay;
  options.optimizer.momentum = optimizer.momentum;
  const ScheduleRecipe& schedule = recipe.schedule();
  options.schedule.kind = parse_schedule_kind(schedule.name).value_or(ScheduleKind::kConstant);
  options.schedule.warmup_steps = schedule.warmup_steps;
  options.schedule.total_steps = std::max<int64_t>(schedule.total_steps, 1);
  options.schedule.final_factor = schedule.final_factor;
  options.schedule.step_every = schedule.step_every;
  options.schedule.step_factor = schedule.step_factor;
  options.clip_max_norm = recipe.clip().max_norm;
  return options;
}

namespace {

BulkMethod io_method(const std::string& name) {
  if (name == "io_uring") return BulkMethod::kUring;
  if (name == "threads") return BulkMethod::kThreads;
  return name == "buffered" ? BulkMethod::kBuffered : BulkMethod::kAuto;
}

// Its texts were checked when the recipe was loaded.
RetentionPolicy retention_policy(const CheckpointRecipe& checkpoint) {
  RetentionPolicy policy;
  policy.keep_any.push_back(keep_latest(checkpoint.keep_latest));
  if (checkpoint.keep_every_steps > 0)
    policy.keep_any.push_back(keep_every_steps(checkpoint.keep_every_steps));
  if (!checkpoint.keep_best.empty())
    policy.keep_any.push_back(parse_keep_best(checkpoint.keep_best).value());
  if (!checkpoint.keep_for.empty())
    policy.keep_any.push_back(keep_for(parse_duration_s(checkpoint.keep_for).value()));
  return policy;
}

}  // namespace

CheckpointerOptions checkpointer_options(const Recipe& recipe, const Device& device) {
  CheckpointerOptions options;
  const CheckpointRecipe& checkpoint = recipe.checkpoint();
  options.io_method = io_method(checkpoint.io);
  options.staging_budget_bytes = static_cast<uint64_t>(checkpoint.staging_mib) << 20;
  options.max_write_bytes_per_s = static_cast<uint64_t>(checkpoint.max_write_mib_per_s) << 20;
  options.reads_back = checkpoint.read_back;
  options.control_timeout_s = checkpoint.timeout_s;
  options.data_timeout_s = checkpoint.timeout_s;
  options.retention = retention_policy(checkpoint);
  options.build.instruction_set = instruction_set();
  options.build.versions = device.facts();
  options.build.versions.insert({{"lockstep", kVersion}, {"LibTorch", TORCH_VERSION}});
  return options;
}

IntervalTerms interval_terms(const Recipe& recipe) {
  return {recipe.checkpoint().mtbf_hours * 3600, recipe.checkpoint().max_overhead};
}

StepLoopOptions loop_options(const Recipe& recipe, int64_t steps_per_epoch) {
  StepLoopOptions options;
  options.end_step = recipe.run_length_steps(steps_per_epoch);
  options.steps_per_epoch = steps_per_epoch;
  options.eval_every_epochs = recipe.eval().every_epochs;
  options.save_every_steps = recipe.checkpoint().every_steps;
  options.save_every_epochs = recipe.checkpoint().every_epochs;
  options.grace_s = recipe.checkpoint().grace_s;
  options.chooses_interval = recipe.checkpoint().every == "auto";
  const std::string& policy = recipe.train().on_nonfinite;
  options.on_nonfinite = policy == "skip"
                             ? OnNonFinite::kSkip
                             : (policy == "rollback" ? OnNonFinite::kRollBack : OnNonFinite::kStop);
  options.saves_behind = recipe.checkpoint().mode == "async";
  options.skips_when_saving = recipe.checkpoint().when_busy == "skip";
  return options;
}

bool resumes_from_path(const TrainerOptions& options) {
  return options.resume != "auto" && options.resume != "never";
}

bool loads_params_only(const TrainerOptions& options) {
  return options.load == "params-only";
}

namespace {

Status check_load(const TrainerOptions& options) {
  if (options.load != "all" && !loads_params_only(options)) {
    return invalid_argument_error(cat("--load is all or params-only, found '", options.load, "'"));
  }
  if (!loads_params_only(options)) {
    if (options.allow_missing.empty() && options.allow_unexpected.empty()) return Status::ok();
    return invalid_argument_error(
        "--allow-missing and --allow-unexpected go with --load params-only: a run that goes on has "
        "all tensors of its checkpoint");
  }
  if (!resumes_from_path(options)) {
    return invalid_argument_error(cat(
        "--load params-only takes the parameters of one checkpoint: it goes with --resume PATH, "
        "found --resume ",
        options.resume));
  }
  if (options.allow_recipe_change.empty()) return Status::ok();
  return invalid_argument_error(
      "--allow-recipe-change means nothing with --load params-only: recipes are not compared, "
      "tensors are");
}

}  // namespace

Status check_options(const TrainerOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(check_load(options));
  if (options.overwrite && options.resume != "never") {
    return invalid_argument_error(
        cat("--overwrite moves earlier checkpoints aside and starts from the beginning: it goes "
            "with --resume never, found --resume ",
            options.resume));
  }
  if (!options.run_dir.empty()) return Status::ok();
  std::string useless;
  if (resumes_from_path(options)) useless = "--resume PATH";
  if (options.overwrite) useless = "--overwrite";
  if (options.take_over) useless = "--take-over";
  if (!options.allow_recipe_change.empty()) useless = "--allow-recipe-change";
  if (useless.empty()) return Status::ok();
  return invalid_argument_error(
      cat(useless,
          " means nothing without a run directory, where checkpoints are: add --run-dir "
          "DIR (a new one for a run that goes on from another run's checkpoint)"));
}

std::vector<std::string> fingerprint(const Recipe& recipe, const TrainerOptions& options) {
  std::vector<std::string> lines;
  for (const ResolvedKey& key : recipe.keys()) {
    if (key.full_name() != "data.path")
      lines.push_back(cat(key.full_name(), " = ", key_value_text(key.value)));
  }
  lines.push_back(options.run_dir.empty() ? "no --run-dir" : "with --run-dir");
  lines.push_back(cat("--resume ", options.resume, options.overwrite ? " --overwrite" : ""));
  lines.push_back(cat("--load ", options.load));
  lines.push_back(cat("--allow-missing ", join(options.allow_missing, ",")));
  lines.push_back(cat("--allow-unexpected ", join(options.allow_unexpected, ",")));
  lines.push_back(cat("--take-over ", options.take_over));
  lines.push_back(cat("--share-gpu ", options.may_share_gpu));
  lines.push_back(cat("--allow-recipe-change ", join(options.allow_recipe_change, ",")));
  lines.push_back(cat("--stop-after ", options.stop_after_steps));
  lines.push_back(cat("lockstep ", kVersion, " build ", build_id()));
  lines.push_back(cat("LibTorch ", TORCH_VERSION));
  lines.push_back(cat("instruction set ", instruction_set()));
  return lines;
}

std::string stop_text(const TrainReport& report, double grace_s, double expected_save_ms) {
  const std::string newest = report.durable_steps
                                 ? cat("the newest checkpoint is of step ", *report.durable_steps)
                                 : std::string("there is no checkpoint yet");
  if (report.stop == TrainStop::kSaved)
    return cat("told to stop: saved after step ", report.steps, "; ", newest);
  if (report.stop == TrainStop::kNothingNew)
    return cat("told to stop: nothing new to save; ", newest);
  return cat("told to stop: a grace period of ", fixed(grace_s, 1),
             " s (checkpoint.grace_s) is too short for a save, which took ",
             fixed(expected_save_ms * 1e-3, 3), " s; ", newest, ", and ",
             report.steps - report.durable_steps.value_or(0), " steps will be done again");
}

std::string start_text(const Recipe& recipe, DataParallel& parallel, int64_t attempt,
                       const std::string& resumed_from) {
  const World& world = parallel.world();
  const char* exchange =
      parallel.schedule() == CommSchedule::kThread
          ? "on a communication thread"
          : (parallel.schedule() == CommSchedule::kInline ? "inside backward" : "after backward");
  const DataParallel::BucketChoice choice = parallel.bucket_choice();
  const std::string measured =
      choice.gb_per_s > 0 ? cat(" (chosen: an exchange takes ", fixed(choice.latency_ms, 3),
                                " ms, then ", fixed(choice.gb_per_s, 3), " GB/s)")
                          : std::string();
  std::string where(parallel.device().name());
  for (const auto& [name, value] : parallel.device().facts()) where += cat(", ", name, " ", value);
  return cat(recipe.text(), "\n", world.world_size(), " ranks on ", world.num_hosts(),
             " hosts, computing on ", where, "\nbuckets of ", fixed(choice.bucket_mib, 2), " MiB",
             measured, " exchanged ", exchange, "; recipe hash ", recipe.hash(), "\n",
             attempt > 0 ? cat("attempt ", attempt, ", ") : std::string(),
             resumed_from.empty() ? std::string("starting from the beginning")
                                  : cat("resuming from ", resumed_from),
             "\n");
}

}  // namespace lockstep
