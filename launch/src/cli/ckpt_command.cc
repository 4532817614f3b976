#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "commands.h"
#include "lockstep/checkpoint/ckpt_tools_print.h"
#include "lockstep/core/base/file_system.h"
#include "tool.h"

namespace lockstep {
namespace {

struct CkptArguments {
  std::string path;
  std::string other;
  bool as_json = false;
  bool all = false;
  int64_t world_size = 0;
};

using CkptTool = Result<Outcome> (*)(const CkptArguments&, const ToolRun&);

Result<Outcome> list(const CkptArguments& arguments, const ToolRun& /*how*/) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto found, list_checkpoints(posix_file_system(), arguments.path));
  return Outcome{arguments.as_json ? list_json(found) : list_text(found)};
}

Result<Outcome> inspect(const CkptArguments& arguments, const ToolRun& /*how*/) {
  LOCKSTEP_ASSIGN_OR_RETURN(Manifest manifest,
                            read_manifest(posix_file_system(), arguments.path, nullptr));
  const auto detail = arguments.all ? InspectDetail::kAll : InspectDetail::kPicture;
  return Outcome{arguments.as_json ? inspect_json(manifest) : inspect_text(manifest, detail)};
}

Result<Outcome> verify(const CkptArguments& arguments, const ToolRun& how) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto report,
                            verify_checkpoint(posix_file_system(), arguments.path, how));
  return Outcome{arguments.as_json ? verify_json(report) : verify_text(report),
                 report.is_good() ? ExitCode::kDone : ExitCode::kData};
}

Result<Outcome> diff(const CkptArguments& arguments, const ToolRun& how) {
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto report, diff_checkpoints(posix_file_system(), arguments.path, arguments.other, how));
  // As diff(1): 1 says that they differ.
  return Outcome{arguments.as_json ? diff_json(report) : diff_text(report),
                 report.is_equal() ? ExitCode::kDone : ExitCode{1}};
}

Result<Outcome> export_weights(const CkptArguments& arguments, const ToolRun& how) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto report, export_checkpoint(posix_file_system(), arguments.path,
                                                           arguments.other, arguments.all, how));
  return Outcome{arguments.as_json ? export_json(report) : export_text(report)};
}

Result<Outcome> reshard(const CkptArguments& arguments, const ToolRun& how) {
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto report, reshard_checkpoint(posix_file_system(), arguments.path, arguments.world_size,
                                      arguments.other, how));
  return Outcome{arguments.as_json ? reshard_json(report) : reshard_text(report)};
}

}  // namespace

void add_ckpt_command(CLI::App& app, const CommandLine& line) {
  auto arguments = std::make_shared<CkptArguments>();
  CLI::App* ckpt = app.add_subcommand("ckpt", "Look at checkpoints and work with them; no MPI");
  ckpt->require_subcommand(1);
  auto add = [&](const std::string& name, const char* help, const char* first, const char* second,
                 CkptTool tool) {
    CLI::App* command = ckpt->add_subcommand(name, help);
    command->add_option(first, arguments->path)->required();
    if (second != nullptr) command->add_option(second, arguments->other)->required();
    command->add_flag("--json", arguments->as_json, "Print JSON");
    command->callback([=] {
      *line.exit_code = run_tool(name, arguments->as_json,
                                 [&](const ToolRun& how) { return tool(*arguments, how); });
    });
    return command;
  };
  add("ls", "The checkpoints of a run", "run", nullptr, list);
  add("inspect", "What a checkpoint holds, and a picture of which rank holds how much of what",
      "checkpoint", nullptr, inspect)
      ->add_flag("--all", arguments->all, "Also every tensor's place and every shard's blocks");
  add("verify", "Read all of a checkpoint and check every hash; leaves with 65 when it is bad",
      "checkpoint", nullptr, verify);
  add("diff", "Compare two checkpoints bit for bit; leaves with 1 when they differ", "a", "b",
      diff);
  add("export", "Write the weights as one safetensors file", "checkpoint", "out", export_weights)
      ->add_flag("--all", arguments->all, "Also buffers and optimizer state");
  add_import_command(*ckpt, line);
  add("reshard", "Write a checkpoint once more, cut for another number of ranks", "checkpoint",
      "out", reshard)
      ->add_option("--world-size", arguments->world_size, "Number of ranks, and of shards")
      ->required();
  add_prune_command(*ckpt, line);
}

}  // namespace lockstep
