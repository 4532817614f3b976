// Training on a device whose queues run late: the same bits as on the host, for every number of
// ranks, and copies of its memory that are right at once.
// Covers: staged_memory.cc
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

#include "delayed_device.h"
#include "lockstep/core/base/hash.h"
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
      EXPECT_EQ(digest_of(ranks, delayed(host, seed)), expected)
          << ranks << " ranks, seed " << seed;
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

TEST(OnADevice, LeavesRoundedToBf16) {
  RunSpec rounded;
  rounded.micro_batches = 4;
  rounded.leaf_dtype = LeafDtype::kBf16;
  rounded.bucket_mib = 1e-3;
  const std::string expected = digest_of(1, rounded);
  for (int ranks : {1, 2, 3, 4})
    EXPECT_EQ(digest_of(ranks, delayed(rounded, 7)), expected) << ranks;
}

// Of rank 1's calls, a broadcast of each space's weights comes first, then the exchanges.
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

// What a rank still computes is not its peers' time, nor its own.
TEST(OnADevice, ComputeMayTakeLongerThanAnExchangeMay) {
  RunSpec host;
  host.steps = 1;
  const std::string expected = digest_of(1, host);
  RunSpec slow = host;
  slow.timeout_s = 0.5;
  slow.accelerator = [](int rank) {
    return std::make_shared<DelayedDevice>(static_cast<uint32_t>(rank), -1, /*compute_s=*/0.8);
  };
  for (int ranks : {1, 2}) EXPECT_EQ(digest_of(ranks, slow), expected) << ranks << " ranks";
}

// As after an illegal address: the rank says so, its peer names it, and no process is torn down.
TEST(OnADevice, OneThatFailsEndsInAVerdict) {
  for (auto where : {&RunSpec::before_backward, &RunSpec::before_reduce, &RunSpec::before_update}) {
    std::vector<Status> verdicts(2);
    Status ran = World::run_threads(
        2,
        [&](World& world) {
          RunSpec spec;
          spec.timeout_s = 1.5;
          auto device = std::make_shared<DelayedDevice>(1);
          spec.accelerator = [&](int) { return device; };
          spec.*where = [&](int rank, int64_t step) {
            if (rank == 1 && step == 1) device->fail_compute();
          };
          DigestOfRanks unused;
          verdicts[static_cast<size_t>(world.world_rank())] = train_odd_net(world, spec, &unused);
          return Status::ok();
        },
        WorldOptions{});
    EXPECT_TRUE(ran.is_ok()) << ran.to_string();
    EXPECT_FALSE(verdicts[1].is_ok());
    EXPECT_NE(verdicts[1].message().find("an illegal memory access"), std::string::npos)
        << verdicts[1].to_string();
    EXPECT_FALSE(verdicts[0].is_ok());
    EXPECT_NE(verdicts[0].message().find("rank 1"), std::string::npos) << verdicts[0].to_string();
  }
}

// Rank 1 stops between two steps. Rank 0 has handed over its parameters' all-gather and waits for
// it in the next forward, in a call that has no deadline.
TEST(OnADevice, AWaitOfLibTorchEndsWhenItsPeerFreezes) {
  std::vector<Status> verdicts(2);
  std::promise<void> rank_0_has_left;
  std::future<void> released = rank_0_has_left.get_future();
  const Stopwatch watch;
  Status ran = World::run_threads(
      2,
      [&](World& world) {
        const auto rank = static_cast<size_t>(world.world_rank());
        RunSpec spec;
        spec.timeout_s = 0.7;
        spec.before_update = [&](int world_rank, int64_t step) {
          if (world_rank == 1 && step == 1) released.wait();
        };
        DigestOfRanks unused;
        verdicts[rank] = train_odd_net(world, delayed(spec, 1), &unused);
        if (rank == 0) rank_0_has_left.set_value();
        return Status::ok();
      },
      WorldOptions{});
  EXPECT_TRUE(ran.is_ok()) << ran.to_string();
  EXPECT_LT(watch.elapsed_s(), 20);
  EXPECT_FALSE(verdicts[1].is_ok());
  const std::string& message = verdicts[0].message();
  EXPECT_EQ(verdicts[0].code(), StatusCode::kTimeout) << message;
  EXPECT_NE(message.find("rank 0, its call "), std::string::npos) << message;
  EXPECT_NE(message.find("from rank 1 "), std::string::npos) << message;
  EXPECT_NE(message.find("not done within 0.7 s"), std::string::npos) << message;
}

