// lockstep: the command line. Each command is a file of its own beside this one.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "commands.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/exit_code.h"
#include "lockstep/launch/version.h"

namespace {

// Under mpirun or srun every rank sees the same mistake; one of them tells it.
bool is_first_process() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    if (auto rank = lockstep::environment_variable(name)) return *rank == "0";
  }
  return true;
}

int failed(const std::exception& error, lockstep::ExitCode code) {
  if (is_first_process()) std::fprintf(stderr, "lockstep: %s\n", error.what());
  return static_cast<int>(code);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Training that gives the same bits on any number of ranks, with sharded checkpoints",
               "lockstep"};
  app.require_subcommand(1);
  int exit_code = 0;
  app.add_subcommand("version", "Print the version, the libraries and the build")->callback([] {
    std::fputs(lockstep::version_text().c_str(), stdout);
  });
  lockstep::CommandLine line{argc, argv, &exit_code};
  lockstep::add_train_command(app, line);
  lockstep::add_data_command(app, line);
  lockstep::add_ckpt_command(app, line);
  lockstep::add_bench_command(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    if (is_first_process()) app.exit(error);
    return static_cast<int>(lockstep::ExitCode::kUsage);
  } catch (const lockstep::UsageError& error) {
    return failed(error, lockstep::ExitCode::kUsage);
  } catch (const std::exception& error) {
    return failed(error, lockstep::ExitCode::kInternal);
  }
  return exit_code;
}
