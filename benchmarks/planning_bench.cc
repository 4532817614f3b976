// How long the planning of a checkpoint takes at a size that no test machine has: 4,096 ranks and
// 10,000 tensors, all in one process. Nothing is written.
//   build/release/bin/planning_bench >FILE.json
// plan: layout, buckets, what each rank owns, that all of it is owned once. manifest: its text,
// which lists every shard. parse: that text read back with all its checks. See
// benchmarks/README.md.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lockstep/checkpoint/manifest.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/shard_plan.h"

namespace lockstep {
namespace {

struct BenchOptions {
  int world_size = 4096;
  int64_t num_tensors = 10000;
  int64_t num_buckets = 40;
};

void require(const Status& status) {
  LOCKSTEP_CHECK(status.is_ok(), status.to_string());
}

/// Matrices of 1,024 by 512 to 8,192 elements: 13.6 blocks a rank and bucket in the default size.
std::vector<TensorSpec> specs(int64_t num_tensors) {
  std::vector<TensorSpec> tensors;
  for (int64_t i = 0; i < num_tensors; ++i) {
    tensors.push_back({cat("layers.", i, ".weight"),
                       {},
                       Dtype::kF32,
                       {1024, 512 * (1 + i % 16)},
                       {0, 1},
                       SpaceRole::kTrainable});
  }
  return tensors;
}

std::vector<ShardEntry> shards_of(const StateSchema& schema, const BenchOptions& options) {
  const FlatSpace& space = schema.layout.spaces().front();
  const int64_t blocks = (space.num_blocks() + options.num_buckets - 1) / options.num_buckets;
  const ShardPlan plan =
      ShardPlan::plan(plan_buckets(space.num_blocks(), blocks), options.world_size);
  std::vector<ShardEntry> shards;
  for (int rank = 0; rank < options.world_size; ++rank) {
    ShardEntry entry;
    entry.file = shard_file({rank, options.world_size});
    for (const StateKind& kind : schema.kinds) entry.runs.push_back({kind, plan.owned(rank)});
    const auto layout = plan_shard(schema, entry.runs);
    require(layout.status());
    entry.bytes = layout->data_bytes() + 4096 * (1 + layout->extents.size() / 32);
    shards.push_back(std::move(entry));
  }
  return shards;
}

int64_t peak_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

nlohmann::json run(const BenchOptions& options) {
  const int64_t bytes_before = peak_bytes();
  Stopwatch watch;
  Manifest manifest;
  auto layout = FlatLayout::plan(specs(options.num_tensors));
  require(layout.status());
  manifest.schema.layout = std::move(*layout);
  const std::string space = manifest.schema.layout.spaces().front().name;
  for (const char* kind : {"param", "adamw.exp_avg", "adamw.exp_avg_sq"}) {
    manifest.schema.kinds.push_back({space, kind});
  }
  manifest.generation = manifest.step = 1;
  manifest.world_size = options.world_size;
  manifest.recipe_hash = std::string(32, '0');
  manifest.utc_time = utc_text(wall_clock_ns());
  manifest.shards = shards_of(manifest.schema, options);
  require(check_coverage(manifest.schema, manifest.shards));
  const double plan_s = watch.elapsed_s();
  watch = Stopwatch();
  const std::string text = manifest_text(manifest);
  const double text_s = watch.elapsed_s();
  watch = Stopwatch();
  const auto parsed = parse_manifest(text, "manifest.json");
  const double parse_s = watch.elapsed_s();
  require(parsed.status());
  LOCKSTEP_CHECK(parsed->shards.size() == manifest.shards.size(), "shards were lost");
  return {{"benchmark", "planning"},
          {"world_size", options.world_size},
          {"num_tensors", options.num_tensors},
          {"num_blocks", manifest.schema.layout.spaces().front().num_blocks()},
          {"runs_per_shard_and_kind", manifest.shards.front().runs.front().runs.size()},
          {"manifest_bytes", text.size()},
          {"plan_s", plan_s},
          {"manifest_s", text_s},
          {"parse_s", parse_s},
          {"peak_memory_bytes", peak_bytes() - bytes_before}};
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::BenchOptions options;
  CLI::App app{"Plans a checkpoint of many ranks and tensors in one process"};
  app.add_option("--ranks", options.world_size, "ranks");
  app.add_option("--tensors", options.num_tensors, "tensors");
  app.add_option("--buckets", options.num_buckets, "buckets of the flat space");
  CLI11_PARSE(app, argc, argv);
  std::printf("%s\n", lockstep::run(options).dump(2).c_str());
  return 0;
}
