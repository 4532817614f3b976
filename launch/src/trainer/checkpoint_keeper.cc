#include "checkpoint_keeper.h"

#include "lockstep/checkpoint/params_load.h"
#include "lockstep/checkpoint/weights_file.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr const char* kSkippedSteps = "train.skipped_steps";
constexpr std::string_view kUserPrefix = "user.";
constexpr size_t kMaxToldTensors = 20;
constexpr double kDigestTimeoutS = 600;
constexpr double kFenceTimeoutS = 60;
constexpr double kWeightsTimeoutS = 1800;

std::string steps_text(const std::vector<int64_t>& steps) {
  std::string text;
  for (int64_t step : steps) text += cat(text.empty() ? "" : " ", step);
  return text;
}

Result<std::vector<int64_t>> parse_steps(const Scalars& scalars) {
  auto it = scalars.find(kSkippedSteps);
  if (it == scalars.end() || !std::holds_alternative<std::string>(it->second)) {
    return corruption_error(
        cat("the checkpoint has no text '", kSkippedSteps, "'; it was not made by a Trainer"));
  }
  std::vector<int64_t> steps;
  const std::string& text = std::get<std::string>(it->second);
  if (text.empty()) return steps;
  for (const std::string& part : split(text, ' ')) {
    int64_t step = -1;
    auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), step);
    if (error != std::errc{} || end != part.data() + part.size() || step < 0) {
      return corruption_error(cat("'", kSkippedSteps, "' of the checkpoint holds '", part,
                                  "', expected a step number"));
    }
    steps.push_back(step);
  }
  return steps;
}

std::optional<SaveWord> word_of(SaveProgress reached) {
  switch (reached) {
    case SaveProgress::kNothing:
      return std::nullopt;
    case SaveProgress::kStaged:
      return SaveWord::kStaged;
    case SaveProgress::kWritten:
      return SaveWord::kWritten;
    case SaveProgress::kDurable:
      return SaveWord::kDurable;
  }
  return std::nullopt;
}

SaveFigures figures_of(const SaveReport& report) {
  SaveFigures figures;
  figures.plan_ms = report.prepare_ms;
  figures.stage_ms = report.stage_ms;
  figures.write_ms = report.write_ms - report.sync_ms;
  figures.sync_ms = report.sync_ms;
  figures.vote_ms = report.vote_ms;
  figures.commit_ms = report.commit_ms;
  figures.own_bytes = report.own_bytes;
  figures.total_bytes = report.total_bytes;
  figures.unique_bytes = report.unique_bytes;
  figures.io = report.io_method;
  for (const RankSaveReport& each : report.ranks)
    figures.ranks.push_back(
        {each.bytes, each.stage_ms, each.write_ms - each.sync_ms, each.sync_ms});
  return figures;
}

}  // namespace

CheckpointKeeper::CheckpointKeeper(DataParallel& parallel, ShardedOptimizer& optimizer,
                                   Checkpointer* checkpointer, const Log& log, const Recipe& recipe,
                                   const RecipeSchema& recipe_schema, int64_t steps_per_epoch)
    : parallel_(parallel),
      optimizer_(optimizer),
      checkpointer_(checkpointer),
      log_(log),
      recipe_(recipe),
      schema_of_recipe_(recipe_schema),
      steps_per_epoch_(steps_per_epoch),
      schema_(state_schema(parallel, optimizer)),
      owned_(owned_state(parallel, optimizer)) {}

Scalars CheckpointKeeper::scalars(const std::vector<int64_t>& skipped_steps) const {
  Scalars scalars = optimizer_.scalars();
  scalars[kSkippedSteps] = steps_text(skipped_steps);
  if (!user_state_.scalars) return scalars;
  for (const auto& [name, value] : user_state_.scalars()) scalars[cat(kUserPrefix, name)] = value;
  return scalars;
}

SaveRequest CheckpointKeeper::request(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                                      const std::vector<int64_t>& skipped_steps) const {
  SaveRequest request;
  request.schema = &schema_;
  request.owned = &owned_;
  request.scalars = scalars(skipped_steps);
  request.step = num_steps;
  request.epoch = num_steps / steps_per_epoch_;
  request.seed = static_cast<uint64_t>(recipe_.train().seed);
  if (last_eval && last_eval->num_steps == num_steps) {
    request.metrics = {{"accuracy", last_eval->accuracy}, {"loss", last_eval->loss}};
  }
  request.recipe_text = recipe_.text();
  request.recipe_hash = recipe_.hash();
  // An error on this rank alone is told where all ranks vote.
  const Status at_start = at_save_start_ ? at_save_start_() : Status::ok();
  request.before_commit = [at_start, before_commit = before_commit_] {
    LOCKSTEP_RETURN_IF_ERROR(at_start);
    return before_commit ? before_commit() : Status::ok();
  };
  return request;
}

