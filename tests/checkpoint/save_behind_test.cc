// A save that goes on behind training: what it holds, when it ends, and what a failure does.
// Covers: checkpointer.cc save_protocol.cc shard_writer.cc staging.cc
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>

#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

/// What training does to the state while it is being written.
void overwrite(const OwnedState& owned) {
  for (const StateSlice& slice : owned.slices) {
    std::fill(slice.bytes.begin(), slice.bytes.end(), std::byte{0xee});
  }
}

TEST(SaveBehind, HoldsTheStateOfItsStart) {
  for (int num_ranks : {1, 3}) {
    MemoryFileSystem fs;
    TestState state(medium_schema(), 5);
    const TestState expected(medium_schema(), 5);
    const Status status = with_ranks(num_ranks, [&](World& world) -> Status {
      LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                                Checkpointer::open(quiet_options(fs, world.control_plane())));
      {
        const OwnedState owned = state.owned(world.world_rank(), num_ranks);
        checkpointer.start_save(request_of(state, owned, 10));
        overwrite(owned);
      }
      EXPECT_TRUE(checkpointer.is_saving());
      const auto report = checkpointer.finish_save();
      EXPECT_FALSE(checkpointer.is_saving());
      LOCKSTEP_RETURN_IF_ERROR(report.status());
      EXPECT_EQ(checkpointer.last_outcome(), SaveOutcome::kDurable);
      EXPECT_EQ(report->state_digest, expected.digest(some_scalars(10)));
      return checkpointer.close();
    });
    ASSERT_TRUE(status.is_ok()) << status.message();
    TestState read(medium_schema(), 0);
    const auto restored = restore_state(fs, 2, read);
    ASSERT_TRUE(restored.is_ok()) << restored.status().message();
    EXPECT_TRUE(read == expected);
  }
}

TEST(SaveBehind, WritesTheSameFilesAsASaveInFront) {
  MemoryFileSystem in_front, behind;
  TestState state(medium_schema(), 9);
  ASSERT_TRUE(save_state(in_front, 3, state, 20).is_ok());
  ASSERT_TRUE(save_state(behind, 3, state, 20, {}, SaveMode::kBehind).is_ok());
  const auto expected = all_files(in_front, "/run/checkpoints");
  auto found = all_files(behind, "/run/checkpoints");
  EXPECT_EQ(found.size(), expected.size());
  for (const auto& [path, bytes] : expected) {
    if (path.ends_with("manifest.json")) continue;  // it has the time
    EXPECT_EQ(found[path], bytes) << path;
  }
}

/// Buffers for two pieces of a page each: the state passes through them.
void stage_through_two_pages(CheckpointerOptions& options) {
  options.staging_piece_bytes = kBulkAlignBytes;
  options.staging_budget_bytes = 2 * kBulkAlignBytes;
}

TEST(SaveBehind, ABudgetSmallerThanTheStateWritesTheSameFiles) {
  MemoryFileSystem whole;
  TestState state(medium_schema(), 9);
  ASSERT_TRUE(save_state(whole, 3, state, 20).is_ok());
  const auto expected = all_files(whole, "/run/checkpoints");
  for (SaveMode mode : {SaveMode::kInFront, SaveMode::kBehind}) {
    MemoryFileSystem fs;
    const auto report = save_state(fs, 3, state, 20, stage_through_two_pages, mode);
    ASSERT_TRUE(report.is_ok()) << report.status().message();
    EXPECT_LT(report->staging_bytes, 3 * kBulkAlignBytes);  // with the checksum table
    auto found = all_files(fs, "/run/checkpoints");
    for (const auto& [path, bytes] : expected) {
      if (path.ends_with("manifest.json")) continue;  // it has the time
      EXPECT_EQ(found[path], bytes) << path;
    }
  }
}

TEST(SaveBehind, ABudgetSmallerThanTheStateHoldsTheStateOfItsStart) {
  MemoryFileSystem fs;
  TestState state(medium_schema(), 5);
  const TestState expected(medium_schema(), 5);
  const Status status = with_ranks(2, [&](World& world) -> Status {
    CheckpointerOptions options = quiet_options(fs, world.control_plane());
    stage_through_two_pages(options);
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    const OwnedState owned = state.owned(world.world_rank(), 2);
    checkpointer.start_save(request_of(state, owned, 10));
    overwrite(owned);
    const auto report = checkpointer.finish_save();
    LOCKSTEP_RETURN_IF_ERROR(report.status());
    EXPECT_EQ(report->state_digest, expected.digest(some_scalars(10)));
    return checkpointer.close();
  });
  ASSERT_TRUE(status.is_ok()) << status.message();
}

