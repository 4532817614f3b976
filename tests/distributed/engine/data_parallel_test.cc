// What DataParallel says when it is used wrongly and when a rank fails in a step; and what it
// sends. Ranks are threads.
// Covers: data_parallel_impl.cc, gradient_store.cc, step_outcome.cc
#include "lockstep/distributed/data_parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/embedding.h>
#include <torch/types.h>

#include <cmath>

#include "data_parallel_ranks.h"
#include "distributed/test_settings.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "odd_net.h"
#include "stack_net.h"
#include "step_message.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

// A module with an integer buffer that a model should not have: it looks at the data.
struct CountingNetImpl : torch::nn::Module {
  CountingNetImpl() {
    weight = register_parameter("weight", torch::ones({4}));
    steady = register_buffer("steady", torch::zeros({2}, torch::kLong));
    seen = register_buffer("seen", torch::zeros({2}, torch::kLong));
  }
  torch::Tensor forward(int64_t value) {
    steady.add_(1);
    seen.add_(value);
    return weight.sum();
  }
  torch::Tensor weight, steady, seen;
};
TORCH_MODULE(CountingNet);

using lockstep::testing::common_error;
using lockstep::testing::make_net;
using lockstep::testing::options_of;
using lockstep::testing::quiet;
using lockstep::testing::verdicts;

torch::Tensor odd_loss(OddNet& net, bool use_sometimes = true) {
  return net->forward(torch::arange(48, torch::kFloat).sin().reshape({4, 12}), use_sometimes)
      .square()
      .mean();
}

torch::Tensor stack_input() {
  return torch::arange(2 * StackNetImpl::kWidth, torch::kFloat).sin().reshape({2, -1});
}

std::string usage_error(const std::function<void()>& body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no UsageError";
  return "";
}

TEST(DataParallelUse, GradientsAreNotTheCallersToClearOrReplace) {
  World world = World::solo(quiet());
  OddNet net;
  DataParallelOptions options = options_of(4);
  options.leaf_micro_batches = 2;
  auto parallel = DataParallel::make(world, *net, options).value();
  auto first_of = [&](int64_t step, const std::function<void()>& then) {
    for (MicroBatch mb : parallel.micro_batches(step)) {
      parallel.backward(mb, odd_loss(net), 1);
      then();
    }
  };
  EXPECT_THAT(usage_error([&] { first_of(0, [&] { net->zero_grad(); }); }),
              AllOf(HasSubstr("'tied'"), HasSubstr("zero_grad")));
  OddNet other;
  auto again = DataParallel::make(world, *other, options_of(1)).value();
  MicroBatch mb = *again.micro_batches(0).begin();
  other->head.mutable_grad() = torch::zeros_like(other->head);
  EXPECT_THAT(usage_error([&] { again.backward(mb, odd_loss(other), 1); }), HasSubstr("'head'"));
}

ShardedOptimizer sgd(DataParallel& parallel) {
  ShardedOptimizerOptions options;
  options.optimizer.name = "sgd";
  return ShardedOptimizer::make(parallel, options).value();
}

// Out of turn, the memory of the sums holds something else: an update with it would go unnoticed.
TEST(DataParallelUse, CallsOutOfTurnAreRefused) {
  World world = World::solo(quiet());
  OddNet net;
  auto parallel = DataParallel::make(world, *net, options_of(2)).value();
  ShardedOptimizer optimizer = sgd(parallel);
  auto accumulate = [&](int64_t step) {
    for (MicroBatch mb : parallel.micro_batches(step)) parallel.backward(mb, odd_loss(net), 1);
  };
  accumulate(0);
  EXPECT_THAT(usage_error([&] { accumulate(1); }), HasSubstr("step 0 was begun but not reduced"));
  EXPECT_THAT(usage_error([&] { (void)parallel.reduce(1); }), HasSubstr("the step under way is 0"));
  StepGradients gradients = parallel.reduce(0).value();
  EXPECT_THAT(usage_error([&] { (void)parallel.reduce(0); }), HasSubstr("none"));
  ASSERT_TRUE(optimizer.step(gradients).is_ok());
  EXPECT_THAT(usage_error([&] { (void)optimizer.step(gradients); }), HasSubstr("not in place"));
  accumulate(1);
  EXPECT_THAT(usage_error([&] { (void)optimizer.step(gradients); }), HasSubstr("not in place"));
  ASSERT_TRUE(parallel.reduce(1).is_ok());
  EXPECT_THAT(usage_error([&] { (void)optimizer.step(gradients); }), HasSubstr("not in place"));
}