// Nobody waits for the last step's parameters but the end of the engine.
TEST(OnADevice, AModuleThatOutlivesItsEngineHasTheLastParameters) {
  const auto parameters_after = [](const RunSpec& base) {
    std::mutex mutex;
    std::vector<std::string> found;
    RunSpec spec = base;
    spec.after = [&](OddNet& net) {
      std::string bits;
      for (const at::Tensor& parameter : net->parameters()) {
        const at::Tensor dense = parameter.detach().contiguous();
        bits.append(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes());
      }
      std::lock_guard lock(mutex);
      found.push_back(std::move(bits));
    };
    digest_of(2, spec);
    return found;
  };
  RunSpec spec;
  spec.bucket_mib = 1e-3;  // a block
  const std::vector<std::string> host = parameters_after(spec);
  for (uint32_t seed : {1U, 2U, 3U}) EXPECT_EQ(parameters_after(delayed(spec, seed)), host);
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

TEST(DeviceQueue, AWaitHasADeadlineAndAName) {
  testing::ImmediateQueue queue;
  EXPECT_TRUE(queue.settle("what was done at once", Deadline::after_s(0)).is_ok());
  auto mark = std::make_shared<testing::DelayedMark>();
  const Stopwatch watch;
  const Status status = queue.wait_until(mark, "norms of a step", Deadline::after_s(0.2));
  EXPECT_GE(watch.elapsed_s(), 0.2);
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_EQ(status.message(), "norms of a step: the GPU was not done within 0.2 s");
  std::thread later([&] {
    sleep_ns(50'000'000);
    mark->pass();
  });
  EXPECT_TRUE(queue.wait_until(mark, "norms of a step", Deadline::after_s(20)).is_ok());
  later.join();
}

TEST(StagedMemory, HashesBehindWhatWasWrittenMoreThanTheDeviceKeepsAtOnce) {
  auto device = std::make_shared<DelayedDevice>(4);
  StagedMemory memory(device);
  // Three times what it hashes at once, the last block short.
  constexpr size_t kBlock = 512, kNumBlocks = 20'000;
  std::vector<std::byte> there(kNumBlocks * kBlock - 256), here(there.size());
  std::vector<uint64_t> hashes(kNumBlocks), expected(kNumBlocks);
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < here.size(); ++i)
      here[i] = static_cast<std::byte>(i / kBlock + i % 251 + static_cast<size_t>(round));
    for (size_t b = 0; b < kNumBlocks; ++b) {
      const size_t size = std::min(kBlock, here.size() - b * kBlock);
      expected[b] = xxh3_64(std::span<const std::byte>(here).subspan(b * kBlock, size));
    }
    memory.write(there, here);
    memory.read_block_hashes(hashes, there, kBlock);
    ASSERT_TRUE(memory.settle().is_ok());
    ASSERT_EQ(hashes, expected);
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
    // In pieces: some adjoin, on both sides or on one.
    std::iota(reinterpret_cast<uint8_t*>(there.data()),
              reinterpret_cast<uint8_t*>(there.data()) + there.size(), static_cast<uint8_t>(round));
    std::fill(here.begin(), here.end(), std::byte{0});
    constexpr size_t kPiece = 1000;
    const auto piece = [&](auto& bytes, size_t i) {
      return std::span(bytes).subspan(i * kPiece, kPiece);
    };
    for (size_t i : {0, 1, 2, 4, 5, 9}) memory.read(piece(here, i), piece(there, i));
    const CopyMark early = memory.mark();
    for (size_t i : {10, 11}) memory.read(piece(here, i), piece(there, i + 1));
    memory.read(piece(here, 12), piece(there, 0));
    ASSERT_TRUE(memory.settle(early).is_ok());
    for (size_t i : {0, 1, 2, 4, 5, 9})
      ASSERT_TRUE(std::ranges::equal(piece(here, i), piece(there, i)));
    ASSERT_EQ(here[3 * kPiece], std::byte{0});
    ASSERT_TRUE(memory.settle().is_ok());
    for (size_t i : {10, 11}) ASSERT_TRUE(std::ranges::equal(piece(here, i), piece(there, i + 1)));
    ASSERT_TRUE(std::ranges::equal(piece(here, 12), piece(there, 0)));
  }
  EXPECT_THROW(memory.read(here, std::span(there).first(5)), UsageError);
  EXPECT_THROW(memory.read_block_hashes({}, there, 256), UsageError);
  memory.pin(here);
  EXPECT_EQ(device->num_pinned(), 1U);
  memory.unpin(here);
  EXPECT_EQ(device->num_pinned(), 0U);
}

}  // namespace
}  // namespace lockstep
