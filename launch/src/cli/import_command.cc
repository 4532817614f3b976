#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/world.h"
#include "lockstep/launch/trainer.h"
#include "recipe_parts.h"
#include "tool.h"

namespace lockstep {
namespace {

struct ImportArguments {
  std::string weights;
  std::string recipe;
  std::vector<std::string> overrides;
  std::string run_dir;
  bool as_json = false;
};

// As a shell reads it: one word.
std::string shell_word(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=+,:@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

Result<Outcome> import(const ImportArguments& arguments) {
  LOCKSTEP_ASSIGN_OR_RETURN(TrainerParts parts, load_parts(arguments.recipe, arguments.overrides));
  TrainerOptions options;
  options.run_dir = arguments.run_dir;
  options.resume = "never";  // refused in a run that has checkpoints
  options.show_progress = false;
  World world = World::solo({});
  LOCKSTEP_ASSIGN_OR_RETURN(Trainer trainer, Trainer::make(world, std::move(parts), options));
  LOCKSTEP_ASSIGN_OR_RETURN(const WeightsReport report,
                            trainer.start_from_weights(arguments.weights));
  if (arguments.as_json) return Outcome{report.to_json()};
  std::string text = cat(report.path, ": ", report.num_tensors, " tensors, ",
                         human_bytes(report.bytes), ", state digest ", report.state_digest, "\n");
  if (!report.kept.empty()) text += cat("as the model makes them: ", join(report.kept, ", "), "\n");
  return Outcome{text + cat("lockstep train ", shell_word(arguments.recipe), " --run-dir ",
                            shell_word(arguments.run_dir), " goes on from here\n")};
}

}  // namespace

void add_import_command(CLI::App& ckpt, const CommandLine& line) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* command = ckpt.add_subcommand(
      "import",
      "Start a run from the weights in a safetensors file: a checkpoint of step 0 in a new run "
      "folder");
  command
      ->add_option("weights", arguments->weights,
                   "The file: whole tensors by name, as export or Python writes them")
      ->required();
  command->add_option("run", arguments->run_dir, "The run's folder")->required();
  command->add_option("--recipe", arguments->recipe, "The recipe that the run will train")
      ->required();
  command
      ->add_option("--set", arguments->overrides,
                   "Override a key of the recipe: table.key=value (repeatable)")
      ->allow_extra_args(false);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->callback([arguments, line] {
    *line.exit_code = run_tool("import", arguments->as_json,
                               [&](const ToolRun& /*how*/) { return import(*arguments); });
  });
}

}  // namespace lockstep
