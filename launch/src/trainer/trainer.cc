#include "lockstep/launch/trainer.h"

#include <algorithm>
#include <cstdio>

#include "checkpoint_keeper.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/train/metrics_file.h"
#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/random.h"
#include "lockstep/launch/lifecycle.h"
#include "progress.h"
#include "training_engine.h"
#include "training_setup.h"

namespace lockstep {
namespace {

constexpr double kStartTimeoutS = 120;

Deadline start_deadline() {
  return Deadline::after_s(kStartTimeoutS);
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

// The observers of rank 0. One of them failing is rank 0's alone to know, so the error is handed to
// the engine, which ends the next step with it on every rank.
class RankZeroObservers final : public StepObserver {
 public:
  RankZeroObservers(std::vector<StepObserver*> observers, TrainingEngine& engine)
      : observers_(std::move(observers)), engine_(engine) {}
  Status on_step(const StepRecord& record) override {
    return tell([&](StepObserver* o) { return o->on_step(record); });
  }
  Status on_evaluation(const EvalRecord& record) override {
    return tell([&](StepObserver* o) { return o->on_evaluation(record); });
  }
  Status on_save(const SaveRecord& record) override {
    return tell([&](StepObserver* o) { return o->on_save(record); });
  }
  Status on_roll_back(int64_t num_steps, std::string_view reason) override {
    return tell([&](StepObserver* o) { return o->on_roll_back(num_steps, reason); });
  }

 private:
  template <typename F>
  Status tell(F&& what) {
    for (StepObserver* observer : observers_) {
      if (Status status = what(observer); !status.is_ok()) engine_.fail_next_step(status);
    }
    return Status::ok();
  }
  std::vector<StepObserver*> observers_;
  TrainingEngine& engine_;
};

}  // namespace

struct Trainer::Impl {
  Impl(World& w, TrainerParts p, TrainerOptions o)
      : world(&w), parts(std::move(p)), options(std::move(o)) {}

  World* world;
  TrainerParts parts;
  TrainerOptions options;
  Stopwatch since_start;
  uint64_t resident_before = 0;
  std::optional<Sampler> sampler;
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

