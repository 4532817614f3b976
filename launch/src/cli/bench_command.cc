// lockstep bench: collectives and steps measured beside what they replace, and a page of plots.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "collectives_bench.h"
#include "commands.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/quantile.h"
#include "lockstep/core/base/text.h"
#include "lockstep/launch/lifecycle.h"
#include "peer_command.h"
#include "recipe_parts.h"
#include "report_page.h"

namespace lockstep {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kOpenTimeoutS = 300;
constexpr double kPeerTimeoutS = 1800;

struct CollectivesArguments {
  CollectivesBenchOptions options;
  std::string device = "auto";
  bool may_share_gpu = false;
  std::string out;
};

struct StepArguments {
  std::string recipe_path;
  std::vector<std::string> overrides;
  int64_t steps = 50;
  int rounds = 3;
  std::map<std::string, std::string> peers;  ///< command by name
  bool may_share_gpu = false;
  std::string out;
};

/// On rank 0: into the file, or on standard output.
Status tell(World& world, const std::string& text, const std::string& out) {
  Status mine;
  if (world.world_rank() == 0) {
    if (out.empty()) {
      std::fputs(text.c_str(), stdout);
    } else {
      mine = as_output_error(
          write_and_sync_file(posix_file_system(), out, text, OpenMode::kTruncate));
    }
  }
  return world.control_plane().vote("--out", mine, Deadline::after_s(kOpenTimeoutS));
}

Result<ExitCode> collectives(World& world, const CollectivesArguments& arguments) {
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto accelerator,
      open_accelerator(world, {.wanted = arguments.device, .may_share = arguments.may_share_gpu}));
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string text,
                            bench_collectives(world, std::move(accelerator), arguments.options));
  LOCKSTEP_RETURN_IF_ERROR(tell(world, text, arguments.out));
  return ExitCode::kDone;
}

Result<TrainerParts> load_run(World& world, const StepArguments& arguments,
                              const std::string& reduction) {
  std::vector<std::string> overrides = arguments.overrides;
  overrides.push_back(cat("train.reduction=\"", reduction, "\""));
  auto parts = load_parts(arguments.recipe_path, overrides);
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote("recipe and data", parts.status(),
                                                      Deadline::after_s(kOpenTimeoutS)));
  return parts;
}

Result<TrainReport> run_steps(World& world, const StepArguments& arguments,
                              const std::string& reduction) {
  LOCKSTEP_ASSIGN_OR_RETURN(TrainerParts parts, load_run(world, arguments, reduction));
  TrainerOptions options;
  options.stop_after_steps = arguments.steps;
  options.show_progress = false;
  options.may_share_gpu = arguments.may_share_gpu;
  LOCKSTEP_ASSIGN_OR_RETURN(Trainer trainer,
                            Trainer::make(world, std::move(parts), options));
  return trainer.run();
}

/// Rank 0 starts it, the others sleep until it is through. Only rank 0 has the time. A peer whose
/// step has another number of samples than ours is refused: the times would say nothing.
Result<double> run_peer(World& world, const std::string& command, int64_t samples_per_step) {
  Result<PeerStep> peer = PeerStep{};
  const Deadline deadline = Deadline::after_s(kPeerTimeoutS);
  if (world.world_rank() == 0) {
    peer = step_of_peer(command, deadline);
    if (peer.is_ok() && peer.value().samples_per_step != samples_per_step) {
      peer = invalid_argument_error(
          cat("the peer '", command, "' works ", peer.value().samples_per_step,
              " samples a step, and the recipe ", samples_per_step,
              ": make them equal (train.micro_batch_size x train.micro_batches_per_step here, ranks x "
              "--micro-batch for benchmarks/peers/ddp.py)"));
    }
  }
  LOCKSTEP_RETURN_IF_ERROR(world.control_plane().vote("a peer", peer.status(), Deadline::after_s(2 * kPeerTimeoutS)));
  return peer.value().step_ms;
}

