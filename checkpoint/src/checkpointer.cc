#include "lockstep/checkpoint/checkpointer.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <system_error>
#include <thread>

#include "collective.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"
#include "restore.h"
#include "save_protocol.h"

namespace lockstep {

struct Checkpointer::Impl {
  CheckpointerOptions options;
  RunPaths paths;
  std::optional<Attempt> attempt;  // rank 0
  int64_t attempt_number = 0;
  std::optional<int64_t> parent_generation;
  int64_t lowest_generation = 1;
  Staging staging;
  SaveOutcome last_outcome = SaveOutcome::kNone;
  SaveReport last_report;
  std::optional<SaveProtocol> protocol;  // of the save under way
  bool has_cleaned_up = false;
  Status status_of_save;  // the thread's, until it is joined
  std::atomic<bool> has_save_ended = false;
  std::thread behind;

  ~Impl() {
    if (behind.joinable()) behind.join();
  }
  const Attempt* attempt_or_null() const { return attempt ? &*attempt : nullptr; }
  SaveContext save_context(bool is_behind);
  void require_no_save() const { LOCKSTEP_CHECK(!protocol, "a save is under way"); }
  Result<SaveReport> conclude_save(const SaveProtocol& done, const Status& status);
  Status explained(const Status& status) const;
  void warn_of_failure_behind() const;
  void clean_up();
  void warn_of_other_build(const Restored& restored) const;
};

namespace {

/// By how much ranks that load a program, a model and data may come apart.
constexpr double kStartSeconds = 50;

Result<Attempt> begin_attempt(const CheckpointerOptions& options) {
  AttemptOptions attempt;
  attempt.fs = options.fs;
  attempt.run_dir = options.run_dir;
  attempt.log = options.log;
  attempt.job_id = options.job_id;
  attempt.take_over = options.take_over;
  attempt.heartbeat_s = options.heartbeat_s;
  attempt.watch_s = options.watch_s;
  attempt.process = options.process;
  attempt.is_running = options.is_running;
  return Attempt::begin(attempt);
}

}  // namespace

std::vector<std::string> BuildIdentity::differences_to(const BuildIdentity& now) const {
  std::vector<std::string> differences;
  const auto compare = [&](std::string_view what, std::string_view then, std::string_view today) {
    if (then != today) differences.push_back(cat(what, " ", then, ", now ", today));
  };
  const auto value_of = [](const BuildIdentity& build, const std::string& name) {
    const auto it = build.versions.find(name);
    return it != build.versions.end() ? it->second : std::string("none");
  };
  compare("instruction set", instruction_set, now.instruction_set);
  std::set<std::string> names;
  for (const BuildIdentity* build : {this, &now}) {
    for (const auto& [name, version] : build->versions) names.insert(name);
  }
  for (const std::string& name : names) compare(name, value_of(*this, name), value_of(now, name));
  return differences;
}

Checkpointer::Checkpointer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpointer::Checkpointer(Checkpointer&&) noexcept = default;
Checkpointer& Checkpointer::operator=(Checkpointer&&) noexcept = default;
Checkpointer::~Checkpointer() = default;

Result<Checkpointer> Checkpointer::open(const CheckpointerOptions& options) {
  LOCKSTEP_CHECK(options.fs != nullptr && options.plane != nullptr && !options.run_dir.empty(),
                 "a Checkpointer needs a file system, a control plane and a run directory");
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->paths = RunPaths{options.run_dir};
  Result<std::string> number = std::string();
  if (options.plane->world_rank() == 0) {
    auto attempt = begin_attempt(options);
    number =
        attempt.is_ok()
            ? Result<std::string>(Packer().number(static_cast<uint64_t>(attempt->number())).take())
            : Result<std::string>(attempt.status());
    if (attempt.is_ok()) impl->attempt.emplace(std::move(*attempt));
  }
  options.plane->begin_series();
  const Deadline deadline =
      Deadline::after_s(options.control_timeout_s + options.watch_s + kStartSeconds);
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string text,
                            share(*options.plane, "beginning the attempt", number, deadline));
  impl->attempt_number = static_cast<int64_t>(Unpacker(text).number());
  return Checkpointer(std::move(impl));
}

int64_t Checkpointer::attempt() const {
  return impl_->attempt_number;
}
SaveOutcome Checkpointer::last_outcome() const {
  return impl_->last_outcome;
}
const SaveReport& Checkpointer::last_report() const {
  return impl_->last_report;
}

void Checkpointer::Impl::warn_of_other_build(const Restored& restored) const {
  if (options.plane->world_rank() != 0) return;
  const std::vector<std::string> differences = restored.build.differences_to(options.build);
  if (differences.empty()) return;
  options.log.warn(cat(restored.path, ": saved with ", join(differences, "; with "),
                       ": the numbers from here on may differ"));
}

Result<std::optional<Restored>> Checkpointer::restore(const RestoreRequest& request) {
  LOCKSTEP_CHECK(request.schema != nullptr && request.into != nullptr,
                 "restore needs a schema and memory");
  impl_->require_no_save();
  impl_->options.plane->begin_series();
  RestoreProtocol protocol({&impl_->options, impl_->options.plane, impl_->paths,
                            impl_->attempt_or_null(), impl_->attempt_number},
                           request);
  auto restored = protocol.run();
  if (restored.is_ok() && restored->has_value()) {
    impl_->parent_generation = (*restored)->generation;
    impl_->lowest_generation = (*restored)->generation + 1;
    impl_->warn_of_other_build(**restored);
  }
  impl_->clean_up();
  if (!restored.is_ok()) return impl_->explained(restored.status());
  return restored;
}

