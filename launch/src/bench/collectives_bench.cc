#include "collectives_bench.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/quantile.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/bucketer.h"

namespace lockstep {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kTimeoutS = 120;
constexpr int kWarmUps = 2;

Deadline soon() {
  return Deadline::after_s(kTimeoutS);
}

/// One of the ways, over memory of its own.
struct Side {
  const char* name = "";
  std::unique_ptr<TreeReducer> reducer;  // null: the backend's own sum
  DeviceMemory memory;
  std::function<Status(void* values)> all_reduce;
  std::vector<double> seconds;  // of each round
};

class Bench {
 public:
  Bench(World& world, Device& device, Communicator& data, const CollectivesBenchOptions& options)
      : world_(world), device_(device), data_(data), options_(options) {
    if (options_.transfers.chunk_bytes > 0) return;
    options_.transfers = TreeReducerOptions::between(world, device);
  }

  Result<Json> run_size(int64_t size_kib) {
    FlatSpace space;
    space.name = "bench";
    space.num_elems = size_kib * 1024 / 4;
    const int64_t bucket_kib = options_.bucket_kib > 0 ? options_.bucket_kib : size_kib;
    const ShardPlan plan =
        ShardPlan::plan(plan_buckets(space.num_blocks(), blocks_per_bucket(bucket_kib * 1024, 4)),
                        world_.world_size());
    std::vector<Side> sides;
    const auto add_tree = [&](const char* name, const TreeReducerOptions& transfers) {
      Side& side = sides.emplace_back();
      side.name = name;
      side.reducer = std::make_unique<TreeReducer>(data_, space, plan, world_.world_size(),
                                                   transfers, device_);
      side.all_reduce = [reducer = side.reducer.get()](void* values) -> Status {
        for (int b = 0; b < reducer->plan().num_buckets(); ++b) {
          LOCKSTEP_RETURN_IF_ERROR(reducer->reduce_bucket(b, std::span(&values, 1), soon()));
          LOCKSTEP_RETURN_IF_ERROR(reducer->all_gather_bucket(b, values, soon()));
        }
        return Status::ok();
      };
    };
    add_tree("tree", options_.transfers);
    sides.emplace_back().name = "native";
    sides.back().all_reduce = [&](void* values) {
      return data_.native_all_reduce_sum(static_cast<float*>(values), space.num_elems, soon());
    };
    if (options_.has_variants) {
      TreeReducerOptions halving = options_.transfers, bf16 = options_.transfers;
      halving.direct_ranks = 2;
      bf16.leaves_are_bf16 = true;
      if (options_.transfers.direct_ranks > 2 && is_power_of_two(world_.world_size()))
        add_tree("halving", halving);
      add_tree("bf16", bf16);
    }
    const auto num_bytes = static_cast<size_t>(space.num_bytes());
    for (Side& side : sides) {
      side.memory = device_.allocate(num_bytes);
      LOCKSTEP_RETURN_IF_ERROR(check_sum(side, space.num_elems));
    }
    const int repeats =
        options_.repeats > 0
            ? options_.repeats
            : static_cast<int>(std::clamp<int64_t>(32 * 1024 / size_kib, 1, 200));
    for (int round = 0; round < options_.rounds + kWarmUps; ++round) {
      for (size_t turn = 0; turn < sides.size(); ++turn) {
        Side& side = sides[(static_cast<size_t>(round) + turn) % sides.size()];
        LOCKSTEP_ASSIGN_OR_RETURN(const double seconds, time(side, repeats));
        if (round >= kWarmUps) side.seconds.push_back(seconds);
      }
    }
    return report(size_kib, static_cast<double>(num_bytes), repeats, sides);
  }

 private:
  /// Both must give the sum over ranks before their times mean anything; afterwards zeros, which
  /// stay zeros however often they are added.
  Status check_sum(Side& side, int64_t num_elems) {
    const int size = world_.world_size();
    std::vector<float> values(static_cast<size_t>(num_elems),
                              static_cast<float>(world_.world_rank() + 1));
    const size_t num_bytes = values.size() * sizeof(float);
    DeviceQueue& queue = device_.communication();
    queue.copy(side.memory.data(), values.data(), num_bytes);
    LOCKSTEP_RETURN_IF_ERROR(side.all_reduce(side.memory.data()));
    queue.copy(values.data(), side.memory.data(), num_bytes);
    queue.fill_zero(side.memory.data(), num_bytes);
    LOCKSTEP_RETURN_IF_ERROR(data_.settle("the sum", soon()));
    LOCKSTEP_RETURN_IF_ERROR(queue.settle("the sum", soon()));
    const auto expected = static_cast<float>(size * (size + 1) / 2);
    const auto wrong = std::find_if(values.begin(), values.end(),
                                    [&](float value) { return value != expected; });
    if (wrong == values.end()) return Status::ok();
    return internal_error(
        cat(side.name, ": element ", wrong - values.begin(), " is ", *wrong, ", expected ", expected));
  }

