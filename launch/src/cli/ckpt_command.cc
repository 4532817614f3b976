#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "commands.h"
#include "lockstep/checkpoint/ckpt_tools_print.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/file_system.h"
#include "tool.h"

namespace lockstep {
namespace {

struct CkptArguments {
  std::string path;
  std::string other;
  bool as_json = false;
  bool all = false;
};

using Tool = Result<Outcome> (*)(const CkptArguments&);

Result<Outcome> list(const CkptArguments& arguments) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto found, list_checkpoints(posix_file_system(), arguments.path));
  return Outcome{arguments.as_json ? list_json(found) : list_text(found)};
}

Result<Outcome> inspect(const CkptArguments& arguments) {
  LOCKSTEP_ASSIGN_OR_RETURN(Manifest manifest,
                            read_manifest(posix_file_system(), arguments.path, nullptr));
  return Outcome{arguments.as_json ? inspect_json(manifest) : inspect_text(manifest)};
}

Result<Outcome> verify(const CkptArguments& arguments) {
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto report, verify_checkpoint(posix_file_system(), arguments.path, num_usable_cpus()));
  return Outcome{arguments.as_json ? verify_json(report) : verify_text(report),
                 report.is_good() ? ExitCode::kDone : ExitCode::kData};
}

Result<Outcome> diff(const CkptArguments& arguments) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto report,
                            diff_checkpoints(posix_file_system(), arguments.path, arguments.other));
  // As diff(1): 1 says that they differ.
  return Outcome{arguments.as_json ? diff_json(report) : diff_text(report),
                 report.is_equal() ? ExitCode::kDone : ExitCode{1}};
}

Result<Outcome> export_weights(const CkptArguments& arguments) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto report, export_checkpoint(posix_file_system(), arguments.path,
                                                           arguments.other, arguments.all));
  return Outcome{arguments.as_json ? export_json(report) : export_text(report)};
}

}  // namespace

void add_ckpt_command(CLI::App& app, const CommandLine& line) {
  auto arguments = std::make_shared<CkptArguments>();
  CLI::App* ckpt = app.add_subcommand("ckpt", "Look at checkpoints; no MPI needed");
  ckpt->require_subcommand(1);
  auto add = [&](const std::string& name, const char* help, const char* first, const char* second,
                 Tool tool) {
    CLI::App* command = ckpt->add_subcommand(name, help);
    command->add_option(first, arguments->path)->required();
    if (second != nullptr) command->add_option(second, arguments->other)->required();
    command->add_flag("--json", arguments->as_json, "Print JSON");
    command->callback([=] { *line.exit_code = run_tool(name, [&] { return tool(*arguments); }); });
    return command;
  };
  add("ls", "The checkpoints of a run", "run", nullptr, list);
  add("inspect", "What a checkpoint holds, and which rank wrote what", "checkpoint", nullptr,
      inspect);
  add("verify", "Read all of a checkpoint and check every hash; leaves with 65 when it is bad",
      "checkpoint", nullptr, verify);
  add("diff", "Compare two checkpoints bit for bit; leaves with 1 when they differ", "a", "b",
      diff);
  add("export", "Write the weights as one safetensors file", "checkpoint", "out", export_weights)
      ->add_flag("--all", arguments->all, "Also buffers and optimizer state");
  add_prune_command(*ckpt, line);
}

}  // namespace lockstep
