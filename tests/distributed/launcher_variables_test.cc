#include "launcher_variables.h"

#include <gmock/gmock.h>

#include <map>

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

VariableReader reader_of(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const std::string& name) -> std::optional<std::string> {
    auto it = variables.find(name);
    if (it == variables.end()) return std::nullopt;
    return it->second;
  };
}

TEST(LauncherVariables, AloneNeedsNoMpi) {
  EXPECT_FALSE(is_started_for_mpi(reader_of({})));
  EXPECT_TRUE(check_world_size(1, reader_of({})).is_ok());
}

TEST(LauncherVariables, TrustsMpirunAlsoInsideSlurm) {
  // As seen under mpirun in an allocation: orted's SLURM_ variables are wrong.
  auto read = reader_of({{"OMPI_COMM_WORLD_SIZE", "6"},
                         {"OMPI_COMM_WORLD_RANK", "4"},
                         {"PMIX_RANK", "4"},
                         {"SLURM_STEP_ID", "0"},
                         {"SLURM_PROCID", "0"},
                         {"SLURM_NTASKS", "2"},
                         {"SLURM_STEP_NUM_TASKS", "2"}});
  EXPECT_TRUE(is_started_for_mpi(read));
  EXPECT_TRUE(check_world_size(6, read).is_ok());
  EXPECT_EQ(launcher_claims(read).size(), 1U);
}

TEST(LauncherVariables, RefusesCopiesOfRank0UnderSrun) {
  auto read = reader_of({{"SLURM_STEP_ID", "3"}, {"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}});
  EXPECT_FALSE(is_started_for_mpi(read));
  Status status = check_world_size(1, read);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("MPI: 1"), HasSubstr("srun (SLURM_NTASKS): 4, this is rank 2"),
                    HasSubstr("srun --mpi=pmix")));
}

TEST(LauncherVariables, BelievesTheStepNotTheAllocation) {
  // A shell of salloc: the allocation has 8 tasks, this step is one process.
  auto read = reader_of({{"SLURM_STEP_ID", "4294967290"},
                         {"SLURM_PROCID", "0"},
                         {"SLURM_NTASKS", "8"},
                         {"SLURM_STEP_NUM_TASKS", "1"}});
  EXPECT_TRUE(check_world_size(1, read).is_ok());
  // A batch script outside of any step.
  EXPECT_TRUE(
      check_world_size(1, reader_of({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}})).is_ok());
}

TEST(LauncherVariables, RefusesAnotherMpirun) {
  auto read = reader_of({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "1"}});
  Status status = check_world_size(1, read);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("mpirun (OMPI_COMM_WORLD_SIZE): 4, this is rank 1"));
}

TEST(LauncherVariables, RefusesTorchrun) {
  Status status = check_world_size(1, reader_of({{"RANK", "1"}, {"WORLD_SIZE", "2"}}));
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("torchrun (WORLD_SIZE): 2"), HasSubstr("mpirun -n")));
  EXPECT_TRUE(check_world_size(1, reader_of({{"WORLD_SIZE", "2"}})).is_ok());
}

TEST(LauncherVariables, IgnoresWhatIsNoNumber) {
  EXPECT_TRUE(launcher_claims(reader_of({{"OMPI_COMM_WORLD_SIZE", "four"}})).empty());
  EXPECT_TRUE(launcher_claims(reader_of({{"OMPI_COMM_WORLD_SIZE", "-1"}})).empty());
  EXPECT_TRUE(launcher_claims(reader_of({{"OMPI_COMM_WORLD_SIZE", ""}})).empty());
}

}  // namespace
}  // namespace lockstep
