#include "lockstep/launch/trainer.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "checkpoint_keeper.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/quantile.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/model/tensor_memory.h"
#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/random.h"
#include "lockstep/launch/lifecycle.h"
#include "progress.h"
#include "rank_zero_observers.h"
#include "run_files.h"
#include "training_engine.h"
#include "training_setup.h"

namespace lockstep {
namespace {

constexpr double kStartTimeoutS = 120;

Deadline start_deadline() {
  return Deadline::after_s(kStartTimeoutS);
}

}  // namespace

struct Trainer::Impl {
  Impl(World& w, TrainerParts p, TrainerOptions o)
      : world(&w), parts(std::move(p)), options(std::move(o)), log(w.log()) {}

  World* world;
  TrainerParts parts;
  TrainerOptions options;
  Log log;
  uint64_t resident_before = 0;
  uint64_t made_on_device_bytes = 0;  // what model, gradients and optimizer took of a GPU
  std::optional<Sampler> sampler;
  std::shared_ptr<Accelerator> accelerator;  // null: on the processor
  std::unique_ptr<TrainableModel> model;
  std::optional<DataParallel> parallel;
  std::optional<ShardedOptimizer> optimizer;
  std::unique_ptr<ControlPlane> checkpoint_plane;
  std::optional<Checkpointer> checkpointer;
  std::unique_ptr<CheckpointKeeper> keeper;
  std::unique_ptr<TrainingEngine> engine;
  std::unique_ptr<MetricsFile> metrics;
  std::unique_ptr<Progress> progress;
  double seconds_to_first_step = 0;
  ResumeSource resume_source = ResumeSource::kThisRun;  // rank 0

