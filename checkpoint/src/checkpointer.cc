#include "lockstep/checkpoint/checkpointer.h"

#include "collective.h"
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

  const Attempt* attempt_or_null() const { return attempt ? &*attempt : nullptr; }
  void warn_of_other_build(const Restored& restored) const;
};

namespace {

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
  const Deadline deadline = Deadline::after_s(options.control_timeout_s + options.watch_s);
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string text,
                            share(*options.plane, "beginning the attempt", number, deadline));
  impl->attempt_number = static_cast<int64_t>(Unpacker(text).number());
  // Only now: deleting takes long, and the others wait no longer than for a file.
  if (impl->attempt) impl->attempt->remove_doomed();
  return Checkpointer(std::move(impl));
}

int64_t Checkpointer::attempt() const {
  return impl_->attempt_number;
}
SaveOutcome Checkpointer::last_outcome() const {
  return impl_->last_outcome;
}

void Checkpointer::Impl::warn_of_other_build(const Restored& restored) const {
  if (options.plane->world_rank() != 0) return;
  const BuildIdentity& now = options.build;
  if (restored.build.instruction_set != now.instruction_set) {
    options.log.warn(cat(restored.path, ": saved with instruction set ",
                         restored.build.instruction_set, ", now ", now.instruction_set,
                         ": the numbers from here on may differ"));
  }
  for (const auto& [library, version] : now.versions) {
    const auto it = restored.build.versions.find(library);
    if (it != restored.build.versions.end() && it->second != version) {
      options.log.warn(cat(restored.path, ": saved with ", library, " ", it->second, ", now ",
                           version, ": the numbers from here on may differ"));
    }
  }
}

Result<std::optional<Restored>> Checkpointer::restore(const RestoreRequest& request) {
  LOCKSTEP_CHECK(request.schema != nullptr && request.into != nullptr,
                 "restore needs a schema and memory");
  RestoreProtocol protocol({&impl_->options, impl_->options.plane, impl_->paths,
                            impl_->attempt_or_null(), impl_->attempt_number},
                           request);
  auto restored = protocol.run();
  if (restored.is_ok() && restored->has_value()) {
    impl_->parent_generation = (*restored)->generation;
    impl_->lowest_generation = (*restored)->generation + 1;
    impl_->warn_of_other_build(**restored);
  }
  return restored;
}

Result<SaveReport> Checkpointer::save(const SaveRequest& request) {
  LOCKSTEP_CHECK(request.schema != nullptr && request.owned != nullptr,
                 "save needs a schema and owned state");
  LOCKSTEP_CHECK(request.step >= 0, "step ", request.step, " can't be saved");
  SaveContext context;
  context.options = &impl_->options;
  context.plane = impl_->options.plane;
  context.paths = impl_->paths;
  context.attempt = impl_->attempt_or_null();
  context.attempt_number = impl_->attempt_number;
  context.parent_generation = impl_->parent_generation;
  context.lowest_generation = impl_->lowest_generation;
  context.staging = &impl_->staging;
  SaveProtocol protocol(context, request);
  impl_->last_outcome = SaveOutcome::kFailed;
  LOCKSTEP_RETURN_IF_ERROR(protocol.prepare());
  protocol.stage();
  protocol.write();
  const Status voted = protocol.vote();
  impl_->last_outcome = protocol.outcome();
  LOCKSTEP_RETURN_IF_ERROR(voted);
  const Status committed = protocol.commit();
  impl_->last_outcome = protocol.outcome();
  if (impl_->last_outcome == SaveOutcome::kDurable)
    impl_->parent_generation = protocol.report().generation;
  LOCKSTEP_RETURN_IF_ERROR(committed);
  protocol.retain();
  return protocol.report();
}

Status Checkpointer::check_not_fenced() const {
  return impl_->attempt ? impl_->attempt->check_not_fenced() : Status::ok();
}

Status Checkpointer::close() {
  return impl_->attempt ? impl_->attempt->end() : Status::ok();
}

}  // namespace lockstep
