#pragma once
// World: who am I among the ranks, and the two ways to talk to the others. Made once at the start
// of main, or one for each thread when ranks are threads. Thread-safety: as its Communicator and
// ControlPlane.

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lockstep/core/base/log.h"
#include "lockstep/core/base/status.h"
#include "lockstep/distributed/communicator.h"
#include "lockstep/distributed/control_plane.h"

namespace lockstep {

struct WorldOptions {
  Log log;
  double start_timeout_s = 60;  ///< for all ranks to find each other
};

class World {
 public:
  /// Joins the other ranks: under mpirun or srun --mpi=pmix by MPI_Init, alone otherwise.
  /// Collective: every rank of the launch. Errors: kInvalidArgument when the launcher's variables
  /// and MPI disagree on the number of ranks (with a table of what each says and the fix); kTimeout
  /// naming the ranks that did not come.
  static Result<World> join(int argc, char** argv, const WorldOptions& options);
  static Result<World> join(int argc, char** argv) { return join(argc, argv, WorldOptions{}); }
  /// A world of one, without MPI.
  static World solo(const WorldOptions& options);
  /// Runs `rank_main` on `num_ranks` threads, each with its own World, and joins them. Errors: the
  /// Status of the lowest failing rank. An exception in a rank aborts the others' waits and is
  /// thrown again here.
  static Status run_threads(int num_ranks, const std::function<Status(World&)>& rank_main,
                            const WorldOptions& options);

  World(World&&) noexcept;
  World& operator=(World&&) noexcept;
  ~World();

  int world_rank() const;
  int world_size() const;
  int local_rank() const;       ///< index among the ranks of this host
  int num_local_ranks() const;  ///< ranks on this host
  int num_hosts() const;
  /// L where ranks [k L, (k + 1) L) share host k for every k; 1 where hosts have different numbers
  /// of ranks or a host's ranks are not neighbours.
  int ranks_per_host() const;
  Communicator& communicator();
  ControlPlane& control_plane();
  const Log& log() const;
  /// Ranks that are threads of this process share it, and must hold it while LibTorch draws random
  /// numbers; null when the rank has the process to itself.
  std::mutex* process_lock();
  /// Called on a background thread, within 0.5 s, when a peer's connection closes without a
  /// shutdown; on this one for peers that are lost already. Each callback hears of a peer once. One
  /// callback: another, or nullptr, takes its place, after a call that is under way, and so does
  /// shutdown(). It must only record and return, and what it uses must live until then, or as long
  /// as the world. If it throws, the control plane (for thread ranks the communicator) fails.
  void on_peer_lost(std::function<void(int world_rank)> callback);

  /// Leaves in order: all ranks have arrived, control plane closed, MPI finalised; later calls of
  /// the communicator and the control plane return kAborted. Collective; the end of MPI itself has
  /// no deadline.
  /// Errors: kTimeout and kPeerFailure naming the rank that did not arrive.
  Status shutdown();
  /// Leaves in disorder: aborts the communicator and, under MPI, ends the whole job with
  /// `exit_code`.
  [[noreturn]] void abort_job(int exit_code, std::string_view reason);

 private:
  struct Impl;
  friend class DataParallel;  // shares the insides, so that both may be moved
  explicit World(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace lockstep
