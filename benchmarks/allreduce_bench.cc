// Times the tree (reduce and all-gather of one bucket) against the backend's own all-reduce
// (MPI_Allreduce), in alternating rounds of one run; the figure is the ratio of times within a
// round. Run under mpirun:
//   mpirun -n 2 build/release/bin/allreduce_bench >FILE.json
// A time is that of the slowest rank, from a common barrier on. See benchmarks/README.md for how
// figures are derived.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/tree_reducer.h"
#include "lockstep/distributed/world.h"

namespace lockstep {
namespace {

struct BenchOptions {
  std::vector<int64_t> sizes_kib = {64, 1024, 16 * 1024, 64 * 1024};
  int num_rounds = 30;
  int num_repeats = 0;     // in a round; 0: by size
  int64_t bucket_kib = 0;  // 0: the whole size is one bucket
  TreeReducerOptions reducer;
};

Deadline soon() {
  return Deadline::after_s(120);
}

void require(const Status& status) {
  LOCKSTEP_CHECK(status.is_ok(), status.to_string());
}

/// Seconds of `body`, repeated, on the slowest rank, divided by the repetitions.
template <typename Body>
double time_s(Communicator& communicator, int num_repeats, const Body& body) {
  require(communicator.barrier("start of a measurement", soon()));
  Stopwatch watch;
  for (int i = 0; i < num_repeats; ++i) body();
  double mine = watch.elapsed_s() / num_repeats;
  std::vector<double> all(static_cast<size_t>(communicator.world_size()));
  require(communicator.all_gather(std::as_bytes(std::span(&mine, 1)),
                                  std::as_writable_bytes(std::span(all)), "times", soon()));
  return *std::max_element(all.begin(), all.end());
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

/// {median, p10, p90, best} of `values` times `scale`; the best is what is left of a busy machine's
/// time.
nlohmann::json summary(const std::vector<double>& values, double scale) {
  return {{"median", quantile(values, 0.5) * scale},
          {"p10", quantile(values, 0.1) * scale},
          {"p90", quantile(values, 0.9) * scale},
          {"best", quantile(values, 0) * scale}};
}

/// Both ways must give the sum over ranks before their times mean anything.
void check_sum(const std::vector<float>& values, int world_size, const char* way) {
  auto expected = static_cast<float>(world_size * (world_size + 1) / 2);
  for (float value : values) LOCKSTEP_CHECK(value == expected, way, " gave ", value);
}

nlohmann::json run_size(World& world, int64_t size_kib, const BenchOptions& options) {
  Communicator& communicator = world.communicator();
  FlatSpace space;
  space.name = "bench";
  space.num_elems = size_kib * 1024 / 4;
  int64_t bucket_kib = options.bucket_kib > 0 ? options.bucket_kib : size_kib;
  ShardPlan plan =
      ShardPlan::plan(plan_buckets(space.num_blocks(), blocks_per_bucket(bucket_kib * 1024, 4)),
                      world.world_size());
  TreeReducer reducer(communicator, space, plan, world.world_size(), options.reducer);
  auto one = static_cast<float>(world.world_rank() + 1);
  std::vector<float> tree_values(static_cast<size_t>(space.num_elems), one);
  std::vector<float> native_values(tree_values);
  auto tree = [&] {
    float* root = tree_values.data();
    for (int b = 0; b < plan.num_buckets(); ++b) {
      require(reducer.reduce_bucket(b, std::span<float* const>(&root, 1), soon()));
      require(reducer.all_gather_bucket(b, root, soon()));
    }
  };
  auto native = [&] {
    require(communicator.native_all_reduce_sum(native_values.data(), space.num_elems, soon()));
  };
  tree();
  native();
  check_sum(tree_values, world.world_size(), "the tree");
  check_sum(native_values, world.world_size(), "the native all-reduce");
  // Zeros stay zeros however often they are added.
  std::fill(tree_values.begin(), tree_values.end(), 0.0F);
  std::fill(native_values.begin(), native_values.end(), 0.0F);

  int num_repeats = options.num_repeats > 0
                        ? options.num_repeats
                        : static_cast<int>(std::clamp<int64_t>(32 * 1024 / size_kib, 1, 200));
  std::vector<double> tree_s;
  std::vector<double> native_s;
  std::vector<double> ratios;
  for (int round = 0; round < options.num_rounds; ++round) {
    bool tree_first = round % 2 == 0;
    if (tree_first) tree_s.push_back(time_s(communicator, num_repeats, tree));
    native_s.push_back(time_s(communicator, num_repeats, native));
    if (!tree_first) tree_s.push_back(time_s(communicator, num_repeats, tree));
    ratios.push_back(tree_s.back() / native_s.back());
  }
  return {{"size_kib", size_kib},
          {"repeats_per_round", num_repeats},
          {"tree_ms", summary(tree_s, 1e3)},
          {"native_ms", summary(native_s, 1e3)},
          {"time_ratio_tree_to_native", summary(ratios, 1)},
          {"ratio_of_best_times", quantile(tree_s, 0) / quantile(native_s, 0)}};
}

int run(World& world, const BenchOptions& options, const std::string& command) {
  nlohmann::json report = {{"benchmark", "allreduce"},
                           {"utc", utc_text(wall_clock_ns())},
                           {"host", host_name()},
                           {"instruction_set", instruction_set()},
                           {"command", command},
                           {"world_size", world.world_size()},
                           {"backend", world.communicator().backend()},
                           {"rounds", options.num_rounds},
                           {"bucket_kib", options.bucket_kib},
                           {"chunk_bytes", options.reducer.chunk_bytes},
                           {"chunks_in_flight", options.reducer.chunks_in_flight}};
  for (int64_t size_kib : options.sizes_kib) {
    nlohmann::json result = run_size(world, size_kib, options);
    if (world.world_rank() == 0) {
      const auto& ratio = result["time_ratio_tree_to_native"];
      std::fprintf(
          stderr,
          "%7lld KiB  tree %9.4f ms  native %9.4f ms  ratio %.3f [%.3f, %.3f]  best %.4f / %.4f = "
          "%.3f\n",
          static_cast<long long>(size_kib), result["tree_ms"]["median"].get<double>(),
          result["native_ms"]["median"].get<double>(), ratio["median"].get<double>(),
          ratio["p10"].get<double>(), ratio["p90"].get<double>(),
          result["tree_ms"]["best"].get<double>(), result["native_ms"]["best"].get<double>(),
          result["ratio_of_best_times"].get<double>());
    }
    report["results"].push_back(std::move(result));
  }
  if (world.world_rank() == 0) std::printf("%s\n", report.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::BenchOptions options;
  CLI::App app{"Times the reduction tree against the backend's own all-reduce"};
  app.add_option("--sizes-kib", options.sizes_kib, "sizes in KiB");
  app.add_option("--rounds", options.num_rounds, "rounds a size");
  app.add_option("--repeats", options.num_repeats, "repetitions in a round (0: by size)");
  app.add_option("--bucket-kib", options.bucket_kib, "bucket size (0: one bucket)");
  app.add_option("--chunk-bytes", options.reducer.chunk_bytes, "bytes of one message");
  app.add_option("--chunks-in-flight", options.reducer.chunks_in_flight, "messages under way");
  CLI11_PARSE(app, argc, argv);
  std::string command = "mpirun -n N";
  for (int i = 0; i < argc; ++i) command += std::string(" ") + argv[i];
  auto world = lockstep::World::join(argc, argv);
  if (!world.is_ok()) {
    std::fprintf(stderr, "%s\n", world.status().to_string().c_str());
    return 70;
  }
  int result = lockstep::run(*world, options, command);
  return world->shutdown().is_ok() ? result : 70;
}