TEST(DataParallelUse, WhatSetUpReturnsMayBeMoved) {
  struct Parts {
    World world;
    DataParallel parallel;
    ShardedOptimizer optimizer;
  };
  OddNet net;
  auto set_up = [&] {
    World world = World::solo(quiet());
    DataParallel parallel = DataParallel::make(world, *net, options_of(2)).value();
    ShardedOptimizer optimizer = sgd(parallel);
    return std::make_unique<Parts>(std::move(world), std::move(parallel), std::move(optimizer));
  };
  auto parts = set_up();
  for (MicroBatch mb : parts->parallel.micro_batches(0))
    parts->parallel.backward(mb, odd_loss(net), 1);
  EXPECT_TRUE(parts->optimizer.step(parts->parallel.reduce(0).value()).is_ok());
  EXPECT_EQ(parts->parallel.world().world_size(), 1);
}

TEST(DataParallelUse, SparseGradientsAreRefusedByName) {
  World world = World::solo(quiet());
  torch::nn::Embedding net(torch::nn::EmbeddingOptions(8, 4).sparse(true));
  auto parallel = DataParallel::make(world, *net, options_of(1)).value();
  MicroBatch mb = *parallel.micro_batches(0).begin();
  EXPECT_THAT(usage_error([&] { parallel.backward(mb, net(torch::arange(3)).sum(), 1); }),
              AllOf(HasSubstr("'weight'"), HasSubstr("dense")));
}

// A gradient of -0, and a parameter that only every other micro-batch uses: whether its zeros have
// a buffer (the leaf is a rank's first) or not must not show.
TEST(DataParallelStep, MissingGradientsAddZeroWhereverTheyAre) {
  struct Net : torch::nn::Module {
    torch::Tensor sometimes = register_parameter("sometimes", torch::ones({5}));
    torch::Tensor always = register_parameter("always", torch::ones({3}));
  };
  std::vector<std::string> sums;
  for (int ranks : {1, 2, 3, 4}) {
    for (bool is_even_used : {true, false}) {
      std::string bytes;
      verdicts(ranks, [&](World& world) {
        Net net;
        auto parallel = DataParallel::make(world, net, options_of(4)).value();
        for (MicroBatch mb : parallel.micro_batches(0)) {
          torch::Tensor loss = (net.always * static_cast<double>(mb.index + 1)).sum();
          if ((mb.index % 2 == 0) == is_even_used) loss = loss + (net.sometimes * -0.0).sum();
          parallel.backward(mb, loss, 1);
        }
        parallel.reduce(0).value();
        const auto& space = parallel.trainable_spaces()[0];
        if (space.plan->num_owned_blocks(world.world_rank()) > 0)
          bytes.assign(static_cast<const char*>(space.gradient_sums),
                       static_cast<size_t>(space.space->num_elems) * sizeof(float));
        return Status::ok();
      });
      ASSERT_FALSE(bytes.empty());
      sums.push_back(bytes);
    }
  }
  for (const std::string& sum : sums) EXPECT_TRUE(sum == sums[0]) << &sum - sums.data();
  float first = 1;
  std::memcpy(&first, sums[0].data(), sizeof(first));
  EXPECT_TRUE(first == 0 && !std::signbit(first)) << first;
}

TEST(DataParallelUse, ParametersAreNotTheCallersToReplace) {
  World world = World::solo(quiet());
  OddNet net;
  auto parallel = DataParallel::make(world, *net, options_of(1)).value();
  net->head.set_data(torch::zeros({160, 4}, torch::kDouble));
  EXPECT_THAT(usage_error([&] { parallel.micro_batches(0).begin(); }),
              AllOf(HasSubstr("'head'"), HasSubstr("replaced")));
}

TEST(DataParallelUse, BackwardBelongsToTheCurrentMicroBatch) {
  World world = World::solo(quiet());
  OddNet net;
  auto parallel = DataParallel::make(world, *net, options_of(2)).value();
  EXPECT_THAT(usage_error([&] { odd_loss(net).backward(); }), HasSubstr("outside a micro-batch"));
  EXPECT_THAT(usage_error([&] {
                parallel.backward({0, 0}, odd_loss(net), 1);
              }),
              HasSubstr("backward() for micro-batch 0"));
  auto range = parallel.micro_batches(0);
  auto it = range.begin();
  EXPECT_THAT(usage_error([&] {
                parallel.backward({0, 1}, odd_loss(net), 1);
              }),
              HasSubstr("the current one is 0 of step 0"));
  EXPECT_THAT(usage_error([&] { ++it; }), HasSubstr("backward() was not called"));
  EXPECT_THAT(usage_error([&] { parallel.reduce(0).status().ignore(); }), HasSubstr("at 0 of 2"));
  EXPECT_THAT(usage_error([&] {
                parallel.backward({0, 0}, torch::ones({2}), 1);
              }),
              HasSubstr("scalar"));
  EXPECT_THAT(usage_error([&] {
                parallel.backward({0, 0}, odd_loss(net), 0);
              }),
              HasSubstr("weight"));
}

