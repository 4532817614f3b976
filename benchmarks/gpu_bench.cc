// What a GPU's flat kernels and a checkpoint's staging reach, against plain copies of the same bytes
// in the same round. Prints JSON. Needs a GPU:  build/release/bin/gpu_bench --dir /dev/shm/bench

#include <torch/nn/module.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/layout.h"
#include "lockstep/core/model/mlp.h"
#include "lockstep/distributed/accelerator.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "spread.h"

namespace lockstep {
namespace {

constexpr int kCallsPerTurn = 20;

void require(const Status& status) {
  if (!status.is_ok()) throw std::runtime_error(status.to_string());
}

class Bench {
 public:
  Bench(World& world, std::shared_ptr<Accelerator> gpu, std::string dir, int rounds)
      : world_(world), gpu_(std::move(gpu)), dir_(std::move(dir)), rounds_(rounds) {}

  nlohmann::json kernels(int64_t mib) {
    const auto num_bytes = static_cast<size_t>(mib) << 20;
    const auto n = static_cast<int64_t>(num_bytes / sizeof(float));
    std::vector<DeviceMemory> arrays;
    for (int i = 0; i < 4; ++i) arrays.push_back(gpu_->allocate(num_bytes));
    const DeviceMemory sums =
        gpu_->allocate(static_cast<size_t>((n + kBlockElems - 1) / kBlockElems) * sizeof(double));
    DeviceQueue& queue = gpu_->compute();
    // Each with the bytes that it reads and writes.
    const std::map<std::string, std::pair<double, std::function<void()>>> calls = {
        {"copy", {2, [&] { queue.copy(arrays[0].data(), arrays[1].data(), num_bytes); }}},
        {"add", {3, [&] { queue.add_into(Dtype::kF32, arrays[0].data(), arrays[1].data(), n); }}},
        {"block_sums", {1, [&] { queue.block_sums_of_squares(
                                    Dtype::kF32, arrays[0].data(), n,
                                    reinterpret_cast<double*>(sums.data())); }}},
        {"block_hashes", {1, [&] { queue.block_hashes(
                                      arrays[0].data(), static_cast<int64_t>(num_bytes),
                                      kBlockElems * static_cast<int64_t>(sizeof(float)),
                                      reinterpret_cast<uint64_t*>(sums.data())); }}},
        {"adamw", {7, [&] { queue.update_adamw(Dtype::kF32,
                                               {arrays[0].data(), arrays[1].data(),
                                                arrays[2].data(), arrays[3].data(), n},
                                               {1, 1, 0.1, 0.999, 1e-3, 1, 1e-8, 1e-3}); }}},
    };
    std::map<std::string, std::vector<double>> gb_per_s;
    for (int round = 0; round <= rounds_; ++round) {
      for (const auto& [name, call] : calls) {
        const QueueMark begin = queue.mark();
        for (int i = 0; i < kCallsPerTurn; ++i) call.second();
        const QueueMark end = queue.mark();
        require(queue.settle(name, Deadline::after_s(60)));
        if (round == 0) continue;  // warms up
        gb_per_s[name].push_back(call.first * static_cast<double>(num_bytes) * kCallsPerTurn /
                                 queue.ms_between(begin, end) * 1e-6);
      }
    }
    nlohmann::json report = {{"mib", mib}};
    for (const auto& [name, rates] : gb_per_s) {
      report["gb_per_s"][name] = spread(rates);
      std::vector<double> ratios;
      for (size_t i = 0; i < rates.size(); ++i) ratios.push_back(rates[i] / gb_per_s["copy"][i]);
      if (name != "copy") report["over_copy"][name] = spread(ratios);
    }
    return report;
  }

  /// The state of an MLP and its AdamW, staged by a save behind training, against one copy of as
  /// many bytes into pinned memory.
  nlohmann::json staging() {
    MlpOptions mlp;
    mlp.hidden = {6144, 4096};
    const auto model = make_mlp(mlp, SampleSpec{{2048}, 10}).value();
    move_to(std::string(gpu_->name()), model->module());
    DataParallelOptions options;
    options.accelerator = gpu_;
    DataParallel parallel = DataParallel::make(world_, model->module(), options).value();
    ShardedOptimizer adamw = ShardedOptimizer::make(parallel, {}).value();
    const StateSchema schema = state_schema(parallel, adamw);
    const OwnedState owned = owned_state(parallel, adamw);
    size_t num_bytes = 0;
    for (const StateSlice& slice : owned.slices) num_bytes += slice.bytes.size();

    CheckpointerOptions checkpoint;
    checkpoint.fs = &posix_file_system();
    checkpoint.plane = &world_.control_plane();
    checkpoint.run_dir = dir_;
    Checkpointer checkpointer = Checkpointer::open(checkpoint).value();
    SaveRequest request;
    request.schema = &schema;
    request.owned = &owned;
    std::vector<std::byte> pinned(num_bytes);
    gpu_->pin(pinned);
    const DeviceMemory there = gpu_->allocate(num_bytes);
    std::vector<double> ratios, stage_ms;
    for (int round = 0; round <= rounds_; ++round) {
      const Stopwatch watch;
      gpu_->staging().copy(pinned.data(), there.data(), num_bytes);
      require(gpu_->staging().settle("a copy", Deadline::after_s(60)));
      const double copy_ms = watch.elapsed_ms();
      request.step = round + 1;
      checkpointer.start_save(request);
      const SaveReport report = checkpointer.finish_save().value();
      if (round == 0) continue;  // buffers are made and pinned
      stage_ms.push_back(report.stage_ms);
      ratios.push_back(copy_ms / report.stage_ms);
    }
    gpu_->unpin(pinned);
    require(checkpointer.close());
    return {{"bytes", num_bytes}, {"stage_ms", spread(stage_ms)}, {"rate_over_pinned_copy", spread(ratios)}};
  }

 private:
  World& world_;
  std::shared_ptr<Accelerator> gpu_;
  std::string dir_;
  int rounds_;
};

void run(const std::string& dir, int rounds) {
  World world = World::solo({});
  const auto gpu = open_accelerator(world, {.wanted = "cuda"}).value();
  Bench bench(world, gpu, dir, rounds);
  const nlohmann::ordered_json report = {{"benchmark", "flat kernels and staging of a GPU over plain copies"},
                                         {"utc", utc_text(wall_clock_ns())},
                                         {"facts", gpu->facts()},
                                         {"rounds", rounds},
                                         {"kernels", {bench.kernels(16), bench.kernels(256)}},
                                         {"staging", bench.staging()}};
  std::printf("%s\n", report.dump(2).c_str());
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  std::string dir;
  int rounds = 10;
  CLI::App app("Flat kernels and staging of a GPU over plain copies");
  app.add_option("--dir", dir, "a new folder for checkpoints")->required();
  app.add_option("--rounds", rounds)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    lockstep::run(dir, rounds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 70;
  }
}
