#pragma once
// ControlPlane: small host messages between all ranks: votes, verdicts, start-up checks, the death
// of a peer. TCP under mpirun, so that it works while MPI is stuck and knows within half a second
// whose connection closed; in-process for ranks as threads. Thread-safety: one thread at a time;
// several planes are independent. After kTimeout or kPeerFailure the plane is dead: every later
// call returns the same error; after kTimeout until begin_series().

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// The longest message that a rank may bring to a gather.
inline constexpr size_t kMaxControlMessageBytes = size_t{64} << 20;

class ControlPlane {
 public:
  virtual ~ControlPlane() = default;
  int world_rank() const { return world_rank_; }
  int world_size() const { return world_size_; }

  /// Every rank's message, in rank order, on every rank. `what` names the wait in errors.
  /// Collective: all ranks, same order of calls; a rank that calls with another `what` is an error
  /// on all. The first rank whose time is up ends the series for all: those that come later get
  /// kTimeout too. Whether all had come is said by rank 0 alone, the same to every rank; the last
  /// quarter of the time, at most 2 s, is left for that. Errors: kTimeout naming the ranks that did
  /// not arrive, kPeerFailure naming the rank whose connection closed. Cost: a gather to rank 0 and
  /// a broadcast from it. Requires: message of at most kMaxControlMessageBytes.
  virtual Result<std::vector<std::string>> all_gather(std::string_view what, std::string message,
                                                      Deadline deadline) = 0;
  /// Leaves behind what came before, be it finished or given up: later calls meet only calls of the
  /// same series, and a time-out of an earlier one no longer counts. A rank that still waits in an
  /// earlier series, or comes to it late, gets kTimeout. Local: each rank calls it on its own, at
  /// the same places of its sequence of calls.
  virtual void begin_series() = 0;
  /// The ranks whose connection is known to be closed, ascending; never blocks. May be called from
  /// any thread.
  virtual std::vector<int> lost_ranks() const = 0;
  /// Another plane over the same ranks, independent of this one (for a background thread).
  /// Collective: all ranks. Errors: as all_gather.
  virtual Result<std::unique_ptr<ControlPlane>> split(std::string_view name, Deadline deadline) = 0;
  /// Tells the peers that this rank leaves on purpose, then closes. No rank may use the plane
  /// afterwards.
  virtual Status shutdown(Deadline deadline) = 0;

  /// Rank 0's message on every rank. Collective. Errors: as all_gather.
  Result<std::string> broadcast(std::string_view what, std::string message_of_rank_0,
                                Deadline deadline);
  /// One verdict for all: OK when every rank says OK; else the same error on every rank: the code
  /// of the lowest failing rank and every failing rank's message with its name ("rank 2: ..."),
  /// equal messages folded. Collective. Errors: the verdict; as all_gather.
  Status vote(std::string_view what, const Status& mine, Deadline deadline);
  /// Returns once every rank is here. Collective. Errors: as all_gather.
  Status barrier(std::string_view what, Deadline deadline);

 protected:
  ControlPlane(int world_rank, int world_size) : world_rank_(world_rank), world_size_(world_size) {}

 private:
  int world_rank_;
  int world_size_;
};

}  // namespace lockstep
