// Ranks that are processes: buckets are exchanged while backward goes on, and when they are
// exchanged does not change a bit. Every rank runs every test.
// Covers: comm_worker.cc
#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>

#include "distributed/mpi_test_world.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "stack_net.h"

namespace lockstep {
namespace {

constexpr int kNumLayers = 6;
constexpr int kNumSteps = 5;

struct Outcome {
  std::string params_hash;
  int num_buckets = 0;
  int most_reduced = 0;  ///< during backward, in the best of the steps
  CommSchedule schedule = CommSchedule::kAuto;
  // Of the last step: payload sent by backward, and by what is left of it after the delay in the
  // first layer. Inline only, where backward's own thread sends.
  uint64_t bytes_in_backward = 0, bytes_after_delay = 0;
};

DataParallelOptions options_of(CommSchedule schedule) {
  DataParallelOptions options;
  options.micro_batches_per_step = 4;
  options.schedule = schedule;
  options.bucket_mib = 1e-3;  // a block
  options.timeout_s = 60;
  return options;
}

Outcome train(World& world, CommSchedule schedule, std::chrono::milliseconds delay) {
  torch::manual_seed(5);
  StackNet net(kNumLayers);
  auto parallel = DataParallel::make(world, *net, options_of(schedule)).value();
  ShardedOptimizerOptions adam;
  adam.optimizer.learning_rate = 0.01;
  auto optimizer = ShardedOptimizer::make(parallel, adam).value();
  bool is_inline = schedule == CommSchedule::kInline;
  uint64_t sent_before = 0, sent_after_delay = 0;
  net->before_first_layer = [&] {
    if (delay.count() > 0) std::this_thread::sleep_for(delay);
    if (is_inline) sent_after_delay = world.communicator().num_bytes_sent();
  };
  Outcome outcome;
  outcome.schedule = parallel.schedule();
  for (int64_t step = 0; step < kNumSteps; ++step) {
    for (MicroBatch mb : parallel.micro_batches(step)) {
      auto x = torch::arange(4 * StackNetImpl::kWidth, torch::kFloat)
                   .add(100 * step + mb.index)
                   .sin()
                   .reshape({4, StackNetImpl::kWidth});
      auto loss = net(x);
      // Backward of the last micro-batch starts at the same time everywhere, however busy the
      // machine is.
      if (mb.index + 1 == parallel.micro_batch_range().end) {
        Status here = world.control_plane().barrier("backward", Deadline::after_s(60));
        EXPECT_TRUE(here.is_ok()) << here.to_string();
      }
      if (is_inline) sent_before = world.communicator().num_bytes_sent();
      parallel.backward(mb, loss, 1);
    }
    if (is_inline) {
      uint64_t sent = world.communicator().num_bytes_sent();
      outcome.bytes_in_backward = sent - sent_before;
      outcome.bytes_after_delay = sent - sent_after_delay;
    }
    auto gradients = parallel.reduce(step);
    EXPECT_TRUE(gradients.is_ok()) << gradients.status().to_string();
    EXPECT_TRUE(optimizer.step(*gradients).is_ok());
    outcome.num_buckets = parallel.overlap().num_buckets;
    outcome.most_reduced =
        std::max(outcome.most_reduced, parallel.overlap().num_reduced_during_backward);
  }
  EXPECT_TRUE(parallel.wait_for_parameters().is_ok());
  std::string bytes;
  for (const auto& parameter : net->parameters())
    bytes.append(static_cast<const char*>(parameter.const_data_ptr()), parameter.nbytes());
  outcome.params_hash = xxh3_128(bytes).hex();
  return outcome;
}

Outcome expect_overlap(CommSchedule schedule) {
  Outcome outcome = train(testing::mpi_world(), schedule, std::chrono::milliseconds(50));
  EXPECT_EQ(outcome.schedule, schedule);
  EXPECT_EQ(outcome.num_buckets, kNumLayers);
  EXPECT_GE(outcome.most_reduced, kNumLayers - 1);
  return outcome;
}

TEST(Overlap, OnAThreadAllBucketsButTheLastAreExchangedBeforeBackwardEnds) {
  expect_overlap(CommSchedule::kThread);
}

TEST(Overlap, InlineAllBucketsButTheLastAreExchangedBeforeBackwardEnds) {
  Outcome outcome = expect_overlap(CommSchedule::kInline);
  // Two ranks take turns in owning a bucket's one block, and send those they don't own.
  uint64_t bucket_bytes = kBlockElems * sizeof(float);
  EXPECT_LE(outcome.bytes_after_delay, bucket_bytes);
  EXPECT_GE(outcome.bytes_in_backward, kNumLayers / 2 * bucket_bytes);
}

TEST(Overlap, NoneAfterBackward) {
  Outcome outcome =
      train(testing::mpi_world(), CommSchedule::kAfterBackward, std::chrono::milliseconds(0));
  EXPECT_EQ(outcome.num_buckets, kNumLayers);
  EXPECT_EQ(outcome.most_reduced, 0);
}

TEST(Overlap, ScheduleDoesNotChangeABit) {
  World solo = World::solo(WorldOptions{Log::silent()});
  std::string expected = train(solo, CommSchedule::kAuto, std::chrono::milliseconds(0)).params_hash;
  for (CommSchedule schedule : {CommSchedule::kAuto, CommSchedule::kInline, CommSchedule::kThread,
                                CommSchedule::kAfterBackward}) {
    EXPECT_EQ(train(testing::mpi_world(), schedule, std::chrono::milliseconds(0)).params_hash,
              expected)
        << static_cast<int>(schedule);
  }
}

// Layers side by side, worked in any order; what comes out does not depend on it.
struct FanNetImpl : torch::nn::Module {
  explicit FanNetImpl(int num_layers) {
    auto options = torch::nn::LinearOptions(StackNetImpl::kWidth, StackNetImpl::kWidth).bias(false);
    for (int i = 0; i < num_layers; ++i)
      layers.push_back(register_module(cat("layer", i), torch::nn::Linear(options)));
  }
  torch::Tensor forward(const torch::Tensor& x, const std::vector<size_t>& order,
                        std::mt19937& delays) {
    std::vector<torch::Tensor> outputs(layers.size());
    for (size_t i : order) {
      outputs[i] = torch::tanh(layers[i](x));
      if (delays() % 4 == 0) {
        outputs[i].register_hook([pause = delays() % 200](const torch::Tensor&) {
          std::this_thread::sleep_for(std::chrono::microseconds(pause));
        });
      }
    }
    return torch::stack(outputs).sum(0).square().mean();
  }
  std::vector<torch::nn::Linear> layers;
};
TORCH_MODULE(FanNet);

/// Hash of the parameters after `num_steps`; backward reaches the layers in an order, and with
/// pauses, that differ between ranks, steps and micro-batches.
std::string train_in_any_order(World& world, CommSchedule schedule, int num_steps) {
  torch::manual_seed(5);
  FanNet net(kNumLayers);
  auto parallel = DataParallel::make(world, *net, options_of(schedule)).value();
  ShardedOptimizerOptions momentum;
  momentum.optimizer = {.name = "sgd", .learning_rate = 0.05, .momentum = 0.5};
  auto sgd = ShardedOptimizer::make(parallel, momentum).value();
  std::mt19937 random(static_cast<uint32_t>(17 + world.world_rank()));
  std::vector<size_t> order(kNumLayers);
  std::iota(order.begin(), order.end(), size_t{0});
  for (int64_t step = 0; step < num_steps; ++step) {
    for (MicroBatch mb : parallel.micro_batches(step)) {
      std::shuffle(order.begin(), order.end(), random);
      auto x = torch::arange(2 * StackNetImpl::kWidth, torch::kFloat)
                   .add(100 * step + mb.index)
                   .sin()
                   .reshape({2, StackNetImpl::kWidth});
      parallel.backward(mb, net(x, order, random), 1);
    }
    auto gradients = parallel.reduce(step);
    EXPECT_TRUE(gradients.is_ok()) << gradients.status().to_string();
    EXPECT_TRUE(sgd.step(*gradients).is_ok());
  }
  EXPECT_TRUE(parallel.wait_for_parameters().is_ok());
  std::string bytes;
  for (const auto& parameter : net->parameters())
    bytes.append(static_cast<const char*>(parameter.const_data_ptr()), parameter.nbytes());
  return xxh3_128(bytes).hex();
}

TEST(Overlap, AThousandStepsWhoseBucketsAreReadyInAnyOrder) {
  constexpr int kManySteps = 1000;
  World solo = World::solo(WorldOptions{Log::silent()});
  const std::string expected = train_in_any_order(solo, CommSchedule::kAuto, kManySteps);
  for (CommSchedule schedule : {CommSchedule::kThread, CommSchedule::kInline})
    EXPECT_EQ(train_in_any_order(testing::mpi_world(), schedule, kManySteps), expected);
}

// A backward that fails after some of its buckets are on their way must not leave the peers behind.
TEST(Overlap, FailureInTheMiddleOfBackwardReachesEveryRank) {
  World& world = testing::mpi_world();
  for (CommSchedule schedule : {CommSchedule::kInline, CommSchedule::kThread}) {
    torch::manual_seed(5);
    StackNet net(kNumLayers);
    DataParallelOptions options = options_of(schedule);
    options.micro_batches_per_step = world.world_size();
    options.timeout_s = 30;
    auto parallel = DataParallel::make(world, *net, options).value();
    bool fails = world.world_rank() == world.world_size() - 1;
    net->before_first_layer = [&] {
      if (fails) throw std::runtime_error("no memory");
    };
    for (int64_t step : {0, 1}) {
      Status mine;
      for (MicroBatch mb : parallel.micro_batches(step)) {
        try {
          parallel.backward(mb, net(torch::ones({2, StackNetImpl::kWidth})), 1);
        } catch (const std::exception& error) {
          mine = internal_error(error.what());
        }
        if (!mine.is_ok()) break;
      }
      auto gradients = parallel.reduce(step, 0, mine);
      if (step == 0) {
        EXPECT_EQ(gradients.status().code(), StatusCode::kInternal);
        EXPECT_NE(gradients.status().message().find(cat("rank ", world.world_size() - 1, ": no")),
                  std::string::npos)
            << gradients.status().to_string();
      } else {
        EXPECT_TRUE(gradients.is_ok()) << gradients.status().to_string();
      }
      fails = false;
    }
  }
}

}  // namespace
}  // namespace lockstep
