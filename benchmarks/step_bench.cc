// What the engine costs: the same network, micro-batches and optimizer, once through DataParallel +
// ShardedOptimizer at one rank and once as a plain LibTorch loop with its fused AdamW, in turns
// inside one process. Prints JSON. Pin it to one core: taskset -c 0 build/release/bin/step_bench; or
// give it a GPU: build/release/bin/step_bench --device cuda

#include <ATen/ops/_fused_adamw.h>
#include <torch/nn/module.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "lockstep/core/base/quantile.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/model/convnet.h"
#include "lockstep/core/model/tensor_memory.h"
#include "lockstep/distributed/sharded_optimizer.h"

namespace lockstep {
namespace {

constexpr int kStepsPerTurn = 5;

struct Net {
  std::unique_ptr<TrainableModel> model;
  std::vector<Batch> batches;
};

Net make_net(int64_t micro_batch, int64_t num_micro_batches, const std::string& device) {
  torch::manual_seed(1);
  Net net;
  net.model = make_convnet({}, SampleSpec{{1, 28, 28}, 10}).value();
  set_weight_format(net.model->module(), at::MemoryFormat::ChannelsLast);
  move_to(device, net.model->module());
  for (int64_t i = 0; i < num_micro_batches; ++i) {
    Batch batch;
    batch.inputs =
        to_memory_format(torch::randn({micro_batch, 1, 28, 28}), at::MemoryFormat::ChannelsLast)
            .to(device);
    batch.targets = torch::randint(10, {micro_batch}, torch::kLong).to(device);
    batch.num_samples = micro_batch;
    net.batches.push_back(std::move(batch));
  }
  return net;
}

class PlainLoop {
 public:
  explicit PlainLoop(Net net) : net_(std::move(net)) {
    for (auto& parameter : net_.model->module().parameters()) {
      parameters_.push_back(parameter);
      averages_.push_back(torch::zeros_like(parameter));
      squares_.push_back(torch::zeros_like(parameter));
      steps_.push_back(torch::zeros({}, parameter.options()));
    }
  }
  void step() {
    for (auto& parameter : parameters_) parameter.mutable_grad().reset();
    double scale = 1.0 / static_cast<double>(net_.batches.size());
    for (const Batch& batch : net_.batches) {
      torch::Tensor loss = net_.model->loss(batch) * scale;
      losses_.push_back(loss.detach());
      loss.backward();
    }
    // As the engine does: the step's losses are read once, behind all of its work.
    total_loss_ += torch::stack(losses_).sum().item<double>();
    losses_.clear();
    std::vector<torch::Tensor> gradients;
    for (auto& parameter : parameters_) gradients.push_back(parameter.grad());
    torch::NoGradGuard no_grad;
    at::_foreach_add_(steps_, 1);
    at::_fused_adamw_(parameters_, gradients, averages_, squares_, {}, steps_, 1e-3, 0.9, 0.999,
                      0.01, 1e-8, false, false);
  }

 private:
  Net net_;
  std::vector<torch::Tensor> parameters_, averages_, squares_, steps_, losses_;
  double total_loss_ = 0;
};

class EngineLoop {
 public:
  EngineLoop(World& world, std::shared_ptr<Accelerator> accelerator, Net net)
      : net_(std::move(net)) {
    DataParallelOptions options;
    options.accelerator = std::move(accelerator);
    options.micro_batches_per_step = static_cast<int64_t>(net_.batches.size());
    parallel_ = std::make_unique<DataParallel>(
        DataParallel::make(world, net_.model->module(), options).value());
    optimizer_ = std::make_unique<ShardedOptimizer>(ShardedOptimizer::make(*parallel_, {}).value());
  }
  void step() {
    for (MicroBatch mb : parallel_->micro_batches(step_)) {
      const Batch& batch = net_.batches[static_cast<size_t>(mb.index)];
      parallel_->backward(mb, net_.model->loss(batch), static_cast<double>(batch.num_samples));
    }
    optimizer_->step(parallel_->reduce(step_++).value()).value();
  }

 private:
  Net net_;
  std::unique_ptr<DataParallel> parallel_;
  std::unique_ptr<ShardedOptimizer> optimizer_;
  int64_t step_ = 0;
};

template <typename Loop>
double turn_ms(Loop& loop) {
  Stopwatch watch;
  for (int i = 0; i < kStepsPerTurn; ++i) loop.step();
  return watch.elapsed_ms() / kStepsPerTurn;
}

void run(int64_t micro_batch, int64_t num_micro_batches, int rounds, const std::string& wanted) {
  keep_tensor_memory();
  World world = World::solo({});
  const auto accelerator = open_accelerator(world, {.wanted = wanted}).value();
  const std::string device(accelerator != nullptr ? accelerator->name() : "cpu");
  EngineLoop engine(world, accelerator, make_net(micro_batch, num_micro_batches, device));
  PlainLoop plain(make_net(micro_batch, num_micro_batches, device));
  turn_ms(engine);
  turn_ms(plain);
  std::vector<double> engine_ms, plain_ms, ratios;
  for (int i = 0; i < rounds; ++i) {
    engine_ms.push_back(turn_ms(engine));
    plain_ms.push_back(turn_ms(plain));
    ratios.push_back(engine_ms.back() / plain_ms.back());
  }
  nlohmann::ordered_json json = {{"benchmark", "step at one rank, engine over plain LibTorch loop"},
                                 {"utc", utc_text(wall_clock_ns())},
                                 {"device", device},
                                 {"instruction_set", instruction_set()},
                                 {"micro_batch", micro_batch},
                                 {"micro_batches_per_step", num_micro_batches},
                                 {"rounds", rounds},
                                 {"engine_step_ms", quantile(engine_ms, 0.5)},
                                 {"plain_step_ms", quantile(plain_ms, 0.5)},
                                 {"ratio_median", quantile(ratios, 0.5)},
                                 {"ratio_p25", quantile(ratios, 0.25)},
                                 {"ratio_p75", quantile(ratios, 0.75)}};
  std::printf("%s\n", json.dump(2).c_str());
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  int64_t micro_batch = 64, micro_batches_per_step = 1;
  int rounds = 20;
  std::string device = "cpu";
  CLI::App app("Engine at one rank over a plain LibTorch loop, in turns");
  app.add_option("--micro-batch", micro_batch, "images")->check(CLI::PositiveNumber);
  app.add_option("--micro-batches-per-step", micro_batches_per_step)->check(CLI::PositiveNumber);
  app.add_option("--device", device, "cpu or cuda")->capture_default_str();
  app.add_option("--rounds", rounds, "of 5 steps of each side")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  lockstep::run(micro_batch, micro_batches_per_step, rounds, device);
}
