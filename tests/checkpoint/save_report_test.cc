// What a save tells of itself: every rank's part, on every rank, and how far a failed one came.
// Covers: save_protocol.cc checkpointer.cc
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

uint64_t bytes_of(const OwnedState& owned) {
  uint64_t bytes = 0;
  for (const StateSlice& slice : owned.slices) bytes += slice.bytes.size();
  return bytes;
}

TEST(SaveReport, TellsEveryRanksPartOnEveryRank) {
  for (SaveMode mode : {SaveMode::kInFront, SaveMode::kBehind}) {
    MemoryFileSystem fs;
    TestState state(medium_schema(), 5);
    std::vector<SaveReport> reports(3);
    uint64_t unique_bytes = 0;
    for (int rank = 0; rank < 3; ++rank) unique_bytes += bytes_of(state.owned(rank, 3));
    const Status status = with_ranks(3, [&](World& world) -> Status {
      LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                                Checkpointer::open(quiet_options(fs, world.control_plane())));
      const OwnedState owned = state.owned(world.world_rank(), 3);
      SaveReport& report = reports[static_cast<size_t>(world.world_rank())];
      if (mode == SaveMode::kBehind) {
        checkpointer.start_save(request_of(state, owned, 10));
        LOCKSTEP_ASSIGN_OR_RETURN(report, checkpointer.finish_save());
      } else {
        LOCKSTEP_ASSIGN_OR_RETURN(report, checkpointer.save(request_of(state, owned, 10)));
      }
      EXPECT_EQ(checkpointer.last_report().path, report.path);
      return Status::ok();
    });
    ASSERT_TRUE(status.is_ok()) << status.message();
    for (const SaveReport& report : reports) {
      EXPECT_EQ(report.reached, SaveProgress::kDurable);
      EXPECT_EQ(report.unique_bytes, unique_bytes);
      EXPECT_GE(report.total_bytes, unique_bytes);
      ASSERT_EQ(report.ranks.size(), 3u);
      uint64_t total = 0;
      for (size_t rank = 0; rank < 3; ++rank) {
        const RankSaveReport& told = report.ranks[rank];
        const SaveReport& own = reports[rank];
        EXPECT_EQ(told.bytes, own.own_bytes);
        EXPECT_NEAR(told.stage_ms, own.stage_ms, 1e-3);
        EXPECT_NEAR(told.write_ms, own.write_ms, 1e-3);
        EXPECT_NEAR(told.sync_ms, own.sync_ms, 1e-3);
        total += told.bytes;
      }
      EXPECT_EQ(report.total_bytes, total);
    }
  }
}

TEST(SaveReport, OfAFailedSaveSaysHowFarItCame) {
  // The sync of a shard; a sync of rank 0 once the shards are voted on.
  for (const bool after_vote : {false, true}) {
    MemoryFileSystem disk;
    TestState state(small_schema(), 1);
    const Status status = with_ranks(2, [&](World& world) -> Status {
      FaultFileSystem fs(disk);
      CheckpointerOptions options = quiet_options(fs, world.control_plane());
      options.on_save_step = [&](int step, int world_rank) {
        if (world_rank == 0 && step == (after_vote ? 5 : 3))
          fs.fail_nth(FileOperation::kSync, 1, io_error("no luck"));
      };
      LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
      EXPECT_EQ(checkpointer.last_report().reached, SaveProgress::kNothing);
      const OwnedState owned = state.owned(world.world_rank(), 2);
      EXPECT_EQ(checkpointer.save(request_of(state, owned, 10)).status().code(),
                StatusCode::kIoError);
      EXPECT_EQ(checkpointer.last_outcome(), SaveOutcome::kFailed);
      EXPECT_EQ(checkpointer.last_report().reached,
                after_vote ? SaveProgress::kWritten : SaveProgress::kStaged);
      EXPECT_EQ(checkpointer.last_report().ranks.size(), after_vote ? 2u : 0u);
      return Status::ok();
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

}  // namespace
}  // namespace lockstep
