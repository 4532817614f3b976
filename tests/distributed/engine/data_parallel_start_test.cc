// What ranks that start say when they disagree, and when one of them can't.
// Covers: parallel_start.cc
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include <cmath>

#include "data_parallel_ranks.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "odd_net.h"

namespace lockstep {
namespace {

using lockstep::testing::common_error;
using lockstep::testing::make_net;
using lockstep::testing::options_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(DataParallelStart, DifferentModelsAreNamed) {
  EXPECT_THAT(common_error(3,
                           [](World& world) {
                             auto net = make_net<torch::nn::Linear>(
                                 world, 8, world.world_rank() == 2 ? 5 : 4);
                             return DataParallel::make(world, *net, options_of(3)).status();
                           }),
              AllOf(HasSubstr("weight"), HasSubstr("4,8"), HasSubstr("rank 2"), HasSubstr("5,8")));
  EXPECT_THAT(common_error(2,
                           [](World& world) {
                             auto net = make_net<torch::nn::Linear>(world, 8, 4);
                             if (world.world_rank() == 1) net->to(torch::kHalf);
                             return DataParallel::make(world, *net, options_of(3)).status();
                           }),
              AllOf(HasSubstr("rank 1: "), HasSubstr("'weight'"), HasSubstr("F16")));
}

// What throws on one rank alone must not leave the others waiting.
TEST(DataParallelStart, AnExceptionOnOneRankReachesAll) {
  std::string error = common_error(3, [](World& world) {
    OddNet net;
    auto parallel = DataParallel::make(world, *net, options_of(3)).value();
    ShardedOptimizerOptions options;
    options.groups = {{"all", 1.0, std::nullopt}};
    options.group_of = [&](std::string_view) -> size_t {
      LOCKSTEP_CHECK(world.world_rank() != 1, "no such parameter");
      return 0;
    };
    return ShardedOptimizer::make(parallel, options).status();
  });
  EXPECT_THAT(error, AllOf(HasSubstr("rank 1"), HasSubstr("no such parameter")));
}

TEST(DataParallelStart, AModuleThatCannotBeLaidOutOnOneRankReachesAll) {
  struct Net : torch::nn::Module {
    explicit Net(bool is_odd) {
      weight = register_parameter("weight", torch::ones({4}));
      if (is_odd) register_buffer("shadow", weight.detach());
    }
    torch::Tensor weight;
  };
  std::string error = common_error(3, [](World& world) {
    Net net(world.world_rank() == 2);
    return DataParallel::make(world, net, options_of(3)).status();
  });
  EXPECT_THAT(error, AllOf(HasSubstr("rank 2"), HasSubstr("'shadow'")));
}

TEST(DataParallelStart, OptimizerOptionsOutOfRangeAreNamed) {
  auto error_with = [](const std::function<void(ShardedOptimizerOptions&)>& change) {
    return common_error(1, [&](World& world) {
      OddNet net;
      auto parallel = DataParallel::make(world, *net, options_of(1)).value();
      ShardedOptimizerOptions options;
      change(options);
      return ShardedOptimizer::make(parallel, options).status();
    });
  };
  EXPECT_THAT(error_with([](auto& o) { o.clip_max_norm = -1; }), HasSubstr("clip_max_norm"));
  EXPECT_THAT(error_with([](auto& o) { o.clip_max_norm = NAN; }), HasSubstr("clip_max_norm"));
  EXPECT_THAT(error_with([](auto& o) {
                o.groups = {{"g", -2.0, std::nullopt}};
              }),
              AllOf(HasSubstr("'g'"), HasSubstr("-2")));
  EXPECT_THAT(error_with([](auto& o) {
                o.groups = {{"a", 1.0, std::nullopt}, {"b", 0.0, std::nullopt}};
              }),
              HasSubstr("group_of"));
}

TEST(DataParallelStart, DifferentOptionsAreNamed) {
  auto start = [](const std::function<void(DataParallelOptions&)>& change) {
    return common_error(3, [&](World& world) {
      auto net = make_net<torch::nn::Linear>(world, 8, 4);
      DataParallelOptions options = options_of(6);
      if (world.world_rank() == 1) change(options);
      return DataParallel::make(world, *net, options).status();
    });
  };
  EXPECT_THAT(start([](auto& o) { o.micro_batches_per_step = 8; }),
              HasSubstr("rank 0 has 'micro_batches_per_step 6', rank 1 has "
                        "'micro_batches_per_step 8'"));
  EXPECT_THAT(start([](auto& o) { o.seed = 3; }), HasSubstr("rank 1 has 'seed 3'"));
  EXPECT_THAT(start([](auto& o) { o.bucket_mib = 2.5; }), HasSubstr("rank 1 has 'bucket_mib 2.5'"));
  EXPECT_THAT(start([](auto& o) { o.leaf_dtype = LeafDtype::kBf16; }),
              HasSubstr("rank 1 has 'leaves rounded to bf16 true'"));
  EXPECT_THAT(start([](auto& o) { o.leaf_micro_batches = 0; }),
              AllOf(HasSubstr("rank 1: "), HasSubstr("leaf_micro_batches (0)")));
  EXPECT_THAT(start([](auto& o) { o.bucket_mib = -1; }), HasSubstr("bucket_mib (-1)"));
}

TEST(DataParallelStart, DifferentHyperparametersAreNamed) {
  auto start = [](const std::function<void(ShardedOptimizerOptions&)>& change) {
    return common_error(3, [&](World& world) -> Status {
      auto net = make_net<torch::nn::Linear>(world, 8, 4);
      LOCKSTEP_ASSIGN_OR_RETURN(auto parallel, DataParallel::make(world, *net, options_of(3)));
      ShardedOptimizerOptions options;
      if (world.world_rank() == 2) change(options);
      return ShardedOptimizer::make(parallel, options).status();
    });
  };
  EXPECT_THAT(start([](auto& o) { o.optimizer.learning_rate = 0.5; }),
              AllOf(HasSubstr("rank 2 has"), HasSubstr("0.5")));
  EXPECT_THAT(start([](auto& o) { o.clip_max_norm = 2; }),
              HasSubstr("rank 0 has 'clip_max_norm 0', rank 2 has 'clip_max_norm 2'"));
  EXPECT_THAT(start([](auto& o) { o.optimizer.name = "adam"; }),
              AllOf(HasSubstr("rank 2: "), HasSubstr("adam")));
  EXPECT_THAT(start([](auto& o) { o.group_of = [](std::string_view) { return size_t{4}; }; }),
              AllOf(HasSubstr("rank 2: "), HasSubstr("group 4")));
}

}  // namespace
}  // namespace lockstep
