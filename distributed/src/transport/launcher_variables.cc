#include "launcher_variables.h"

#include <charconv>

namespace lockstep {
namespace {

std::optional<int> read_int(const VariableReader& read, const std::string& name) {
  std::optional<std::string> text = read(name);
  if (!text) return std::nullopt;
  int value = 0;
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size()) return std::nullopt;
  return value;
}

void add_claim(const VariableReader& read, std::string_view launcher, const std::string& size_name,
               const std::string& rank_name, std::vector<LauncherClaim>* claims) {
  std::optional<int> size = read_int(read, size_name);
  if (!size || *size < 1) return;
  claims->push_back(
      {cat(launcher, " (", size_name, ")"), *size, read_int(read, rank_name).value_or(-1)});
}

std::string fix_for(const LauncherClaim& claim) {
  if (claim.source.starts_with("srun")) return "start it with srun --mpi=pmix, or with mpirun";
  if (claim.source.starts_with("torchrun")) {
    return "start it with mpirun -n N or srun --mpi=pmix, or unset WORLD_SIZE and RANK";
  }
  return "use the mpirun of the MPI that this program is linked with (mpirun --version)";
}

}  // namespace

std::vector<LauncherClaim> launcher_claims(const VariableReader& read) {
  std::vector<LauncherClaim> claims;
  add_claim(read, "mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", &claims);
  bool is_below_mpirun = !claims.empty();
  if (read("RANK")) add_claim(read, "torchrun", "WORLD_SIZE", "RANK", &claims);
  if (!is_below_mpirun && read("SLURM_STEP_ID")) {
    // The step's own count is right also in an interactive step, where SLURM_NTASKS is the
    // allocation's.
    bool has_step_count = read("SLURM_STEP_NUM_TASKS").has_value();
    add_claim(read, "srun", has_step_count ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS",
              "SLURM_PROCID", &claims);
  }
  return claims;
}

bool is_started_for_mpi(const VariableReader& read) {
  return read("OMPI_COMM_WORLD_SIZE") || read("PMIX_RANK");
}

Status check_world_size(int mpi_world_size, const VariableReader& read) {
  std::vector<LauncherClaim> claims = launcher_claims(read);
  const LauncherClaim* wrong = nullptr;
  for (const LauncherClaim& claim : claims) {
    if (wrong == nullptr && claim.world_size != mpi_world_size) wrong = &claim;
  }
  if (wrong == nullptr) return Status::ok();
  std::string table =
      cat("the launcher and MPI disagree about the number of ranks:\n  MPI: ", mpi_world_size);
  for (const LauncherClaim& claim : claims) {
    table += cat("\n  ", claim.source, ": ", claim.world_size);
    if (claim.world_rank >= 0) table += cat(", this is rank ", claim.world_rank);
  }
  return invalid_argument_error(cat(table, "\n  fix: ", fix_for(*wrong)));
}

}  // namespace lockstep
