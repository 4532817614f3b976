#pragma once
// The commands of the program: each adds itself to the command line and, when chosen, runs and
// leaves its exit code.

#include <CLI/App.hpp>

namespace lockstep {

struct CommandLine {
  int argc = 0;
  char** argv = nullptr;
  int* exit_code = nullptr;
};

/// lockstep train RECIPE.toml: joins the other ranks of an mpirun or srun.
void add_train_command(CLI::App& app, const CommandLine& line);
/// lockstep data make-tabular: no MPI.
void add_data_command(CLI::App& app, const CommandLine& line);
/// lockstep bench collectives|step (on every rank), report (no MPI).
void add_bench_command(CLI::App& app, const CommandLine& line);
/// lockstep ckpt ls|inspect|verify|diff|export|reshard, and the two below: no MPI.
void add_ckpt_command(CLI::App& app, const CommandLine& line);
/// lockstep ckpt import: a new run from weights.
void add_import_command(CLI::App& ckpt, const CommandLine& line);
/// lockstep ckpt prune.
void add_prune_command(CLI::App& ckpt, const CommandLine& line);

}  // namespace lockstep