Result<SaveRecord> CheckpointKeeper::save(int64_t num_steps,
                                          const std::optional<EvalRecord>& last_eval,
                                          const std::vector<int64_t>& skipped_steps) {
  Stopwatch watch;
  const auto report = checkpointer_->save(request(num_steps, last_eval, skipped_steps));
  LOCKSTEP_ASSIGN_OR_RETURN(SaveRecord record, record_of(num_steps, report));
  record.save_ms = record.stall_ms = watch.elapsed_ms();
  return record;
}

void CheckpointKeeper::start_save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                                  const std::vector<int64_t>& skipped_steps) {
  since_start_of_save_ = Stopwatch();
  saving_num_steps_ = num_steps;
  checkpointer_->start_save(request(num_steps, last_eval, skipped_steps));
  copy_ms_ = since_start_of_save_.elapsed_ms();
}

Result<SaveRecord> CheckpointKeeper::finish_save() {
  Stopwatch watch;
  const auto report = checkpointer_->finish_save();
  const double wait_ms = watch.elapsed_ms();
  LOCKSTEP_ASSIGN_OR_RETURN(SaveRecord record, record_of(saving_num_steps_, report));
  record.save_ms = since_start_of_save_.elapsed_ms();
  record.stall_ms = copy_ms_ + wait_ms;
  record.is_behind = true;
  return record;
}

Result<SaveRecord> CheckpointKeeper::record_of(int64_t num_steps,
                                               const Result<SaveReport>& report) {
  SaveRecord record;
  record.num_steps = record.told_after_steps = num_steps;
  record.figures = figures_of(checkpointer_->last_report());
  record.reached = word_of(checkpointer_->last_report().reached);
  record.generation = checkpointer_->last_report().generation;
  if (report.is_ok()) {
    record.state_digest = report->state_digest.hex();
    staging_bytes_ = report->staging_bytes;
    return record;
  }
  record.status = report.status();
  // With a peer gone or this attempt fenced off there is no run to go on with.
  StatusCode code = record.status.code();
  if (code == StatusCode::kPeerFailure || code == StatusCode::kAborted) return record.status;
  // After a time-out the rank that was waited for may still come: the next line waits for it.
  LOCKSTEP_RETURN_IF_ERROR(check_not_taken_over().with_context(record.status.message()));
  const bool is_unknown = checkpointer_->last_outcome() == SaveOutcome::kUnknown;
  record.is_unknown = is_unknown;
  if (is_unknown) record.status = record.status.with_context("may or may not be durable");
  if (parallel_.world().world_rank() == 0) {
    log_.error(cat("checkpoint after step ", num_steps,
                   is_unknown ? ", the one before it is untouched: "
                              : " failed, the one before it is untouched: ",
                   record.status.to_string()));
  }
  return record;
}

// The folder of a save may have been taken away by a newer attempt; that looks like any other
// error.
Status CheckpointKeeper::check_not_taken_over() {
  Status mine = checkpointer_->check_not_fenced();
  if (!mine.is_ok() && mine.code() != StatusCode::kAborted) {
    log_.warn(cat("can't tell whether a newer attempt took over: ", mine.to_string()));
    mine = Status::ok();
  }
  return parallel_.world().control_plane().vote("is this still the newest attempt", mine,
                                                Deadline::after_s(kFenceTimeoutS));
}

Result<ResumePoint> CheckpointKeeper::adopt(const Restored& restored) {
  LOCKSTEP_RETURN_IF_ERROR(optimizer_.restore_scalars(restored.scalars));
  ResumePoint point;
  point.num_steps = restored.step;
  point.path = restored.path;
  point.is_evaluated = !restored.metrics.empty();
  LOCKSTEP_ASSIGN_OR_RETURN(point.skipped_steps, parse_steps(restored.scalars));
  LOCKSTEP_RETURN_IF_ERROR(parallel_.publish_restored_state());
  LOCKSTEP_RETURN_IF_ERROR(adopt_user_state(restored.scalars));
  return point;
}

