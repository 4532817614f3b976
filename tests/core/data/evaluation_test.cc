#include "lockstep/core/data/evaluation.h"

#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

TEST(Evaluation, BatchesHoldEverySampleOnceInOrder) {
  for (int64_t num_samples = 0; num_samples <= 40; ++num_samples)
    for (int64_t size = 1; size <= 45; ++size) {
      int64_t next = 0;
      for (int64_t i = 0; i < num_evaluation_batches(num_samples, size); ++i) {
        std::vector<int64_t> batch = evaluation_batch(num_samples, size, i);
        EXPECT_FALSE(batch.empty());
        EXPECT_LE(static_cast<int64_t>(batch.size()), size);
        for (int64_t index : batch) EXPECT_EQ(index, next++);
      }
      EXPECT_EQ(next, num_samples);
    }
}

TEST(Evaluation, RanksShareTheBatchesWithoutGapOrOverlap) {
  for (int64_t num_batches = 0; num_batches <= 40; ++num_batches)
    for (int world_size = 1; world_size <= 16; ++world_size) {
      int64_t next = 0;
      for (int rank = 0; rank < world_size; ++rank) {
        IndexRange range = evaluation_batches_of_rank(num_batches, rank, world_size);
        EXPECT_EQ(range.first, next);
        EXPECT_LE(range.size(), num_batches / world_size + 1);
        next = range.end;
      }
      EXPECT_EQ(next, num_batches);
    }
}

TEST(Evaluation, RefusesWhatIsOutside) {
  EXPECT_THROW((void)evaluation_batch(10, 4, 3), UsageError);
  EXPECT_THROW((void)num_evaluation_batches(10, 0), UsageError);
  EXPECT_THROW((void)evaluation_batches_of_rank(10, 2, 2), UsageError);
}

}  // namespace
}  // namespace lockstep
