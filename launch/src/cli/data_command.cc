#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "lockstep/core/base/exit_code.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/tabular.h"

namespace lockstep {

namespace {

// A value takes some 9 bytes, and a table of more than 1 GiB would not be read back.
constexpr int64_t kMaxValues = 100'000'000;

Status make_tabular(int64_t num_rows, int64_t num_features, uint64_t seed, const std::string& out) {
  if (num_rows > kMaxValues / (num_features + 1)) {
    return invalid_argument_error(cat(num_rows, " rows of ", num_features,
                                      " features and a label are more than the ", kMaxValues,
                                      " values that a table may have: take fewer rows"));
  }
  return write_and_sync_file(posix_file_system(), out,
                             make_tabular_csv(num_rows, num_features, seed), OpenMode::kTruncate);
}

}  // namespace

void add_data_command(CLI::App& app, const CommandLine& line) {
  struct Arguments {
    int64_t rows = 1000;
    int64_t features = 10;
    uint64_t seed = 1;
    std::string out;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* data = app.add_subcommand("data", "Make data");
  data->require_subcommand(1);
  CLI::App* command =
      data->add_subcommand("make-tabular", "Write a made-up table with a 0/1 label as CSV");
  command->add_option("--rows", arguments->rows)
      ->capture_default_str()
      ->check(CLI::Range(1, 100'000'000));
  command->add_option("--features", arguments->features)
      ->capture_default_str()
      ->check(CLI::Range(2, 100'000));
  command->add_option("--seed", arguments->seed)->capture_default_str();
  command->add_option("out", arguments->out, "The file to write")->required();
  command->callback([arguments, line] {
    Status status =
        make_tabular(arguments->rows, arguments->features, arguments->seed, arguments->out);
    status = as_output_error(status);
    if (!status.is_ok())
      std::fprintf(stderr, "lockstep data make-tabular: %s\n", status.to_string().c_str());
    *line.exit_code = static_cast<int>(exit_code_for(status));
  });
}

}  // namespace lockstep