Status CheckpointKeeper::adopt_user_state(const Scalars& scalars) {
  if (!user_state_.restore) return Status::ok();
  Scalars of_user;
  for (const auto& [name, value] : scalars) {
    if (name.starts_with(kUserPrefix)) of_user[name.substr(kUserPrefix.size())] = value;
  }
  Status mine = caught([&] { return user_state_.restore(of_user); });
  return parallel_.world().control_plane().vote("user state of the checkpoint", mine,
                                                Deadline::after_s(kFenceTimeoutS));
}

Result<std::optional<ResumePoint>> CheckpointKeeper::resume(const TrainerOptions& options) {
  RestoreRequest request;
  request.mode = options.resume == "auto"
                     ? ResumeMode::kAuto
                     : (options.resume == "never" ? ResumeMode::kNever : ResumeMode::kPath);
  if (request.mode == ResumeMode::kPath) request.path = options.resume;
  request.schema = &schema_;
  request.into = &owned_;
  request.recipe_text = recipe_.text();
  request.differing_keys = [this](const std::string& saved, const std::string& current) {
    return differing_keys(schema_of_recipe_, saved, current);
  };
  request.allowed_recipe_changes = options.allow_recipe_change;
  LOCKSTEP_ASSIGN_OR_RETURN(auto restored, checkpointer_->restore(request));
  if (!restored) return std::optional<ResumePoint>();
  LOCKSTEP_ASSIGN_OR_RETURN(ResumePoint point, adopt(*restored));
  return std::optional<ResumePoint>(std::move(point));
}

Result<ResumePoint> CheckpointKeeper::load_params_only(const TrainerOptions& options) {
  ParamsLoadRequest request;
  request.path = options.resume;
  request.schema = &schema_;
  request.into = &owned_;
  request.allowed = {options.allow_missing, options.allow_unexpected};
  World& world = parallel_.world();
  LOCKSTEP_ASSIGN_OR_RETURN(const ParamsLoaded loaded,
                            load_params(posix_file_system(), world.control_plane(), request));
  LOCKSTEP_RETURN_IF_ERROR(parallel_.publish_restored_state());
  if (world.world_rank() == 0 && !loaded.left_out.empty()) {
    log_.warn(
        cat("took ", loaded.num_tensors, " tensors of ", options.resume,
            "; these differ, as allowed:", differences_text(loaded.left_out, kMaxToldTensors)));
  }
  ResumePoint point;
  point.path = options.resume;
  return point;
}

Result<WeightsReport> CheckpointKeeper::take_weights(const std::string& path) {
  const auto mine =
      caught([&] { return import_weights(posix_file_system(), path, schema_, owned_); });
  LOCKSTEP_RETURN_IF_ERROR(parallel_.world().control_plane().vote(
      "reading the weights", mine.status(), Deadline::after_s(kWeightsTimeoutS)));
  LOCKSTEP_RETURN_IF_ERROR(parallel_.publish_restored_state());
  WeightsReport report;
  report.num_tensors = mine->num_tensors;
  report.bytes = mine->bytes;
  report.kept = mine->kept;
  return report;
}

Result<int64_t> CheckpointKeeper::roll_back() {
  if (checkpointer_ == nullptr) {
    return invalid_argument_error(
        "train.on_nonfinite = \"rollback\" needs a run directory to roll back to");
  }
  // Its checkpoints, and the metrics that a roll back cuts, would be those of the newer attempt.
  LOCKSTEP_RETURN_IF_ERROR(check_not_taken_over());
  RestoreRequest request;
  request.schema = &schema_;
  request.into = &owned_;
  request.recipe_text = recipe_.text();
  LOCKSTEP_ASSIGN_OR_RETURN(auto restored, checkpointer_->restore(request));
  if (!restored) return not_found_error("there is no checkpoint to roll back to");
  LOCKSTEP_ASSIGN_OR_RETURN(ResumePoint point, adopt(*restored));
  return point.num_steps;
}

Result<std::string> CheckpointKeeper::live_params_digest() {
  LOCKSTEP_ASSIGN_OR_RETURN(
      Hash128 digest, lockstep::live_params_digest(parallel_.world().control_plane(), schema_,
                                                   owned_, Deadline::after_s(kDigestTimeoutS)));
  return digest.hex();
}

Result<std::string> CheckpointKeeper::live_state_digest(const std::vector<int64_t>& skipped_steps) {
  LOCKSTEP_ASSIGN_OR_RETURN(
      Hash128 digest,
      lockstep::live_state_digest(parallel_.world().control_plane(), schema_, owned_,
                                  scalars(skipped_steps), Deadline::after_s(kDigestTimeoutS)));
  return digest.hex();
}

}  // namespace lockstep
