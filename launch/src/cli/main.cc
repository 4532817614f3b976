// lockstep: the command line. Each command is a file of its own beside this one.

#include <CLI/CLI.hpp>
#include <cstdio>

#include "commands.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/exit_code.h"
#include "lockstep/launch/version.h"

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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    // Under mpirun every rank sees the same mistake; one of them tells it.
    if (lockstep::environment_variable("OMPI_COMM_WORLD_RANK").value_or("0") == "0")
      app.exit(error);
    return static_cast<int>(lockstep::ExitCode::kUsage);
  }
  return exit_code;
}