Result<ExitCode> step(World& world, const StepArguments& arguments) {
  std::vector<std::string> sides = {"tree", "native"};
  for (const auto& [name, command] : arguments.peers) sides.push_back(name);
  std::map<std::string, std::vector<TrainReport>> reports;
  std::map<std::string, std::vector<double>> step_ms;  // of each round
  LOCKSTEP_ASSIGN_OR_RETURN(const TrainerParts parts, load_run(world, arguments, sides[0]));
  const int64_t samples_per_step = parts.recipe.global_batch();
  for (int round = 0; round < arguments.rounds; ++round) {
    for (size_t turn = 0; turn < sides.size(); ++turn) {
      const std::string& side = sides[(static_cast<size_t>(round) + turn) % sides.size()];
      if (const auto peer = arguments.peers.find(side); peer != arguments.peers.end()) {
        LOCKSTEP_ASSIGN_OR_RETURN(const double ms, run_peer(world, peer->second, samples_per_step));
        step_ms[side].push_back(ms);
        continue;
      }
      LOCKSTEP_ASSIGN_OR_RETURN(TrainReport report, run_steps(world, arguments, side));
      step_ms[side].push_back(report.step_ms_p50);
      reports[side].push_back(std::move(report));
    }
  }
  Json json = {{"benchmark", "step"},
               {"utc", utc_text(wall_clock_ns())},
               {"host", host_name()},
               {"instruction_set", instruction_set()},
               {"recipe", arguments.recipe_path},
               {"overrides", arguments.overrides},
               {"world_size", world.world_size()},
               {"num_hosts", world.num_hosts()},
               {"samples_per_step", samples_per_step},
               {"steps", arguments.steps},
               {"rounds", arguments.rounds}};
  for (const std::string& side : sides) {
    if (arguments.peers.contains(side)) {
      json["sides"][side] = {{"command", arguments.peers.at(side)},
                             {"step_p50_ms", quantile(step_ms[side], 0.5)}};
      continue;
    }
    const auto over_rounds = [&](const auto& figure) {
      std::vector<double> values;
      for (const TrainReport& report : reports[side]) values.push_back(figure(report));
      return quantile(values, 0.5);
    };
    json["sides"][side] = {
        {"step_p50_ms", over_rounds([](const TrainReport& r) { return r.step_ms_p50; })},
        {"step_p95_ms", over_rounds([](const TrainReport& r) { return r.step_ms_p95; })},
        {"samples_per_s", over_rounds([](const TrainReport& r) { return r.samples_per_s; })},
        {"split_ms",
         {{"compute", over_rounds([](const TrainReport& r) { return r.step_split.compute_ms; })},
          {"exposed_communication",
           over_rounds([](const TrainReport& r) { return r.step_split.exposed_ms; })},
          {"update", over_rounds([](const TrainReport& r) { return r.step_split.update_ms; })},
          {"loader", over_rounds([](const TrainReport& r) { return r.step_split.loader_ms; })}}}};
  }
  for (size_t s = 1; s < sides.size(); ++s) {
    std::vector<double> ratios;
    for (size_t i = 0; i < step_ms["tree"].size(); ++i)
      ratios.push_back(step_ms["tree"][i] / step_ms[sides[s]][i]);
    json[cat("time_ratio_tree_to_", sides[s])] = {
        {"median", quantile(ratios, 0.5)}, {"min", quantile(ratios, 0)}, {"max", quantile(ratios, 1)}};
  }
  LOCKSTEP_RETURN_IF_ERROR(tell(world, json.dump(2) + "\n", arguments.out));
  return ExitCode::kDone;
}