  Result<double> time(Side& side, int repeats) {
    LOCKSTEP_RETURN_IF_ERROR(data_.barrier("start of a measurement", soon()));
    const Stopwatch watch;
    for (int i = 0; i < repeats; ++i)
      LOCKSTEP_RETURN_IF_ERROR(side.all_reduce(side.memory.data()));
    LOCKSTEP_RETURN_IF_ERROR(data_.settle("a measurement", soon()));
    double mine = watch.elapsed_s() / repeats;
    std::vector<double> all(static_cast<size_t>(world_.world_size()));
    LOCKSTEP_RETURN_IF_ERROR(world_.communicator().all_gather(
        std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)), "times",
        soon()));
    return *std::max_element(all.begin(), all.end());
  }

  Json report(int64_t size_kib, double num_bytes, int repeats,
              const std::vector<Side>& sides) const {
    const double n = world_.world_size();
    Json json = {{"size_kib", size_kib}, {"repeats_per_round", repeats}};
    for (const Side& side : sides) {
      const double p50 = quantile(side.seconds, 0.5);
      json["sides"][side.name] = {{"p50_ms", p50 * 1e3},
                                  {"p95_ms", quantile(side.seconds, 0.95) * 1e3},
                                  {"best_ms", quantile(side.seconds, 0) * 1e3},
                                  {"alg_gb_per_s", num_bytes / p50 * 1e-9},
                                  {"bus_gb_per_s", num_bytes / p50 * 2 * (n - 1) / n * 1e-9}};
    }
    for (size_t s = 1; s < sides.size(); ++s) {
      std::vector<double> ratios;
      for (size_t i = 0; i < sides[0].seconds.size(); ++i)
        ratios.push_back(sides[0].seconds[i] / sides[s].seconds[i]);
      json[cat("time_ratio_tree_to_", sides[s].name)] = {{"median", quantile(ratios, 0.5)},
                                                         {"p10", quantile(ratios, 0.1)},
                                                         {"p90", quantile(ratios, 0.9)}};
    }
    return json;
  }

  World& world_;
  Device& device_;
  Communicator& data_;
  CollectivesBenchOptions options_;
};

}  // namespace

Result<std::string> bench_collectives(World& world, std::shared_ptr<Accelerator> accelerator,
                                      const CollectivesBenchOptions& options) {
  if (world.world_size() < 2) {
    return invalid_argument_error(
        "collectives are between ranks, and this is one alone: start it with mpirun -n N");
  }
  std::unique_ptr<Communicator> connected;
  if (accelerator != nullptr) {
    LOCKSTEP_ASSIGN_OR_RETURN(connected, accelerator->connect(world, soon()));
  }
  Device& device = accelerator != nullptr ? static_cast<Device&>(*accelerator) : host_device();
  Communicator& data = connected != nullptr ? *connected : world.communicator();
  Bench bench(world, device, data, options);
  Json json = {{"benchmark", "collectives"},
               {"utc", utc_text(wall_clock_ns())},
               {"host", host_name()},
               {"instruction_set", instruction_set()},
               {"device", device.name()},
               {"facts", device.facts()},
               {"world_size", world.world_size()},
               {"num_hosts", world.num_hosts()},
               {"ranks_per_host", world.ranks_per_host()},
               {"backend", data.backend()},
               {"rounds", options.rounds},
               {"bucket_kib", options.bucket_kib},
               {"results", Json::array()}};
  for (int64_t size_kib : options.sizes_kib) {
    LOCKSTEP_ASSIGN_OR_RETURN(Json of_size, bench.run_size(size_kib));
    json["results"].push_back(std::move(of_size));
  }
  return json.dump(2) + "\n";
}

}  // namespace lockstep
