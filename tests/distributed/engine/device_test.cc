// Training on a device whose queues run late: the same bits as on the host, for every number of
// ranks, and copies of its memory that are right at once.
// Covers: staged_memory.cc
#include <gtest/gtest.h>

#include <memory>

#include "delayed_device.h"
#include "odd_run.h"
#include "staged_memory.h"

namespace lockstep {
namespace {

using testing::DelayedDevice;

RunSpec delayed(RunSpec spec, uint32_t seed) {
  spec.accelerator = [seed](int world_rank) {
    return std::make_shared<DelayedDevice>(seed + 2 * static_cast<uint32_t>(world_rank));
  };
  return spec;
}

TEST(OnADevice, TrainsTheBitsOfTheHost) {
  RunSpec host;
  host.steps = 4;
  host.bucket_mib = 1e-3;  // a block
  const std::string expected = digest_of(1, host);
  for (int ranks : {1, 2, 3, 4, 6}) {
    for (uint32_t seed : {1U, 50U, 100U})
      EXPECT_EQ(digest_of(ranks, delayed(host, seed)), expected) << ranks << " ranks, seed " << seed;
  }
}

TEST(OnADevice, LeavesOfSeveralMicroBatchesAndTheBackendsOwnSum) {
  RunSpec leaves;
  leaves.leaf = 2;
  leaves.optimizer = "sgd";
  EXPECT_EQ(digest_of(3, delayed(leaves, 7)), digest_of(1, leaves));
  RunSpec native;
  native.reduction = Reduction::kNative;
  EXPECT_EQ(digest_of(2, delayed(native, 7)), digest_of(2, native));
}

// Of rank 1's calls, a broadcast of each space's weights comes first, then the exchanges.
TEST(OnADevice, LeavesRoundedToBf16) {
  RunSpec rounded;
  rounded.micro_batches = 4;
  rounded.leaf_dtype = LeafDtype::kBf16;
  rounded.bucket_mib = 1e-3;
  const std::string expected = digest_of(1, rounded);
  for (int ranks : {1, 2, 3, 4}) EXPECT_EQ(digest_of(ranks, delayed(rounded, 7)), expected) << ranks;
}

TEST(OnADevice, AnExchangeThatFailsBehindTheHostFailsTheStepOnEveryRank) {
  for (int failing_call : {5, 9, 14}) {
    std::vector<Status> verdicts(3);
    Status ran = World::run_threads(
        3,
        [&](World& world) {
          RunSpec spec;
          spec.bucket_mib = 1e-3;  // a block
          spec.timeout_s = 1.5;
          spec.accelerator = [&](int rank) {
            return std::make_shared<DelayedDevice>(1, rank == 1 ? failing_call : -1);
          };
          DigestOfRanks unused;
          verdicts[static_cast<size_t>(world.world_rank())] = train_odd_net(world, spec, &unused);
          return Status::ok();
        },
        WorldOptions{});
    EXPECT_TRUE(ran.is_ok()) << ran.to_string();
    for (const Status& verdict : verdicts) {
      EXPECT_FALSE(verdict.is_ok()) << "call " << failing_call;
      EXPECT_NE(verdict.message().find("rank 1: "), std::string::npos) << verdict.to_string();
      EXPECT_NE(verdict.message().find("the link broke"), std::string::npos) << verdict.to_string();
    }
  }
}

TEST(OnADevice, EveryRankMustBeOnOne) {
  std::vector<Status> verdicts(2);
  Status ran = World::run_threads(
      2,
      [&](World& world) {
        RunSpec spec;
        if (world.world_rank() == 1) spec = delayed(spec, 1);
        DigestOfRanks unused;
        verdicts[static_cast<size_t>(world.world_rank())] = train_odd_net(world, spec, &unused);
        return Status::ok();
      },
      WorldOptions{});
  EXPECT_TRUE(ran.is_ok()) << ran.to_string();
  for (const Status& verdict : verdicts) {
    EXPECT_EQ(verdict.code(), StatusCode::kInvalidArgument) << verdict.to_string();
    EXPECT_NE(verdict.message().find("on a GPU"), std::string::npos) << verdict.message();
  }
}

TEST(StagedMemory, CopiesBehindWhatWasComputedAndIsDoneOnceSettled) {
  auto device = std::make_shared<DelayedDevice>(3);
  StagedMemory memory(device);
  std::vector<std::byte> there(1 << 16), here(there.size());
  for (int round = 0; round < 50; ++round) {
    std::fill(there.begin(), there.end(), static_cast<std::byte>(round));
    memory.read(here, there);
    ASSERT_TRUE(memory.settle().is_ok());
    ASSERT_EQ(here, there);
    std::fill(here.begin(), here.end(), static_cast<std::byte>(round + 100));
    memory.write(there, here);
    ASSERT_TRUE(memory.settle().is_ok());
    ASSERT_EQ(there, here);
  }
  EXPECT_THROW(memory.read(here, std::span(there).first(5)), UsageError);
  memory.pin(here);
  EXPECT_EQ(device->num_pinned(), 1U);
  memory.unpin(here);
  EXPECT_EQ(device->num_pinned(), 0U);
}

}  // namespace
}  // namespace lockstep
