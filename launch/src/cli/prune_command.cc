#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "lockstep/checkpoint/ckpt_tools_print.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/base/time_text.h"
#include "tool.h"

namespace lockstep {
namespace {

struct PruneArguments {
  std::string run;
  int64_t latest = 0;
  int64_t every_steps = 0;
  std::vector<std::string> best;
  std::string young;
  bool is_dry_run = false;
  bool while_running = false;
  bool as_json = false;
};

Result<RetentionPolicy> policy_of(const PruneArguments& arguments) {
  RetentionPolicy policy;
  if (arguments.latest > 0) policy.keep_any.push_back(keep_latest(arguments.latest));
  if (arguments.every_steps > 0) policy.keep_any.push_back(keep_every_steps(arguments.every_steps));
  for (const std::string& text : arguments.best) {
    auto rule = parse_keep_best(text);
    if (!rule.is_ok()) return rule.status().with_context("--keep-best");
    policy.keep_any.push_back(std::move(*rule));
  }
  if (!arguments.young.empty()) {
    const auto seconds = parse_duration_s(arguments.young);
    if (!seconds) {
      return invalid_argument_error(
          cat("--keep-for: expected a whole number and s, m, h or d, as in 36h or 7d; found \"",
              arguments.young, "\""));
    }
    policy.keep_any.push_back(keep_for(*seconds));
  }
  if (policy.keep_any.empty()) {
    return invalid_argument_error(
        "say what to keep: --keep-latest K, --keep-every STEPS, --keep-best METRIC, --keep-for "
        "TIME, or several of them");
  }
  return policy;
}

Result<Outcome> prune(const PruneArguments& arguments, const ToolRun& how) {
  PruneOptions options;
  LOCKSTEP_ASSIGN_OR_RETURN(options.policy, policy_of(arguments));
  options.is_dry_run = arguments.is_dry_run;
  options.while_running = arguments.while_running;
  options.how = how;
  LOCKSTEP_ASSIGN_OR_RETURN(const PruneReport report,
                            prune_run(posix_file_system(), arguments.run, std::move(options)));
  return Outcome{arguments.as_json ? prune_json(report) : prune_text(report)};
}

}  // namespace

void add_prune_command(CLI::App& ckpt, const CommandLine& line) {
  auto arguments = std::make_shared<PruneArguments>();
  CLI::App* command = ckpt.add_subcommand(
      "prune",
      "Delete the checkpoints of a run that no --keep option wants; never the newest. Refused "
      "while the run is alive");
  command->add_option("run", arguments->run, "The run's folder")->required();
  command->add_option("--keep-latest", arguments->latest, "Keep the newest K")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--keep-every", arguments->every_steps,
                   "Keep those whose step is a multiple of this")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--keep-best", arguments->best,
                   "Keep the best by a metric: max:accuracy, min:loss:3 (repeatable)")
      ->allow_extra_args(false);
  command->add_option("--keep-for", arguments->young, "Keep those younger than this: 90m, 36h, 7d");
  command->add_flag("--dry-run", arguments->is_dry_run,
                    "Only say what would be deleted, and how much space that frees");
  command->add_flag("--while-running", arguments->while_running,
                    "Also while an attempt of the run is alive; that one is not disturbed");
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->callback([arguments, line] {
    *line.exit_code = run_tool("prune", arguments->as_json,
                               [&](const ToolRun& how) { return prune(*arguments, how); });
  });
}

}  // namespace lockstep
