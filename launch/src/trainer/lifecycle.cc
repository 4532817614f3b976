#include "lockstep/launch/lifecycle.h"

#include <exception>

#include "lockstep/core/base/text.h"
#include "lockstep/core/model/tensor_memory.h"

namespace lockstep {
namespace {

constexpr double kLeaveTimeoutS = 120;  // for ranks that are still saving or evaluating
constexpr double kFailTimeoutS = 10;

Result<ExitCode> run_body(World& world, const std::function<Result<ExitCode>(World&)>& body) {
  try {
    return body(world);
  } catch (const std::exception& error) {
    return internal_error(error.what());
  }
}

}  // namespace

int run_ranks(int argc, char** argv, const std::function<Result<ExitCode>(World&)>& body) {
  install_stop_signals();  // joining takes a while, and a stop may come meanwhile
  keep_tensor_memory();
  LogOptions log_options;
  log_options.level = LogLevel::kInfo;
  Log log(log_options);
  auto world = World::join(argc, argv, WorldOptions{log});
  if (!world.is_ok()) {
    log.error(world.status().to_string());
    return static_cast<int>(exit_code_for(world.status()));
  }
  install_stop_signals();
  Log rank_log = world->log();
  world->on_peer_lost([rank_log](int lost_rank) {
    note_lost_peer();
    rank_log.error(cat("rank ", lost_rank, " is gone: its connection closed without a goodbye"));
  });
  Result<ExitCode> result = run_body(*world, body);
  // All ranks end with one verdict. A rank that failed alone finds nobody here and ends the job.
  Status mine = result.is_ok() ? Status::ok() : result.status();
  Status verdict = world->control_plane().vote(
      "end of the run", mine, Deadline::after_s(mine.is_ok() ? kLeaveTimeoutS : kFailTimeoutS));
  bool is_agreed = verdict.is_ok() || (verdict.code() != StatusCode::kTimeout &&
                                       verdict.code() != StatusCode::kPeerFailure);
  // An error that every rank had already agreed on needs no second list of ranks.
  bool is_mine = !mine.is_ok() && verdict.message().ends_with(mine.message());
  const Status& told = is_agreed && !is_mine ? verdict : (mine.is_ok() ? verdict : mine);
  ExitCode code = told.is_ok() ? *result : exit_code_for(told);
  if (!told.is_ok() && (!is_agreed || world->world_rank() == 0)) rank_log.error(told.to_string());
  if (!is_agreed && world->world_size() > 1)
    world->abort_job(static_cast<int>(code), told.message());
  Status left = world->shutdown();
  if (!left.is_ok()) {
    rank_log.error(left.with_context("leaving").to_string());
    if (code == ExitCode::kDone) code = exit_code_for(left);
  }
  return static_cast<int>(code);
}

}  // namespace lockstep