SaveContext Checkpointer::Impl::save_context(bool is_behind) {
  SaveContext context;
  context.options = &options;
  context.plane = options.plane;
  context.paths = paths;
  context.attempt = attempt_or_null();
  context.attempt_number = attempt_number;
  context.parent_generation = parent_generation;
  context.lowest_generation = lowest_generation;
  context.staging = &staging;
  context.staging_budget_bytes = options.staging_budget_bytes;
  if (!is_behind) {
    const uint64_t budget = options.staging_budget_bytes;
    context.staging_budget_bytes =
        budget == 0 ? kFrontStagingBytes : std::min(budget, kFrontStagingBytes);
  }
  return context;
}

namespace {

void check_request(const SaveRequest& request) {
  LOCKSTEP_CHECK(request.schema != nullptr && request.owned != nullptr,
                 "save needs a schema and owned state");
  LOCKSTEP_CHECK(request.step >= 0, "step ", request.step, " can't be saved");
}

/// What follows once the partial folder is there.
Status write_and_commit(SaveProtocol& protocol, bool stages_itself) {
  protocol.write(stages_itself);
  LOCKSTEP_RETURN_IF_ERROR(protocol.vote());
  LOCKSTEP_RETURN_IF_ERROR(protocol.commit());
  protocol.retain();
  return Status::ok();
}

}  // namespace

/// Deletes what earlier attempts left, once, where nobody waits for rank 0: it may take long.
void Checkpointer::Impl::clean_up() {
  if (attempt && !has_cleaned_up) attempt->remove_doomed();
  has_cleaned_up = true;
}

/// A newer attempt takes this one's folders away, and a rank that was frozen meanwhile finds its
/// peers gone: errors that say nothing of the reason. Every rank can see it.
Status Checkpointer::Impl::explained(const Status& status) const {
  if (status.is_ok()) return status;
  const auto newest = newest_attempt(*options.fs, paths);
  if (!newest.is_ok() || *newest <= attempt_number) return status;
  const std::string_view what = "has taken over from this one";
  if (status.message().find(what) != std::string::npos) return status;
  return aborted_error(cat(options.run_dir, ": attempt ", *newest, " ", what, " (attempt ",
                           attempt_number,
                           "); this one must stop. What it met: ", status.message()));
}

/// Training hears of it at its next step; where that waits for the same rank, the reason must not
/// wait with it. Two ranks tell, because one of them may be the one that stands still.
void Checkpointer::Impl::warn_of_failure_behind() const {
  if (options.plane->world_rank() > 1) return;
  options.log.warn(cat("rank ", options.plane->world_rank(),
                       ": a save behind training has failed: ", status_of_save.to_string()));
}

Result<SaveReport> Checkpointer::Impl::conclude_save(const SaveProtocol& done,
                                                     const Status& status) {
  last_outcome = done.outcome();
  last_report = done.report();
  if (last_outcome == SaveOutcome::kDurable) parent_generation = done.report().generation;
  clean_up();
  // A rank that was given up may still write: no later save comes near its folder.
  if (status.code() == StatusCode::kTimeout)
    lowest_generation = std::max(lowest_generation, done.report().generation + 1);
  if (!status.is_ok()) return explained(status);
  return done.report();
}

Result<SaveReport> Checkpointer::save(const SaveRequest& request) {
  check_request(request);
  impl_->require_no_save();
  impl_->last_outcome = SaveOutcome::kFailed;  // should a hook throw
  impl_->options.plane->begin_series();
  impl_->last_report = {};
  SaveProtocol protocol(impl_->save_context(/*is_behind=*/false), request);
  Status status = protocol.prepare();
  if (status.is_ok()) {
    protocol.begin_stage();
    status = write_and_commit(protocol, /*stages_itself=*/true);
  }
  return impl_->conclude_save(protocol, status);
}

void Checkpointer::start_save(const SaveRequest& request) {
  check_request(request);
  impl_->require_no_save();
  Impl& impl = *impl_;
  SaveProtocol& protocol = impl.protocol.emplace(impl.save_context(/*is_behind=*/true), request);
  protocol.begin_stage();
  protocol.stage_what_fits();
  impl.has_save_ended = false;
  const auto rest = [&impl, &protocol](bool stages_itself) {
    impl.options.plane->begin_series();
    impl.status_of_save = caught([&] {
      LOCKSTEP_RETURN_IF_ERROR(protocol.prepare());
      return write_and_commit(protocol, stages_itself);
    });
    if (!impl.status_of_save.is_ok()) {
      protocol.stop_staging(impl.status_of_save);
      impl.warn_of_failure_behind();
    }
    impl.has_save_ended = true;
  };
  try {
    impl.behind = std::thread([rest, &impl] {
      yield_to_other_threads(impl.options.background_nice);
      rest(/*stages_itself=*/false);
    });
  } catch (const std::system_error& error) {
    impl.options.log.warn(
        cat("no thread to save behind training (", error.what(), "): training waits"));
    rest(/*stages_itself=*/true);
  }
  protocol.stage_rest();
}

bool Checkpointer::is_saving() const {
  return impl_->protocol.has_value();
}
bool Checkpointer::has_save_ended() const {
  return impl_->has_save_ended;
}

Result<SaveReport> Checkpointer::finish_save() {
  LOCKSTEP_CHECK(is_saving(), "finish_save without start_save");
  if (impl_->behind.joinable()) impl_->behind.join();
  auto report = impl_->conclude_save(*impl_->protocol, impl_->status_of_save);
  impl_->protocol.reset();
  return report;
}

Status Checkpointer::check_not_fenced() const {
  return impl_->attempt ? impl_->attempt->check_not_fenced() : Status::ok();
}

Status Checkpointer::close() {
  return impl_->attempt ? impl_->attempt->end() : Status::ok();
}

}  // namespace lockstep
