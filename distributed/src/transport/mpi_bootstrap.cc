#include "mpi_bootstrap.h"

#include <mpi.h>
#include <sched.h>

#include <cstdlib>
#include <vector>

namespace lockstep {
namespace {

Status mpi_status(const char* call, int code) {
  if (code == MPI_SUCCESS) return Status::ok();
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return internal_error(
      cat(call, " failed: ", std::string_view(text, static_cast<size_t>(length))));
}

/// Whether the ranks of this host outnumber the processors that they may use together. Each rank's
/// own mask says nothing: mpirun binds two ranks to one core each. A rank that does not know its
/// own adds none.
Status find_oversubscription(MPI_Comm local, MpiJob* job) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof(mine), &mine) != 0) CPU_ZERO(&mine);
  cpu_set_t all;
  CPU_ZERO(&all);
  LOCKSTEP_RETURN_IF_ERROR(mpi_status(
      "MPI_Allreduce", MPI_Allreduce(&mine, &all, sizeof(mine), MPI_BYTE, MPI_BOR, local)));
  job->is_oversubscribed = job->num_local_ranks > CPU_COUNT(&all);
  return Status::ok();
}

Status find_place_on_host(MPI_Comm local, MpiJob* job) {
  LOCKSTEP_RETURN_IF_ERROR(mpi_status("MPI_Comm_rank", MPI_Comm_rank(local, &job->local_rank)));
  LOCKSTEP_RETURN_IF_ERROR(
      mpi_status("MPI_Comm_size", MPI_Comm_size(local, &job->num_local_ranks)));
  int first_rank = 0;
  LOCKSTEP_RETURN_IF_ERROR(mpi_status(
      "MPI_Allreduce", MPI_Allreduce(&job->world_rank, &first_rank, 1, MPI_INT, MPI_MIN, local)));
  std::vector<int> first_ranks(static_cast<size_t>(job->world_size));
  LOCKSTEP_RETURN_IF_ERROR(
      mpi_status("MPI_Allgather", MPI_Allgather(&first_rank, 1, MPI_INT, first_ranks.data(), 1,
                                                MPI_INT, MPI_COMM_WORLD)));
  job->hosts = host_layout(first_ranks);
  return find_oversubscription(local, job);
}

}  // namespace

Result<MpiJob> start_mpi(int* argc, char*** argv) {
  int provided = 0;
  LOCKSTEP_RETURN_IF_ERROR(
      mpi_status("MPI_Init_thread", MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided)));
  if (provided < MPI_THREAD_SERIALIZED) {
    return internal_error("this MPI is built without threads (MPI_THREAD_SERIALIZED)");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MpiJob job;
  LOCKSTEP_RETURN_IF_ERROR(
      mpi_status("MPI_Comm_rank", MPI_Comm_rank(MPI_COMM_WORLD, &job.world_rank)));
  LOCKSTEP_RETURN_IF_ERROR(
      mpi_status("MPI_Comm_size", MPI_Comm_size(MPI_COMM_WORLD, &job.world_size)));
  MPI_Comm local = MPI_COMM_NULL;
  LOCKSTEP_RETURN_IF_ERROR(mpi_status(
      "MPI_Comm_split_type",
      MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local)));
  MPI_Comm_set_errhandler(local, MPI_ERRORS_RETURN);
  Status status = find_place_on_host(local, &job);
  MPI_Comm_free(&local);
  LOCKSTEP_RETURN_IF_ERROR(status);
  return job;
}

Status finish_mpi() {
  return mpi_status("MPI_Finalize", MPI_Finalize());
}

void abort_mpi(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace lockstep
