#pragma once
// What a World is made of, whichever way it was joined.

#include <functional>
#include <memory>
#include <mutex>

#include "lockstep/distributed/world.h"

namespace lockstep {

struct World::Impl {
  WorldOptions options;
  std::unique_ptr<Communicator> communicator;
  std::unique_ptr<ControlPlane> control_plane;
  int local_rank = 0;
  int num_local_ranks = 1;
  int num_hosts = 1;
  int ranks_per_host = 1;
  std::mutex* process_lock = nullptr;
  bool is_shut_down = false;
  std::function<void(std::function<void(int)>)> set_on_peer_lost;
  /// After the control plane is closed: whatever else the transport has to leave.
  std::function<Status()> finish;
  /// Ends the job, or at least this rank; may throw, must not return.
  std::function<void(int exit_code, std::string_view reason)> end_job;
};

}  // namespace lockstep
