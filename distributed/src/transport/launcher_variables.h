#pragma once
// What the launcher's environment variables claim about the job, and whether it fits what MPI says.
// Pure: reads variables through a function. Source of the traps: mpirun inside Slurm leaves orted's
// wrong SLURM_ variables; srun without PMIx starts N copies of "rank 0 of 1".

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

using VariableReader = std::function<std::optional<std::string>(const std::string& name)>;

/// One source's claim.
struct LauncherClaim {
  std::string source;  ///< "mpirun (OMPI_COMM_WORLD_SIZE)"
  int world_size = 0;
  int world_rank = -1;  ///< -1: not said
};

/// All claims that can be trusted, in order of trust. SLURM_ variables count only inside a step and
/// without mpirun.
std::vector<LauncherClaim> launcher_claims(const VariableReader& read);

/// Whether a launcher that MPI can join has started this process; otherwise it is alone and needs
/// no MPI.
bool is_started_for_mpi(const VariableReader& read);

/// Errors: kInvalidArgument with a table of what each source says and the fix, when a claim differs
/// from MPI's size.
Status check_world_size(int mpi_world_size, const VariableReader& read);

}  // namespace lockstep
