// The promise: the state after some steps is the same, bit for bit, for every number of ranks, and
// for everything else that is not part of the recipe.
// Covers: buffer_store.cc, random.cc

#include <gtest/gtest.h>
#include <torch/nn/functional/loss.h>
#include <torch/types.h>

#include <set>

#include "digest_of_ranks.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "odd_net.h"

namespace lockstep {
namespace {

struct RunSpec {
  int64_t micro_batches = 12;
  int64_t leaf = 1;
  double bucket_mib = 4;
  std::string optimizer = "adamw";
  double clip = 0.5;
  uint64_t seed = 7;
  int64_t steps = 3;
  Reduction reduction = Reduction::kTree;
};

Status train(World& world, const RunSpec& spec, DigestOfRanks* digest) {
  OddNet net{nullptr};
  {
    std::unique_lock<std::mutex> lock;
    if (world.process_lock() != nullptr) lock = std::unique_lock(*world.process_lock());
    torch::manual_seed(
        static_cast<uint64_t>(100 + world.world_rank()));  // rank 0's weights must win
    net = OddNet();
  }
  DataParallelOptions options;
  options.seed = spec.seed;
  options.micro_batches_per_step = spec.micro_batches;
  options.leaf_micro_batches = spec.leaf;
  options.bucket_mib = spec.bucket_mib;
  options.reduction = spec.reduction;
  options.timeout_s = 60;
  LOCKSTEP_ASSIGN_OR_RETURN(DataParallel parallel, DataParallel::make(world, *net, options));
  ShardedOptimizerOptions adam;
  adam.optimizer.name = spec.optimizer;
  adam.optimizer.learning_rate = 0.01;
  adam.optimizer.momentum = 0.9;
  adam.clip_max_norm = spec.clip;
  LOCKSTEP_ASSIGN_OR_RETURN(ShardedOptimizer optimizer, ShardedOptimizer::make(parallel, adam));
  for (int64_t step = 0; step < spec.steps; ++step) {
    for (MicroBatch mb : parallel.micro_batches(step)) {
      int64_t samples = 4 + mb.index % 3;  // uneven micro-batches are right by construction
      auto x = torch::arange(samples * 12, torch::kFloat)
                   .reshape({samples, 12})
                   .add(mb.index + 100 * step)
                   .mul(0.37)
                   .sin();
      auto y = torch::arange(samples, torch::kLong).add(mb.index).remainder(4);
      auto loss = torch::nn::functional::cross_entropy(net->forward(x, mb.index % 4 == 1), y);
      parallel.backward(mb, loss, static_cast<double>(samples));
    }
    LOCKSTEP_ASSIGN_OR_RETURN(StepGradients gradients, parallel.reduce(step));
    EXPECT_EQ(gradients.unused_parameters, std::vector<std::string>{"never"});
    EXPECT_TRUE(gradients.is_finite);
    LOCKSTEP_ASSIGN_OR_RETURN(UpdateReport update, optimizer.step(gradients));
    EXPECT_EQ(update.num_updates, step + 1);
  }
  digest->add(state_schema(parallel, optimizer), owned_state(parallel, optimizer),
              optimizer.scalars());
  return Status::ok();
}

std::string digest_of(int ranks, const RunSpec& spec) {
  DigestOfRanks digest;
  Status status = World::run_threads(
      ranks, [&](World& world) { return train(world, spec, &digest); }, WorldOptions{});
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  return digest.hex();
}

TEST(Invariance, SameBitsForEveryNumberOfRanks) {
  for (int64_t micro_batches : {8, 11, 12, 16}) {
    for (const char* optimizer : {"adamw", "sgd"}) {
      RunSpec spec;
      spec.micro_batches = micro_batches;
      spec.optimizer = optimizer;
      std::string expected = digest_of(1, spec);
      // Worlds beyond 8 need not be repeated for the second optimizer.
      int64_t most_ranks = spec.optimizer == "adamw" ? micro_batches : 8;
      for (int ranks = 2; ranks <= most_ranks; ++ranks) {
        EXPECT_EQ(digest_of(ranks, spec), expected)
            << ranks << " ranks, " << micro_batches << " micro-batches, " << optimizer;
      }
    }
  }
}

TEST(Invariance, LeavesOfSeveralMicroBatches) {
  for (int64_t micro_batches : {8, 11, 12, 16}) {
    RunSpec spec;
    spec.micro_batches = micro_batches;
    spec.optimizer = micro_batches % 3 == 0 ? "sgd" : "adamw";
    spec.leaf = 2;
    std::string expected = digest_of(1, spec);
    for (int ranks = 2; ranks <= (micro_batches + 1) / 2; ++ranks)
      EXPECT_EQ(digest_of(ranks, spec), expected) << ranks;
  }
}

TEST(Invariance, BucketLayoutDoesNotChangeNumbers) {
  RunSpec spec;
  std::string expected = digest_of(3, spec);
  for (double mib : {0.0, 0.0625, 0.13, 64.0}) {
    spec.bucket_mib = mib;
    for (int ranks : {2, 3, 4, 5})
      EXPECT_EQ(digest_of(ranks, spec), expected) << mib << " MiB, " << ranks << " ranks";
  }
}

// What the recipe does fix must show: a digest that never changes would pass every test above.
TEST(Invariance, RecipeChangesShowInTheDigest) {
  RunSpec base;
  std::set<std::string> digests{digest_of(2, base)};
  RunSpec seed = base;
  seed.seed = 8;
  RunSpec micro_batches = base;
  micro_batches.micro_batches = 11;
  RunSpec bracketing = base;
  bracketing.leaf = 4;
  RunSpec clip = base;
  clip.clip = 0.25;
  RunSpec steps = base;
  steps.steps = 2;
  RunSpec native = base;
  native.reduction = Reduction::kNative;
  for (const RunSpec& spec : {seed, micro_batches, bracketing, clip, steps, native})
    digests.insert(digest_of(2, spec));
  EXPECT_EQ(digests.size(), 7u);
}

TEST(DataParallel, MoreRanksThanLeavesAreRefused) {
  RunSpec spec;
  spec.micro_batches = 4;
  spec.leaf = 2;
  DigestOfRanks digest;
  Status status = World::run_threads(
      3, [&](World& world) { return train(world, spec, &digest); }, WorldOptions{});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("3 ranks"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("2 leaves"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace lockstep
