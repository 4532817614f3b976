#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "lockstep/core/base/text.h"
#include "lockstep/launch/lifecycle.h"
#include "lockstep/launch/trainer.h"
#include "recipe_parts.h"

namespace lockstep {
namespace {

constexpr double kOpenTimeoutS = 300;

struct TrainArguments {
  std::string recipe_path;
  std::vector<std::string> overrides;
  TrainerOptions options;
};

Result<ExitCode> train(World& world, const TrainArguments& arguments) {
  auto parts = load_parts(arguments.recipe_path, arguments.overrides);
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote("recipe and data",
                                                      parts.is_ok() ? Status::ok() : parts.status(),
                                                      Deadline::after_s(kOpenTimeoutS)));
  LOCKSTEP_ASSIGN_OR_RETURN(Trainer trainer,
                            Trainer::make(world, std::move(parts).value(), arguments.options));
  LOCKSTEP_ASSIGN_OR_RETURN(TrainReport report, trainer.run());
  if (world.world_rank() == 0) std::fputs(report.to_json().c_str(), stdout);
  if (report.end != TrainEnd::kStoppedBySignal) return ExitCode::kDone;
  if (report.stop != TrainStop::kNone) return ExitCode::kRequeue;
  // Not 85: a requeued job would begin at step 0 again, for ever (launch/DESIGN.md).
  return invalid_argument_error(
      cat("stopped without a checkpoint (no --run-dir): the ", report.steps,
          " steps of this run are lost; with --run-dir DIR a stop saves and can be resumed"));
}

}  // namespace

void add_train_command(CLI::App& app, const CommandLine& line) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command =
      app.add_subcommand("train", "Train a recipe, on every rank of an mpirun or srun, or alone");
  command->add_option("recipe", arguments->recipe_path, "The recipe, a TOML file")->required();
  command
      ->add_option("--set", arguments->overrides,
                   "Override a key of the recipe: table.key=value (repeatable)")
      ->allow_extra_args(false);
  TrainerOptions& options = arguments->options;
  command->add_option("--run-dir", options.run_dir,
                      "Folder of the run: checkpoints, metrics.jsonl, recipe.toml");
  command
      ->add_option("--resume", options.resume,
                   "auto: the newest good checkpoint if there is one; never; or a path")
      ->capture_default_str();
  command
      ->add_option(
          "--load", options.load,
          "With --resume PATH: all, or params-only: fine-tune the checkpoint's parameters; "
          "steps, optimizer and data begin anew")
      ->capture_default_str();
  command
      ->add_option("--allow-missing", options.allow_missing,
                   "With --load params-only: tensors that keep their fresh values (head.*)")
      ->delimiter(',')
      ->allow_extra_args(false);
  command
      ->add_option("--allow-unexpected", options.allow_unexpected,
                   "With --load params-only: tensors of the checkpoint that are not used (head.*)")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_flag("--overwrite", options.overwrite,
                    "With --resume never: move earlier checkpoints, metrics and recipe aside");
  command->add_flag("--take-over", options.take_over,
                    "Start although an earlier attempt of the run seems alive");
  command
      ->add_option("--allow-recipe-change", options.allow_recipe_change,
                   "Keys that may differ from the checkpoint's")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_flag("--share-gpu", options.may_share_gpu,
                    "Several ranks may use one GPU; they take turns on it");
  command
      ->add_option("--stop-after", options.stop_after_steps,
                   "Save and leave after so many steps of the run")
      ->check(CLI::PositiveNumber);
  command->add_option("--report", options.report_path, "Write a report here as JSON");
  command->callback([arguments, line] {
    *line.exit_code =
        run_ranks(line.argc, line.argv, [&](World& world) { return train(world, *arguments); });
  });
}

}  // namespace lockstep