TEST(DataParallelStep, FlagsLossesAndWeightsOfAllRanks) {
  auto body = [](World& world) -> Status {
    OddNet net = make_net<OddNet>(world);
    LOCKSTEP_ASSIGN_OR_RETURN(auto parallel, DataParallel::make(world, *net, options_of(5)));
    for (MicroBatch mb : parallel.micro_batches(0)) {
      auto scale = static_cast<double>(mb.index + 1);
      parallel.backward(mb, odd_loss(net, false) * 0 + scale, scale);
    }
    LOCKSTEP_ASSIGN_OR_RETURN(auto out, parallel.reduce(0, uint64_t{1} << world.world_rank()));
    EXPECT_EQ(out.flags, 7u);
    EXPECT_THAT(out.micro_batch_losses, ElementsAre(1, 2, 3, 4, 5));
    EXPECT_EQ(out.total_weight, 15);
    EXPECT_EQ(out.mean_loss, (1 + 4 + 9 + 16 + 25) / 15.0);
    EXPECT_THAT(out.unused_parameters, UnorderedElementsAre("sometimes", "never"));
    return Status::ok();
  };
  for (const Status& status : verdicts(3, body)) EXPECT_TRUE(status.is_ok()) << status.to_string();
}

TEST(DataParallelStep, LossThatIsNotFiniteIsKnownToAllRanks) {
  auto body = [](World& world) -> Status {
    OddNet net = make_net<OddNet>(world);
    LOCKSTEP_ASSIGN_OR_RETURN(auto parallel, DataParallel::make(world, *net, options_of(5)));
    LOCKSTEP_ASSIGN_OR_RETURN(auto optimizer, ShardedOptimizer::make(parallel, {}));
    auto mean_before = net->norm->running_mean.clone();
    for (MicroBatch mb : parallel.micro_batches(0)) {
      double factor = mb.index == 3 ? INFINITY : 1;
      parallel.backward(mb, odd_loss(net) * factor, 1);
    }
    LOCKSTEP_ASSIGN_OR_RETURN(auto out, parallel.reduce(0));
    EXPECT_FALSE(out.is_finite);
    EXPECT_EQ(out.first_bad_micro_batch, 3);
    EXPECT_TRUE(torch::equal(net->norm->running_mean, mean_before));
    EXPECT_THROW(optimizer.step(out).status().ignore(), UsageError);
    for (MicroBatch mb : parallel.micro_batches(1)) {
      // The root of 0 is 0, its slope is not finite.
      auto bad = (net->sometimes * 0).sqrt().sum();
      parallel.backward(mb, odd_loss(net) + (mb.index == 1 ? bad : bad.detach()), 1);
    }
    LOCKSTEP_ASSIGN_OR_RETURN(out, parallel.reduce(1));
    EXPECT_FALSE(out.is_finite);
    EXPECT_EQ(out.first_bad_micro_batch, -1);
    return Status::ok();
  };
  for (const Status& status : verdicts(3, body)) EXPECT_TRUE(status.is_ok()) << status.to_string();
}

TEST(DataParallelStep, IntegerBufferThatDependsOnTheDataIsNamed) {
  for (int ranks : {1, 2, 4}) {
    std::string error = common_error(ranks, [](World& world) -> Status {
      CountingNet net = make_net<CountingNet>(world);
      LOCKSTEP_ASSIGN_OR_RETURN(auto parallel, DataParallel::make(world, *net, options_of(4)));
      for (MicroBatch mb : parallel.micro_batches(0))
        parallel.backward(mb, net->forward(mb.index / 2), 1);
      return parallel.reduce(0).status();
    });
    EXPECT_THAT(error, AllOf(HasSubstr("seen"), HasSubstr("must not depend on the data"),
                             Not(HasSubstr("steady"))));
  }
}

