#pragma once
// Starting and ending MPI, and this rank's place in the job. mpi.h stays in the source file.

#include "host_layout.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

struct MpiJob {
  int world_rank = 0;
  int world_size = 1;
  int local_rank = 0;
  int num_local_ranks = 1;
  HostLayout hosts;
  bool is_oversubscribed = false;  ///< this host has more ranks than processors that they may use
};

/// Initialises MPI for calls from one thread at a time. Collective: all ranks of the job; MPI has
/// no deadline here, the launcher has. Errors: kInternal with MPI's text, kUnsupported when MPI is
/// built without threads.
Result<MpiJob> start_mpi(int* argc, char*** argv);
/// Collective: all ranks. Errors: kInternal.
Status finish_mpi();
/// Ends all ranks of the job.
[[noreturn]] void abort_mpi(int exit_code);

}  // namespace lockstep
