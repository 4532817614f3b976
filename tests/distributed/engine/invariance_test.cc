// The promise: the state after some steps is the same, bit for bit, for every number of ranks, and
// for everything else that is not part of the recipe.
// Covers: buffer_store.cc, random.cc

#include <gtest/gtest.h>

#include <set>

#include "odd_run.h"

namespace lockstep {
namespace {

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

TEST(Invariance, LeavesRoundedToBf16) {
  for (int64_t leaf : {1, 2}) {
    RunSpec spec;
    spec.micro_batches = 11;
    spec.leaf = leaf;
    spec.leaf_dtype = LeafDtype::kBf16;
    std::string expected = digest_of(1, spec);
    for (int ranks = 2; ranks <= (spec.micro_batches + leaf - 1) / leaf; ++ranks)
      EXPECT_EQ(digest_of(ranks, spec), expected) << ranks << " ranks, leaves of " << leaf;
  }
}

TEST(Invariance, BucketLayoutDoesNotChangeNumbers) {
  RunSpec spec;
  std::string expected = digest_of(3, spec);
  for (double mib : {0.0, 1e-3, 0.0625, 0.13, 64.0}) {
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
  RunSpec rounded = base;
  rounded.leaf_dtype = LeafDtype::kBf16;
  for (const RunSpec& spec : {seed, micro_batches, bracketing, clip, steps, native, rounded})
    digests.insert(digest_of(2, spec));
  EXPECT_EQ(digests.size(), 8u);
}

TEST(DataParallel, MoreRanksThanLeavesAreRefused) {
  RunSpec spec;
  spec.micro_batches = 4;
  spec.leaf = 2;
  DigestOfRanks digest;
  Status status = World::run_threads(
      3, [&](World& world) { return train_odd_net(world, spec, &digest); }, WorldOptions{});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("3 ranks"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("2 leaves"), std::string::npos) << status.message();
}

TEST(DataParallel, TheNativeSumRefusesRoundedLeaves) {
  RunSpec spec;
  spec.reduction = Reduction::kNative;
  spec.leaf_dtype = LeafDtype::kBf16;
  DigestOfRanks digest;
  Status status = World::run_threads(
      2, [&](World& world) { return train_odd_net(world, spec, &digest); }, WorldOptions{});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("bf16"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace lockstep