void add_collectives(CLI::App* bench, const CommandLine& line) {
  auto arguments = std::make_shared<CollectivesArguments>();
  CollectivesBenchOptions& options = arguments->options;
  CLI::App* command = bench->add_subcommand(
      "collectives", "The tree's all-reduce and the backend's own, in turns, under mpirun");
  command->add_option("--sizes-kib", options.sizes_kib)
      ->capture_default_str()
      ->check(CLI::Range(1, 64 << 20));
  command->add_option("--rounds", options.rounds)->capture_default_str()->check(CLI::Range(1, 100000));
  command->add_option("--repeats", options.repeats, "Of an all-reduce in a round (0: by size)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--bucket-kib", options.bucket_kib, "Cut sizes into buckets (0: one)")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--variants", options.has_variants,
                    "Also the tree over bf16 leaves and, where a host has more than two ranks, by halving alone");
  command->add_option("--chunk-bytes", options.transfers.chunk_bytes,
                      "Of one message (0: as training does here)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--chunks-in-flight", options.transfers.chunks_in_flight)
      ->check(CLI::PositiveNumber);
  command->add_option("--direct-ranks", options.transfers.direct_ranks,
                      "With --chunk-bytes: neighbours that exchange all at once, a power of two")
      ->check(CLI::PositiveNumber);
  command->add_option("--gather-chunk-bytes", options.transfers.gather_chunk_bytes)
      ->check(CLI::NonNegativeNumber);
  command->add_option("--device", arguments->device, "auto, cpu or cuda")->capture_default_str();
  command->add_flag("--share-gpu", arguments->may_share_gpu);
  command->add_option("--out", arguments->out, "Write the JSON here");
  command->callback([arguments, line] {
    *line.exit_code = run_ranks(line.argc, line.argv,
                                [&](World& world) { return collectives(world, *arguments); });
  });
}

void add_step(CLI::App* bench, const CommandLine& line) {
  auto arguments = std::make_shared<StepArguments>();
  CLI::App* command = bench->add_subcommand(
      "step", "A recipe's step with the tree, with the backend's own sum and at peers, in turns");
  command->add_option("recipe", arguments->recipe_path, "The recipe, a TOML file")->required();
  command->add_option("--set", arguments->overrides, "Override a key: table.key=value (repeatable)")
      ->allow_extra_args(false);
  command->add_option("--steps", arguments->steps, "Of each side in a round; the first is left out")
      ->capture_default_str()
      ->check(CLI::Range(2, 1'000'000));
  command->add_option("--rounds", arguments->rounds)->capture_default_str()->check(CLI::Range(1, 1000));
  command
      ->add_option_function<std::vector<std::string>>(
          "--peer",
          [arguments](const std::vector<std::string>& peers) {
            for (const std::string& peer : peers) {
              const size_t equals = peer.find('=');
              const std::string name = peer.substr(0, equals);
              if (equals == std::string::npos || name.empty() || name == "tree" || name == "native")
                throw CLI::ValidationError("--peer", cat("NAME=COMMAND, not '", peer, "'"));
              arguments->peers[name] = peer.substr(equals + 1);
            }
          },
          "NAME=COMMAND (repeatable): run by rank 0 in turns with the rest; its last line of JSON has step_ms and samples_per_step")
      ->allow_extra_args(false);
  command->add_flag("--share-gpu", arguments->may_share_gpu);
  command->add_option("--out", arguments->out, "Write the JSON here");
  command->callback([arguments, line] {
    *line.exit_code =
        run_ranks(line.argc, line.argv, [&](World& world) { return step(world, *arguments); });
  });
}

void add_report(CLI::App* bench, const CommandLine& line) {
  auto folder = std::make_shared<std::string>();
  CLI::App* command =
      bench->add_subcommand("report", "Draw the JSON files of a folder as one page, index.html");
  command->add_option("folder", *folder)->required();
  command->callback([folder, line] {
    const auto page = write_report_page(*folder);
    if (page.is_ok()) {
      std::printf("%s\n", page->c_str());
    } else {
      std::fprintf(stderr, "lockstep bench report: %s\n", page.status().to_string().c_str());
    }
    *line.exit_code = static_cast<int>(exit_code_for(page.status()));
  });
}

}  // namespace

void add_bench_command(CLI::App& app, const CommandLine& line) {
  CLI::App* bench = app.add_subcommand("bench", "Measure collectives and steps, and draw what came");
  bench->require_subcommand(1);
  add_collectives(bench, line);
  add_step(bench, line);
  add_report(bench, line);
}

}  // namespace lockstep