  bool is_rank_0() const { return world->world_rank() == 0; }
  DeviceMemoryUse device_memory_use() const {
    return accelerator != nullptr ? accelerator->memory_use() : DeviceMemoryUse();
  }
  Status vote(std::string_view what, const Status& mine) {
    return world->control_plane().vote(what, mine, start_deadline());
  }
  Status resolve_recipe();
  Status make_model();
  Status find_resume_path();
  Status check_report_path();
  Status open_run_dir();
  Result<ResumePoint> resume();
  Result<bool> is_stop_agreed(std::string_view when);
  Result<TrainReport> stopped_before_restore();
  StopQuestion stop_question() const {
    return options.asked_to_stop_s_ago ? options.asked_to_stop_s_ago : asked_to_stop_s_ago;
  }
  Status conclude(const TrainReport& report);
  Result<SaveRecord> save_as_newest(const ResumePoint& start);
  Status move_run_files_aside();
  Status open_run_files(int64_t num_steps);
  int64_t run_length() const { return parts.recipe.run_length_steps(sampler->steps_per_epoch()); }
  Result<TrainReport> report(const LoopReport& loop, const ResumePoint& start);
  Result<std::vector<RankMemory>> gather_memory();
  Status write_report(const TrainReport& report);
  Status close(const Status& mine);
};

Status Trainer::Impl::resolve_recipe() {
  const TrainRecipe& train = parts.recipe.train();
  LOCKSTEP_ASSIGN_OR_RETURN(
      sampler, Sampler::make(parts.data.train->num_samples(), train.micro_batch_size,
                             train.micro_batches_per_step, static_cast<uint64_t>(train.seed)));
  LOCKSTEP_RETURN_IF_ERROR(parts.recipe.resolve_total_steps(run_length()));
  return parts.recipe.set_data_identity(
      cat(parts.data.train->identity(), "; test: ", parts.data.test->identity()));
}

Status Trainer::Impl::make_model() {
  const Recipe& recipe = parts.recipe;
  {
    auto lock = lock_and_seed_generators(*world, static_cast<uint64_t>(recipe.train().seed));
    auto made = caught([&] { return parts.make_model(parts.data.train->spec(), recipe); });
    Status mine =
        made.is_ok() ? Status::ok() : made.status().with_context("making the model of the recipe");
    if (mine.is_ok()) model = std::move(made).value();
    if (lock.owns_lock()) lock.unlock();
    LOCKSTEP_RETURN_IF_ERROR(vote("making the model", mine));
  }
  if (recipe.train().memory_format == "channels_last") {
    set_weight_format(model->module(), at::MemoryFormat::ChannelsLast);
  }
  // Made on the processor wherever it is trained, so its first weights are the same.
  if (accelerator != nullptr) move_to(std::string(accelerator->name()), model->module());
  DataParallelOptions parallel_options = lockstep::parallel_options(recipe);
  parallel_options.accelerator = accelerator;
  LOCKSTEP_ASSIGN_OR_RETURN(parallel,
                            DataParallel::make(*world, model->module(), parallel_options));
  LOCKSTEP_ASSIGN_OR_RETURN(optimizer,
                            ShardedOptimizer::make(*parallel, optimizer_options(recipe)));
  return Status::ok();
}

// A report that can't be written should not cost a whole run.
Status Trainer::Impl::check_report_path() {
  Status mine;
  if (is_rank_0() && !options.report_path.empty()) {
    FileSystem& fs = posix_file_system();
    auto was_there = exists(fs, options.report_path);
    // Whatever an earlier run left there stays until this one has a report.
    mine = fs.open_write(options.report_path, OpenMode::kAppend).status();
    if (mine.is_ok() && was_there.is_ok() && !*was_there) mine = fs.remove(options.report_path);
    mine = as_output_error(mine).with_context("--report");
  }
  return vote("--report", mine);
}

Status Trainer::Impl::find_resume_path() {
  if (!resumes_from_path(options)) return Status::ok();
  Status mine;
  if (is_rank_0()) {
    auto source = find_resume_source(posix_file_system(), options.run_dir, options.resume);
    if (source.is_ok()) resume_source = *source;
    mine = source.status();
  }
  return vote("--resume PATH", mine);
}

Status Trainer::Impl::open_run_dir() {
  if (options.run_dir.empty()) return Status::ok();
  Status made =
      is_rank_0() ? make_dirs_durable(posix_file_system(), options.run_dir) : Status::ok();
  // Not found is the system's word for a place where nothing can be made.
  if (made.code() == StatusCode::kNotFound) made = io_error(made.message());
  LOCKSTEP_RETURN_IF_ERROR(vote("run directory", made));
  LOCKSTEP_ASSIGN_OR_RETURN(checkpoint_plane,
                            world->control_plane().split("checkpoint", start_deadline()));
  const Device& device = accelerator != nullptr ? *accelerator : host_device();
  CheckpointerOptions checkpoint = checkpointer_options(parts.recipe, device);
  checkpoint.fs = &posix_file_system();
  checkpoint.plane = checkpoint_plane.get();
  checkpoint.run_dir = options.run_dir;
  checkpoint.log = log;
  checkpoint.job_id = environment_variable("SLURM_JOB_ID").value_or("");
  checkpoint.take_over = options.take_over;
  checkpoint.overwrite = options.overwrite;
  checkpoint.on_save_step = options.on_save_step;
  LOCKSTEP_ASSIGN_OR_RETURN(checkpointer, Checkpointer::open(checkpoint));
  log = log.with(world->world_rank(), static_cast<int>(checkpointer->attempt()));
  return Status::ok();
}

Status Trainer::Impl::move_run_files_aside() {
  Status mine;
  if (is_rank_0()) {
    mine = lockstep::move_run_files_aside(posix_file_system(), options.run_dir,
                                          checkpointer->attempt(), log);
  }
  return vote("moving metrics and recipe aside", mine);
}

// Each order of two changes on disk is such that a start that dies between them loses nothing.
Result<ResumePoint> Trainer::Impl::resume() {
  if (!checkpointer) return ResumePoint();
  // Before the checkpoints: the next start would refuse to begin where metrics tell of some.
  if (options.overwrite) LOCKSTEP_RETURN_IF_ERROR(move_run_files_aside());
  std::optional<ResumePoint> resumed;
  if (!loads_params_only(options)) {
    LOCKSTEP_ASSIGN_OR_RETURN(resumed, keeper->resume(options));
  }
  if (resumed) return *std::move(resumed);
  LOCKSTEP_RETURN_IF_ERROR(vote(
      "a run from its beginning",
      is_rank_0() ? check_none_was_saved(posix_file_system(), options.run_dir) : Status::ok()));
  return loads_params_only(options) ? keeper->load_params_only(options) : ResumePoint();
}

// After --resume PATH: what the next start of the run, or a roll back, finds newest must be this
// state, before a line of metrics that a newer checkpoint counts on is cut.
Result<SaveRecord> Trainer::Impl::save_as_newest(const ResumePoint& start) {
  // Metrics of another history; the run has no checkpoint of its own that needs them.
  Result<std::string> is_foreign = world->control_plane().broadcast(
      "whose checkpoint it is", resume_source == ResumeSource::kAnotherRun ? "another" : "own",
      start_deadline());
  LOCKSTEP_RETURN_IF_ERROR(is_foreign.status());
  if (*is_foreign == "another") LOCKSTEP_RETURN_IF_ERROR(move_run_files_aside());
  LOCKSTEP_ASSIGN_OR_RETURN(SaveRecord saved,
                            keeper->save(start.num_steps, std::nullopt, start.skipped_steps));
  LOCKSTEP_RETURN_IF_ERROR(saved.status);
  return saved;
}

Status Trainer::Impl::open_run_files(int64_t num_steps) {
  if (options.run_dir.empty()) return Status::ok();
  Status mine;
  if (is_rank_0()) {
    auto opened = lockstep::open_run_files(posix_file_system(), options.run_dir,
                                           parts.recipe.text(), num_steps);
    if (opened.is_ok()) metrics = std::move(opened).value();
    mine = opened.status();
  }
  return vote("files of the run directory", mine);
}

Result<Trainer> Trainer::make(World& world, TrainerParts parts, const TrainerOptions& options) {
  LOCKSTEP_CHECK(
      parts.data.train != nullptr && parts.data.test != nullptr && parts.make_model != nullptr,
      "a Trainer needs a training part, a test part and a way to make the model");
  auto impl = std::make_unique<Impl>(world, std::move(parts), options);
  LOCKSTEP_RETURN_IF_ERROR(impl->vote("options", check_options(options)));
  LOCKSTEP_RETURN_IF_ERROR(impl->vote("recipe and data", impl->resolve_recipe()));
  LOCKSTEP_RETURN_IF_ERROR(
      check_same_on_all_ranks(world.control_plane(), "recipe, options, data and binary",
                              fingerprint(impl->parts.recipe, options), start_deadline()));
  LOCKSTEP_RETURN_IF_ERROR(impl->check_report_path());
  LOCKSTEP_RETURN_IF_ERROR(impl->find_resume_path());
  LOCKSTEP_ASSIGN_OR_RETURN(
      impl->accelerator,
      open_accelerator(world, {impl->parts.recipe.train().device, options.may_share_gpu}));
  // Before the model is made: a run directory that is in use, or a disk that is full, should cost
  // no one a minute.
  LOCKSTEP_RETURN_IF_ERROR(impl->open_run_dir());
  release_tensor_memory();
  impl->resident_before = resident_bytes().value_or(0);
  const uint64_t on_device_before = impl->device_memory_use().in_use;
  LOCKSTEP_RETURN_IF_ERROR(impl->make_model());
  impl->made_on_device_bytes = impl->device_memory_use().in_use - on_device_before;
  release_tensor_memory();
  impl->keeper = std::make_unique<CheckpointKeeper>(
      *impl->parallel, *impl->optimizer, impl->checkpointer ? &*impl->checkpointer : nullptr,
      impl->log, impl->parts.recipe, impl->parts.schema, impl->sampler->steps_per_epoch());
  impl->keeper->set_user_state(impl->parts.user_state);
  TrainingParts training{impl->model.get(),
                         &*impl->parallel,
                         &*impl->optimizer,
                         &impl->parts.data,
                         &*impl->sampler,
                         impl->run_length(),
                         impl->parts.recipe.train().memory_format == "channels_last",
                         impl->log};
  impl->engine = std::make_unique<TrainingEngine>(training);
  return Trainer(std::move(impl));
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;
Trainer::~Trainer() = default;

// Outside the step loop: whether any rank was told to stop, the same answer for all.
Result<bool> Trainer::Impl::is_stop_agreed(std::string_view when) {
  const bool mine = stop_question()().has_value();
  LOCKSTEP_ASSIGN_OR_RETURN(
      const auto all,
      world->control_plane().all_gather(cat("stop ", when), mine ? "stop" : "", start_deadline()));
  return std::find(all.begin(), all.end(), "stop") != all.end();
}

Result<TrainReport> Trainer::Impl::stopped_before_restore() {
  TrainReport report;
  report.end = TrainEnd::kStoppedBySignal;
  report.world_size = world->world_size();
  report.recipe_hash = parts.recipe.hash();
  report.reduction = parts.recipe.train().reduction;
  if (checkpointer) {
    report.attempt = checkpointer->attempt();
    LOCKSTEP_ASSIGN_OR_RETURN(report.durable_steps,
                              newest_checkpoint_steps(world->control_plane(), options.run_dir));
    report.steps = report.first_step = report.durable_steps.value_or(0);
    report.stop = TrainStop::kNothingNew;
    report.stop_text = stop_text(report, parts.recipe.checkpoint().grace_s, 0);
  }
  LOCKSTEP_RETURN_IF_ERROR(conclude(report));
  return report;
}

Result<TrainReport> Trainer::run() {
  Impl& impl = *impl_;
  LOCKSTEP_ASSIGN_OR_RETURN(const bool is_stopped, impl.is_stop_agreed("before the restore"));
  // What these do to the run directory is done once: a requeued job leaves them out.
  const bool must_go_on = resumes_from_path(impl.options) || impl.options.overwrite;
  if (is_stopped && !must_go_on) return impl.stopped_before_restore();
  LOCKSTEP_ASSIGN_OR_RETURN(ResumePoint start, impl.resume());
  StepLoopOptions loop = loop_options(impl.parts.recipe, impl.sampler->steps_per_epoch());
  loop.first_step = start.num_steps;
  loop.skipped_steps = start.skipped_steps;
  loop.stop_after_step = impl.options.stop_after_steps;
  loop.can_save = impl.checkpointer.has_value();
  loop.is_evaluated = start.is_evaluated || start.path.empty();
  if (loop.first_step > loop.end_step) {
    return invalid_argument_error(
        cat(start.path, " is at step ", loop.first_step, ", but the recipe's run ends at step ",
            loop.end_step, "; raise train.steps or train.epochs, or take an older checkpoint"));
  }
  std::optional<SaveRecord> saved;
  if (resumes_from_path(impl.options)) {
    LOCKSTEP_ASSIGN_OR_RETURN(saved, impl.save_as_newest(start));
  }
  LOCKSTEP_RETURN_IF_ERROR(impl.open_run_files(start.num_steps));
  std::vector<StepObserver*> mine, observers;
  if (impl.is_rank_0()) {
    if (impl.metrics) mine.push_back(impl.metrics.get());
    if (impl.options.show_progress) {
      impl.progress = std::make_unique<Progress>(loop.end_step, is_terminal(/*file=*/2));
      mine.push_back(impl.progress.get());
      std::fputs(start_text(impl.parts.recipe, *impl.parallel,
                            impl.checkpointer ? impl.checkpointer->attempt() : 0, start.path)
                     .c_str(),
                 stderr);
    }
    if (impl.metrics) {
      impl.keeper->set_save_hooks([&impl] { return impl.metrics->flush(); },
                                  [&impl] { return impl.metrics->sync_flushed(); });
    }
  }
  LOCKSTEP_ASSIGN_OR_RETURN(loop.is_stopped, impl.is_stop_agreed("after the restore"));
  RankZeroObservers rank_zero(mine, *impl.engine);
  SaveAccount account(start.num_steps);
  FirstStepClock first_step_clock(&impl.seconds_to_first_step);
  observers = {&first_step_clock, &account, &rank_zero};
  if (saved) {
    LOCKSTEP_RETURN_IF_ERROR(account.on_save(*saved));
    LOCKSTEP_RETURN_IF_ERROR(rank_zero.on_save(*saved));
  }
  std::optional<IntervalChooser> chooser;  // one clock decides for all ranks
  if (loop.chooses_interval && impl.is_rank_0())
    loop.chooser = &chooser.emplace(interval_terms(impl.parts.recipe));
  const Stopwatch in_loop;
  LOCKSTEP_ASSIGN_OR_RETURN(LoopReport done, run_step_loop(*impl.engine, *impl.keeper, observers,
                                                           loop, impl.stop_question()));
  LOCKSTEP_RETURN_IF_ERROR(
      impl.vote("parameters of the last step", impl.parallel->wait_for_parameters()));
  const double loop_ms = in_loop.elapsed_ms();
  LOCKSTEP_ASSIGN_OR_RETURN(TrainReport report, impl.report(done, start));
  report.saves = account.summary(loop_ms);
  if (impl.progress) impl.progress->on_end(report.saves);
  LOCKSTEP_RETURN_IF_ERROR(impl.conclude(report));
  return report;
}

// `mine`: how closing the run's files went on this rank. The attempt is over all the same.
Status Trainer::Impl::close(const Status& mine) {
  const Status closed = vote("closing the run", mine);
  if (checkpointer) {
    LOCKSTEP_RETURN_IF_ERROR(vote("closing the attempt", checkpointer->close()));
    LOCKSTEP_RETURN_IF_ERROR(checkpoint_plane->shutdown(start_deadline()));
  }
  return closed;
}

Result<WeightsReport> Trainer::start_from_weights(const std::string& weights_path) {
  Impl& impl = *impl_;
  LOCKSTEP_CHECK(impl.checkpointer && impl.options.resume == "never",
                 "a start from weights needs a run directory and resume \"never\"");
  LOCKSTEP_RETURN_IF_ERROR(impl.resume().status());
  LOCKSTEP_ASSIGN_OR_RETURN(WeightsReport report, impl.keeper->take_weights(weights_path));
  LOCKSTEP_ASSIGN_OR_RETURN(const SaveRecord saved, impl.keeper->save(0, std::nullopt, {}));
  LOCKSTEP_RETURN_IF_ERROR(saved.status);
  report.path = RunPaths{impl.options.run_dir}.generation({saved.generation, 0});
  report.state_digest = saved.state_digest;
  report.recipe_hash = impl.parts.recipe.hash();
  LOCKSTEP_RETURN_IF_ERROR(impl.open_run_files(0));
  LOCKSTEP_RETURN_IF_ERROR(impl.close(impl.metrics ? impl.metrics->close() : Status::ok()));
  return report;
}

Status Trainer::Impl::conclude(const TrainReport& report) {
  if (is_rank_0() && !report.stop_text.empty()) log.warn(report.stop_text);
  const Status written = metrics ? metrics->close() : Status::ok();
  return close(written.is_ok() ? write_report(report) : written);
}

Result<TrainReport> Trainer::Impl::report(const LoopReport& loop, const ResumePoint& start) {
  TrainReport out;
  out.end = loop.end == LoopEnd::kDone
                ? TrainEnd::kDone
                : (loop.end == LoopEnd::kStoppedBySignal ? TrainEnd::kStoppedBySignal
                                                         : TrainEnd::kStoppedByLimit);
  out.world_size = world->world_size();
  out.attempt = checkpointer ? checkpointer->attempt() : 0;
  out.steps = loop.num_steps;
  out.first_step = start.num_steps;
  out.resumed_from = start.path;
  out.recipe_hash = parts.recipe.hash();
  LOCKSTEP_ASSIGN_OR_RETURN(out.params_digest, keeper->live_params_digest());
  bool has_just_saved =
      loop.last_save && loop.last_save->status.is_ok() && loop.last_save->num_steps == out.steps;
  out.is_saved = has_just_saved || (!start.path.empty() && out.steps == start.num_steps);
  if (has_just_saved) {
    out.state_digest = loop.last_save->state_digest;  // of the same state; it is hashed once
  } else {
    LOCKSTEP_ASSIGN_OR_RETURN(out.state_digest, keeper->live_state_digest(loop.skipped_steps));
  }
  out.durable_steps = loop.durable_steps;
  if (loop.verdict != StopVerdict::kNone) {
    out.stop = loop.verdict == StopVerdict::kPrevious
                   ? TrainStop::kPrevious
                   : (out.steps == start.num_steps ? TrainStop::kNothingNew : TrainStop::kSaved);
    out.stop_text = stop_text(out, parts.recipe.checkpoint().grace_s, loop.expected_save_ms);
  }
  out.bucket_mib = parallel->bucket_choice().bucket_mib;
  out.reduction = parts.recipe.train().reduction;
  if (loop.last_step) out.final_train_loss = loop.last_step->loss;
  out.eval = loop.last_eval;
  out.skipped_steps = loop.skipped_steps;
  out.save_interval_steps = loop.interval_steps;
  std::vector<double> ms, compute_ms, exposed_ms, update_ms, loader_ms;
  for (const TrainingEngine::StepTimes& times : engine->step_times()) {
    ms.push_back(times.step_ms);
    exposed_ms.push_back(times.exposed_ms);
    update_ms.push_back(times.update_ms);
    loader_ms.push_back(times.loader_ms);
    compute_ms.push_back(times.step_ms - times.exposed_ms - times.update_ms - times.loader_ms);
  }
  // The first one pays for pages, kernels' choices and the loader's start.
  for (auto* values : {&ms, &compute_ms, &exposed_ms, &update_ms, &loader_ms}) {
    if (values->size() > 1) values->erase(values->begin());
  }
  out.step_split = {quantile(compute_ms, 0.5), quantile(exposed_ms, 0.5),
                    quantile(update_ms, 0.5), quantile(loader_ms, 0.5)};
  double total_ms = 0;
  for (double one : ms) total_ms += one;
  if (total_ms > 0) {
    out.samples_per_s = static_cast<double>(ms.size()) *
                        static_cast<double>(parts.recipe.global_batch()) / total_ms * 1e3;
  }
  out.step_ms_p50 = quantile(ms, 0.5);
  out.step_ms_p95 = quantile(ms, 0.95);
  out.seconds_to_first_step = seconds_to_first_step;
  LOCKSTEP_ASSIGN_OR_RETURN(out.memory, gather_memory());
  return out;
}

Result<std::vector<RankMemory>> Trainer::Impl::gather_memory() {
  RankMemory mine;
  mine.predicted = parallel->memory();
  mine.predicted.optimizer_bytes = optimizer->state_bytes();
  mine.staging_bytes = keeper->staging_bytes();
  mine.device = device_memory_use();
  release_tensor_memory();
  if (mine.is_on_device()) {
    mine.measured_bytes = made_on_device_bytes;
  } else if (auto now = resident_bytes(); now && *now > resident_before) {
    mine.measured_bytes = *now - resident_before;
  }
  static_assert(std::is_trivially_copyable_v<RankMemory>);
  std::string message(sizeof(mine), '\0');
  std::memcpy(message.data(), &mine, sizeof(mine));
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto messages, world->control_plane().all_gather("memory ledger", message, start_deadline()));
  std::vector<RankMemory> all(messages.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (messages[rank].size() != sizeof(RankMemory))
      return internal_error(cat("memory ledger: rank ", rank, " runs another program"));
    std::memcpy(&all[rank], messages[rank].data(), sizeof(RankMemory));
  }
  return all;
}

Status Trainer::Impl::write_report(const TrainReport& report) {
  if (!is_rank_0() || options.report_path.empty()) return Status::ok();
  return write_and_sync_file(posix_file_system(), options.report_path, report.to_json(),
                             OpenMode::kTruncate);
}

}  // namespace lockstep