// Rank 1 fails at each place where it can; the next step is as if nothing had been.
TEST(DataParallelStep, FailureOfOneRankReachesAllAndLeavesNothingBehind) {
  enum Where { kBeforeAll, kFirst, kLast, kInBackward };
  for (Where where : {kBeforeAll, kFirst, kLast, kInBackward}) {
    auto body = [where](World& world) -> Status {
      StackNet net = make_net<StackNet>(world, 4);
      LOCKSTEP_ASSIGN_OR_RETURN(auto parallel, DataParallel::make(world, *net, options_of(6)));
      bool fails = world.world_rank() == 1;
      int64_t last = parallel.micro_batch_range().end - 1;
      MicroBatch current;
      net->before_first_layer = [&] {
        if (fails && where == kInBackward && current.index == last)
          throw std::runtime_error("planned");
      };
      auto work = [&](int64_t step) {
        if (fails && where == kBeforeAll) throw std::runtime_error("planned");
        for (MicroBatch mb : parallel.micro_batches(step)) {
          current = mb;
          if (fails && where == kFirst) throw std::runtime_error("planned");
          if (fails && where == kLast && mb.index == last) throw std::runtime_error("planned");
          parallel.backward(mb, net(stack_input()), 1);
        }
      };
      Status mine;
      try {
        work(0);
      } catch (const std::exception& error) {
        mine = internal_error(error.what());
      }
      Status failed = parallel.reduce(0, 0, mine).status();
      fails = false;
      work(1);
      LOCKSTEP_ASSIGN_OR_RETURN(auto good, parallel.reduce(1));
      EXPECT_TRUE(good.is_finite);
      EXPECT_EQ(good.micro_batch_losses.size(), 6u);
      return failed;
    };
    EXPECT_EQ(common_error(3, body, StatusCode::kInternal), "rank 1: planned") << where;
  }
}

TEST(DataParallelStep, AGroupsLearningRateAndDecayAreItsOwn) {
  World world = World::solo(quiet());
  OddNet net;
  auto parallel = DataParallel::make(world, *net, options_of(1)).value();
  ShardedOptimizerOptions options;
  options.optimizer.name = "sgd";
  options.optimizer.learning_rate = 0.5;
  options.groups = {{"still", 0.0, 0.0}, {"decayed", 1.0, 0.25}};
  options.group_of = [](std::string_view name) -> size_t { return name == "never" ? 1 : 0; };
  auto optimizer = ShardedOptimizer::make(parallel, options).value();
  torch::Tensor head = net->head.detach().clone();
  for (MicroBatch mb : parallel.micro_batches(0)) parallel.backward(mb, odd_loss(net), 1);
  ASSERT_TRUE(optimizer.step(parallel.reduce(0).value()).is_ok());
  EXPECT_TRUE(torch::equal(net->head, head));
  EXPECT_TRUE(torch::equal(net->never, torch::full({3}, 1 - 0.5 * 0.25)));
}

// Reduce-scatter and all-gather along the tree: 2 (N - 1) / N of the gradients' bytes, and one
// small message to each of the others.
TEST(DataParallelStep, SendsNoByteMoreThanItMust) {
  constexpr int kLayers = 8;
  constexpr uint64_t kGradientBytes = kLayers * 16384 * sizeof(float);
  for (int ranks : {2, 4, 8}) {
    auto n = static_cast<uint64_t>(ranks);
    StepMessageShape shape{16 / ranks, kLayers / ranks, kLayers};
    uint64_t expected = 2 * (n - 1) * kGradientBytes / n + (n - 1) * shape.num_bytes();
    auto body = [&](World& world) -> Status {
      StackNet net = make_net<StackNet>(world, kLayers);
      DataParallelOptions options = options_of(16);
      options.bucket_mib = 0.25;
      LOCKSTEP_ASSIGN_OR_RETURN(auto parallel, DataParallel::make(world, *net, options));
      LOCKSTEP_ASSIGN_OR_RETURN(auto optimizer, ShardedOptimizer::make(parallel, {}));
      for (int64_t step = 0; step < 2; ++step) {
        uint64_t before = world.communicator().num_bytes_sent();
        for (MicroBatch mb : parallel.micro_batches(step))
          parallel.backward(mb, net(stack_input()), 1);
        LOCKSTEP_ASSIGN_OR_RETURN(auto gradients, parallel.reduce(step));
        LOCKSTEP_RETURN_IF_ERROR(optimizer.step(gradients).status());
        EXPECT_EQ(world.communicator().num_bytes_sent() - before, expected) << ranks << " ranks";
      }
      return Status::ok();
    };
    for (const Status& status : verdicts(ranks, body))
      EXPECT_TRUE(status.is_ok()) << status.to_string();
  }
}

}  // namespace
}  // namespace lockstep
