#pragma once
// The data path over MPI. Only non-blocking calls, polled here, so that every wait has a deadline,
// can be aborted and names its peers. mpi.h stays in the source file.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/distributed/communicator.h"

namespace lockstep {

struct MpiCommunicatorOptions {
  /// More ranks than processors on this host: give the processor away between polls.
  bool is_oversubscribed = false;
  /// Pause between polls that find nothing, once a wait has lasted a while; 0: only give the
  /// processor away. Where messages come over a network and the waiting thread has no processor to
  /// itself, polling would take the time that computes.
  int64_t idle_pause_ns = 0;
  /// Messages up to this size between ranks of one host go through shared memory, not MPI. The same
  /// on all ranks of a host.
  size_t max_ring_message_bytes = 0;
  /// An MPI call counts in int: longer messages go in parts of this size. The same on all ranks.
  size_t max_part_bytes = size_t{1} << 30;
  /// The ranks that are known to be dead; asked while waiting, from the waiting thread. May be
  /// empty.
  std::function<std::vector<int>()> lost_ranks = {};
  /// Told, with what is waited for and the ranks, when a wait has lasted this long, and each time
  /// that it has lasted twice as long again: a rank that hangs is named long before the deadline.
  /// Called from the waiting thread. May be empty.
  std::function<void(const std::string& text)> on_slow_wait = {};
  double slow_wait_s = 15;
};

/// A communicator over all ranks of the MPI job, isolated from other users of MPI.
/// Requires: MPI is initialised. Collective: all ranks. Errors: kInternal with MPI's own text.
/// A message of another size than expected is told at the deadline of whoever expects it; its
/// sender may time out. After an error the memory of the operations under way may still be read or
/// written until the process ends: drop the buffers only with the process, or leave the job.
Result<std::unique_ptr<Communicator>> make_mpi_communicator(const MpiCommunicatorOptions& options);

}  // namespace lockstep
