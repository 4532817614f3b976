// World::run_threads: ranks as threads of one process.
#include <exception>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "thread_communicator.h"
#include "thread_control_plane.h"
#include "world_impl.h"

namespace lockstep {
namespace {

/// What rank threads leave behind.
struct Outcome {
  std::mutex mutex;
  std::vector<Status> statuses;
  std::exception_ptr first_exception;
};

}  // namespace

Status World::run_threads(int num_ranks, const std::function<Status(World&)>& rank_main,
                          const WorldOptions& options) {
  LOCKSTEP_CHECK(num_ranks >= 1, "num_ranks ", num_ranks);
  auto hub = std::make_shared<ThreadHub>(num_ranks);
  Outcome outcome;
  outcome.statuses.resize(static_cast<size_t>(num_ranks));

  auto run_rank = [&](int rank) {
    auto impl = std::make_unique<Impl>();
    impl->options = options;
    impl->options.log = options.log.with(rank, -1);
    impl->communicator = std::make_unique<ThreadCommunicator>(hub, rank);
    impl->control_plane = std::make_unique<ThreadControlPlane>(hub, rank, "main");
    impl->local_rank = rank;
    impl->num_local_ranks = num_ranks;
    impl->ranks_per_host = num_ranks;
    impl->process_lock = num_ranks > 1 ? &hub->process_lock() : nullptr;
    impl->set_on_peer_lost = [hub, rank](std::function<void(int)> callback) {
      hub->on_peer_lost(rank, std::move(callback));
    };
    impl->finish = [] { return Status::ok(); };
    impl->end_job = [](int exit_code, std::string_view reason) {
      throw std::runtime_error(cat("job aborted with exit code ", exit_code, ": ", reason));
    };
    World world(std::move(impl));
    bool has_thrown = false;
    try {
      outcome.statuses[static_cast<size_t>(rank)] = rank_main(world);
    } catch (...) {
      std::lock_guard lock(outcome.mutex);
      has_thrown = true;
      if (!outcome.first_exception) outcome.first_exception = std::current_exception();
    }
    if (has_thrown) {
      for (int peer = 0; peer < num_ranks; ++peer) {
        hub->abort(peer, cat("rank ", rank, " ended with an exception"));
      }
    }
    hub->leave(rank, world.impl_->is_shut_down);
  };

  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) threads.emplace_back(run_rank, rank);
  for (std::thread& thread : threads) thread.join();
  if (outcome.first_exception) std::rethrow_exception(outcome.first_exception);
  for (const Status& status : outcome.statuses) LOCKSTEP_RETURN_IF_ERROR(status);
  return Status::ok();
}

}  // namespace lockstep