  bool is_rank_0() const { return world->world_rank() == 0; }
  Status vote(std::string_view what, const Status& mine) {
    return world->control_plane().vote(what, mine, start_deadline());
  }
  Status resolve_recipe();
  Status make_model();
  Status open_run_dir();
  Status open_run_files(int64_t num_steps);
  int64_t run_length() const { return parts.recipe.run_length_steps(sampler->steps_per_epoch()); }
  Result<TrainReport> report(const LoopReport& loop, const ResumePoint& start);
  Status write_report(const TrainReport& report);
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
    auto made = parts.make_model(parts.data.train->spec(), recipe);
    Status mine = made.is_ok() ? Status::ok() : made.status();
    if (mine.is_ok()) model = std::move(made).value();
    if (lock.owns_lock()) lock.unlock();
    LOCKSTEP_RETURN_IF_ERROR(vote("making the model", mine));
  }
  if (recipe.train().memory_format == "channels_last") {
    set_weight_format(model->module(), at::MemoryFormat::ChannelsLast);
  }
  LOCKSTEP_ASSIGN_OR_RETURN(parallel,
                            DataParallel::make(*world, model->module(), parallel_options(recipe)));
  LOCKSTEP_ASSIGN_OR_RETURN(optimizer,
                            ShardedOptimizer::make(*parallel, optimizer_options(recipe)));
  return Status::ok();
}

Status Trainer::Impl::open_run_dir() {
  if (options.run_dir.empty()) return Status::ok();
  Status made =
      is_rank_0() ? make_dirs_durable(posix_file_system(), options.run_dir) : Status::ok();
  LOCKSTEP_RETURN_IF_ERROR(vote("run directory", made));
  LOCKSTEP_ASSIGN_OR_RETURN(checkpoint_plane,
                            world->control_plane().split("checkpoint", start_deadline()));
  CheckpointerOptions checkpoint = checkpointer_options(parts.recipe);
  checkpoint.fs = &posix_file_system();
  checkpoint.plane = checkpoint_plane.get();
  checkpoint.run_dir = options.run_dir;
  checkpoint.log = world->log();
  checkpoint.take_over = options.take_over;
  checkpoint.overwrite = options.overwrite;
  LOCKSTEP_ASSIGN_OR_RETURN(checkpointer, Checkpointer::open(checkpoint));
  return Status::ok();
}

Status Trainer::Impl::open_run_files(int64_t num_steps) {
  if (options.run_dir.empty()) return Status::ok();
  auto open = [&]() -> Status {
    FileSystem& fs = posix_file_system();
    LOCKSTEP_RETURN_IF_ERROR(write_and_sync_file(fs, path_join(options.run_dir, "recipe.toml"),
                                                 parts.recipe.text(), OpenMode::kTruncate));
    LOCKSTEP_ASSIGN_OR_RETURN(
        metrics, MetricsFile::open(fs, path_join(options.run_dir, "metrics.jsonl"), num_steps));
    return Status::ok();
  };
  return vote("files of the run directory", is_rank_0() ? open() : Status::ok());
}

Result<Trainer> Trainer::make(World& world, TrainerParts parts, const TrainerOptions& options) {
  LOCKSTEP_CHECK(
      parts.data.train != nullptr && parts.data.test != nullptr && parts.make_model != nullptr,
      "a Trainer needs a training part, a test part and a way to make the model");
  auto impl = std::make_unique<Impl>(world, std::move(parts), options);
  LOCKSTEP_RETURN_IF_ERROR(impl->vote("recipe and data", impl->resolve_recipe()));
  LOCKSTEP_RETURN_IF_ERROR(check_same_on_all_ranks(world.control_plane(), "recipe, data and binary",
                                                   fingerprint(impl->parts.recipe),
                                                   start_deadline()));
  // Before the model is made: a run directory that is in use, or a disk that is full, should cost
  // no one a minute.
  LOCKSTEP_RETURN_IF_ERROR(impl->open_run_dir());
  release_freed_memory();
  impl->resident_before = resident_bytes().value_or(0);
  LOCKSTEP_RETURN_IF_ERROR(impl->make_model());
  release_freed_memory();
  impl->keeper = std::make_unique<CheckpointKeeper>(
      *impl->parallel, *impl->optimizer, impl->checkpointer ? &*impl->checkpointer : nullptr,
      impl->parts.recipe, impl->parts.schema, impl->sampler->steps_per_epoch());
  TrainingParts training{impl->model.get(),
                         &*impl->parallel,
                         &*impl->optimizer,
                         &impl->parts.data,
                         &*impl->sampler,
                         impl->run_length(),
                         impl->parts.recipe.train().memory_format == "channels_last"};
  impl->engine = std::make_unique<TrainingEngine>(training);
  return Trainer(std::move(impl));
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;
Trainer::~Trainer() = default;

Result<TrainReport> Trainer::run() {
  Impl& impl = *impl_;
  ResumePoint start;
  if (impl.checkpointer) {
    LOCKSTEP_ASSIGN_OR_RETURN(auto resumed, impl.keeper->resume(impl.options));
    if (resumed) start = std::move(*resumed);
  }
  LOCKSTEP_RETURN_IF_ERROR(impl.open_run_files(start.num_steps));
  StepLoopOptions loop = loop_options(impl.parts.recipe, impl.sampler->steps_per_epoch());
  loop.first_step = start.num_steps;
  loop.skipped_steps = start.skipped_steps;
  loop.stop_after_step = impl.options.stop_after_steps;
  loop.can_save = impl.checkpointer.has_value();
  if (loop.first_step > loop.end_step) {
    return invalid_argument_error(
        cat(start.path, " is at step ", loop.first_step, ", but the recipe's run ends at step ",
            loop.end_step, "; raise train.steps or train.epochs, or take an older checkpoint"));
  }
  std::vector<StepObserver*> mine, observers;
  if (impl.is_rank_0()) {
    if (impl.metrics) mine.push_back(impl.metrics.get());
    if (impl.options.show_progress) {
      impl.progress =
          std::make_unique<Progress>(loop.first_step, loop.end_step, is_terminal(/*file=*/2));
      mine.push_back(impl.progress.get());
      std::fputs(
          start_text(impl.parts.recipe, *impl.world, impl.parallel->schedule(), start.path).c_str(),
          stderr);
    }
    if (impl.metrics) impl.keeper->set_before_commit([&impl] { return impl.metrics->sync(); });
  }
  RankZeroObservers rank_zero(mine, *impl.engine);
  FirstStepClock first_step_clock(impl.since_start, &impl.seconds_to_first_step);
  observers = {&first_step_clock, &rank_zero};
  LOCKSTEP_ASSIGN_OR_RETURN(LoopReport done, run_step_loop(*impl.engine, *impl.keeper, observers,
                                                           loop, stop_was_requested));
  LOCKSTEP_ASSIGN_OR_RETURN(TrainReport report, impl.report(done, start));
  Status closed = impl.metrics ? impl.metrics->close() : Status::ok();
  if (closed.is_ok()) closed = impl.write_report(report);
  LOCKSTEP_RETURN_IF_ERROR(impl.vote("closing the run", closed));
  if (impl.checkpointer) {
    LOCKSTEP_RETURN_IF_ERROR(impl.vote("closing the attempt", impl.checkpointer->close()));
    LOCKSTEP_RETURN_IF_ERROR(impl.checkpoint_plane->shutdown(start_deadline()));
  }
  return report;
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
  LOCKSTEP_ASSIGN_OR_RETURN(out.params_digest, keeper->live_digest(true, loop.skipped_steps));
  LOCKSTEP_ASSIGN_OR_RETURN(out.state_digest, keeper->live_digest(false, loop.skipped_steps));
  out.reduction = parts.recipe.train().reduction;
  if (loop.last_step) out.final_train_loss = loop.last_step->loss;
  out.eval = loop.last_eval;
  out.skipped_steps = loop.skipped_steps;
  std::vector<double> ms = engine->step_ms();
  if (ms.size() > 1)
    ms.erase(ms.begin());  // the first one pays for pages, kernels' choices and the loader's start
  double total_ms = 0;
  for (double one : ms) total_ms += one;
  if (total_ms > 0) {
    out.samples_per_s = static_cast<double>(ms.size()) *
                        static_cast<double>(parts.recipe.global_batch()) / total_ms * 1e3;
  }
  out.step_ms_p50 = percentile(ms, 0.5);
  out.step_ms_p95 = percentile(ms, 0.95);
  out.seconds_to_first_step = seconds_to_first_step;
  out.predicted = parallel->memory();
  out.predicted.optimizer_bytes = optimizer->state_bytes();
  out.staging_bytes = keeper->staging_bytes();
  release_freed_memory();
  if (auto now = resident_bytes(); now && *now > resident_before)
    out.measured_bytes = *now - resident_before;
  return out;
}

Status Trainer::Impl::write_report(const TrainReport& report) {
  if (!is_rank_0() || options.report_path.empty()) return Status::ok();
  return write_and_sync_file(posix_file_system(), options.report_path, report.to_json(),
                             OpenMode::kTruncate);
}

}  // namespace lockstep