TEST(SaveBehind, AnErrorAtAnyWriteLetsTrainingGoOn) {
  TestState state(medium_schema(), 1);
  for (FileOperation operation : {FileOperation::kMakeDir, FileOperation::kOpenWrite,
                                  FileOperation::kWrite, FileOperation::kTruncate}) {
    for (uint64_t nth : {1, 2, 5, 17}) {
      MemoryFileSystem disk;
      const Status status = with_ranks(2, [&](World& world) -> Status {
        FaultFileSystem fs(disk);
        CheckpointerOptions options = quiet_options(fs, world.control_plane());
        stage_through_two_pages(options);
        LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
        const OwnedState owned = state.owned(world.world_rank(), 2);
        if (world.world_rank() == 0) fs.fail_nth(operation, nth, io_error("EIO"));
        checkpointer.start_save(request_of(state, owned, 10));
        const Status first = checkpointer.finish_save().status();
        EXPECT_EQ(checkpointer.last_outcome(),
                  first.is_ok() ? SaveOutcome::kDurable : SaveOutcome::kFailed);
        fs.clear_faults();
        checkpointer.start_save(request_of(state, owned, 20));
        return checkpointer.finish_save().status();
      });
      ASSERT_TRUE(status.is_ok()) << status.message();
    }
  }
}

TEST(SaveBehind, KeepsToTheRateItWasGiven) {
  MemoryFileSystem fs;
  TestState state(medium_schema(), 1);
  const auto report = save_state(
      fs, 1, state, 10,
      [](CheckpointerOptions& options) { options.max_write_bytes_per_s = 4 << 20; },
      SaveMode::kBehind);
  ASSERT_TRUE(report.is_ok()) << report.status().message();
  const double least_s = static_cast<double>(report->own_bytes) / (4 << 20) * 0.9;
  EXPECT_GT(report->write_ms * 1e-3, least_s);
}

TEST(SaveBehind, TrainingGoesOnWhileItIsWritten) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  std::atomic<bool> may_commit = false;
  const Status status = with_ranks(2, [&](World& world) -> Status {
    CheckpointerOptions options = quiet_options(fs, world.control_plane());
    options.on_save_step = [&](int step, int) {
      while (step == 7 && !may_commit) sleep_ns(1'000'000);
    };
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    const OwnedState owned = state.owned(world.world_rank(), 2);
    checkpointer.start_save(request_of(state, owned, 10));
    EXPECT_FALSE(checkpointer.has_save_ended());
    if (world.world_rank() == 0) may_commit = true;
    const Deadline deadline = Deadline::after_s(20);
    while (!checkpointer.has_save_ended() && !deadline.has_passed()) sleep_ns(1'000'000);
    EXPECT_TRUE(checkpointer.has_save_ended());
    return checkpointer.finish_save().status();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

TEST(SaveBehind, AFailureIsToldToEveryRankAndTheNextSaveGoesWell) {
  MemoryFileSystem disk;
  TestState state(small_schema(), 1);
  ASSERT_TRUE(save_state(disk, 3, state, 10).is_ok());
  const Status status = with_ranks(3, [&](World& world) -> Status {
    FaultFileSystem fs(disk);
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    const OwnedState owned = state.owned(world.world_rank(), 3);
    if (world.world_rank() == 1) {
      fs.fail_nth(FileOperation::kSync, 1, resource_exhausted_error("no space left"));
    }
    checkpointer.start_save(request_of(state, owned, 20));
    const Status failed = checkpointer.finish_save().status();
    EXPECT_EQ(failed.code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(failed.message(), HasSubstr("rank 1"));
    EXPECT_EQ(checkpointer.last_outcome(), SaveOutcome::kFailed);
    checkpointer.start_save(request_of(state, owned, 30));
    return checkpointer.finish_save().status();
  });
  ASSERT_TRUE(status.is_ok()) << status.message();
  TestState read(small_schema(), 0);
  const auto restored = restore_state(disk, 1, read);
  ASSERT_TRUE(restored.is_ok()) << restored.status().message();
  EXPECT_EQ((*restored)->step, 30);
}

TEST(SaveBehind, OneAtATime) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  const Status status = with_ranks(1, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    EXPECT_THROW(checkpointer.finish_save().status().ignore(), UsageError);
    const OwnedState owned = state.owned(0, 1);
    const SaveRequest request = request_of(state, owned, 10);
    checkpointer.start_save(request);
    EXPECT_THROW(checkpointer.start_save(request), UsageError);
    EXPECT_THROW(checkpointer.save(request).status().ignore(), UsageError);
    EXPECT_THROW(checkpointer.restore(restore_request_of(state, owned)).status().ignore(),
                 UsageError);
    return checkpointer.finish_save().status();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

}  // namespace
}  // namespace lockstep
