#include "lockstep/core/data/sampler.h"

#include <gmock/gmock.h>

#include <limits>
#include <random>
#include <set>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Sampler make(int64_t num_samples, int64_t micro_batch_size, int64_t micro_batches, uint64_t seed) {
  return Sampler::make(num_samples, micro_batch_size, micro_batches, seed).value();
}

std::vector<int64_t> global_batch(const Sampler& sampler, int64_t step) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < sampler.micro_batches_per_step(); ++i) {
    std::vector<int64_t> part = sampler.sample_indices(step, i);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

TEST(Sampler, GivesEachSampleAtMostOncePerEpoch) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    int64_t size = static_cast<int64_t>(random() % 5 + 1),
            count = static_cast<int64_t>(random() % 7 + 1);
    int64_t num_samples = size * count + static_cast<int64_t>(random() % 200);
    Sampler sampler = make(num_samples, size, count, random());
    EXPECT_EQ(sampler.steps_per_epoch(), num_samples / (size * count));
    int64_t first_step = static_cast<int64_t>(random() % 5) * sampler.steps_per_epoch();
    std::set<int64_t> seen;
    for (int64_t t = 0; t < sampler.steps_per_epoch(); ++t)
      for (int64_t index : global_batch(sampler, first_step + t)) {
        EXPECT_GE(index, 0);
        EXPECT_LT(index, num_samples);
        EXPECT_TRUE(seen.insert(index).second) << "twice in one epoch: " << index;
      }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), sampler.steps_per_epoch() * size * count);
  }
}

TEST(Sampler, CountsStepsAndEpochs) {
  Sampler sampler = make(100, 4, 8, 1);
  EXPECT_EQ(sampler.global_batch_size(), 32);
  EXPECT_EQ(sampler.steps_per_epoch(), 3);
  EXPECT_EQ(sampler.position(0), (StepPosition{0, 0}));
  EXPECT_EQ(sampler.position(2), (StepPosition{0, 2}));
  EXPECT_EQ(sampler.position(3), (StepPosition{1, 0}));
  EXPECT_EQ(sampler.position(3'000'000'001), (StepPosition{1'000'000'000, 1}));
}

TEST(Sampler, OrdersByGlobalBatchNotByHowItIsCut) {
  // The same global batch cut into other micro-batches holds the same samples in the same order.
  Sampler coarse = make(1000, 16, 2, 9), fine = make(1000, 4, 8, 9);
  for (int64_t step : {0, 5, 31, 40})
    EXPECT_EQ(global_batch(coarse, step), global_batch(fine, step));
}

TEST(Sampler, ShufflesAnewEachEpochAndForEachSeed) {
  Sampler a = make(1000, 10, 10, 1), b = make(1000, 10, 10, 2);
  EXPECT_EQ(global_batch(a, 3), global_batch(a, 3));
  EXPECT_NE(global_batch(a, 3), global_batch(a, 13));
  EXPECT_NE(global_batch(a, 3), global_batch(b, 3));
}

TEST(Sampler, RefusesADataSetSmallerThanOneGlobalBatch) {
  EXPECT_TRUE(Sampler::make(128, 16, 8, 1).is_ok());
  Status status = Sampler::make(127, 16, 8, 1).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("127 samples"), HasSubstr("128")));
  EXPECT_EQ(Sampler::make(0, 1, 1, 1).status().code(), StatusCode::kInvalidArgument);
}

TEST(Sampler, RefusesSizesThatMakeNoSense) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  for (auto [size, count] : {std::pair<int64_t, int64_t>{0, 8}, {16, 0}, {-1, 8}, {kMax, kMax}})
    EXPECT_EQ(Sampler::make(1000, size, count, 1).status().code(), StatusCode::kInvalidArgument);
}

TEST(Sampler, RefusesAMicroBatchOutsideTheStep) {
  Sampler sampler = make(100, 4, 8, 1);
  EXPECT_THROW((void)sampler.sample_indices(0, 8), UsageError);
  EXPECT_THROW((void)sampler.sample_indices(-1, 0), UsageError);
}

}  // namespace
}  // namespace lockstep
