// What a save calls itself when rank 0, the disk or the memory leaves it in doubt.

// Covers: save_protocol.cc checkpointer.cc
#include <gmock/gmock.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "forwarding_file_system.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

constexpr const char* kCommitted = "/run/checkpoints/gen-000001-step-0000000010";

/// Loses rank 0 as soon as one message of its rank is on its way.
class LosingPlane final : public ControlPlane {
 public:
  LosingPlane(ControlPlane& base, std::string after)
      : ControlPlane(base.world_rank(), base.world_size()), base_(base), after_(std::move(after)) {}

  Result<std::vector<std::string>> all_gather(std::string_view what, std::string message,
                                              Deadline deadline) override {
    auto gathered = base_.all_gather(what, std::move(message), deadline);
    if (what.ends_with(after_)) return peer_failure_error("rank 0 was lost");
    return gathered;
  }
  void begin_series() override { base_.begin_series(); }
  std::vector<int> lost_ranks() const override { return {0}; }
  Result<std::unique_ptr<ControlPlane>> split(std::string_view name, Deadline deadline) override {
    return base_.split(name, deadline);
  }
  Status shutdown(Deadline deadline) override { return base_.shutdown(deadline); }

 private:
  ControlPlane& base_;
  std::string after_;
};

struct Outcome {
  Status status;
  SaveOutcome outcome = SaveOutcome::kNone;
};

/// One save by two ranks that each have their own file system and plane. What each rank says.
std::vector<Outcome> save_with(const std::function<FileSystem&(int world_rank)>& fs_of,
                               const std::string& lost_after = "no message") {
  std::vector<Outcome> outcomes(2);
  TestState state(small_schema(), 1);
  const Status all = with_ranks(2, [&](World& world) -> Status {
    const int rank = world.world_rank();
    LosingPlane losing(world.control_plane(), lost_after);
    ControlPlane& plane = rank == 1 ? losing : world.control_plane();
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs_of(rank), plane)));
    const OwnedState owned = state.owned(rank, 2);
    SaveRequest request;
    request.schema = &state.schema();
    request.owned = &owned;
    request.step = 10;
    Outcome& mine = outcomes[static_cast<size_t>(rank)];
    mine.status = checkpointer.save(request).status();
    mine.outcome = checkpointer.last_outcome();
    return Status::ok();
  });
  EXPECT_TRUE(all.is_ok()) << all.message();
  return outcomes;
}

TEST(Outcome, ARankThatLosesRankZeroAfterSendingItsPartDoesNotKnow) {
  MemoryFileSystem fs;
  const auto outcomes = save_with([&](int) -> FileSystem& { return fs; }, "saving step 10: shards");
  EXPECT_EQ(outcomes[1].status.code(), StatusCode::kPeerFailure);
  EXPECT_EQ(outcomes[1].outcome, SaveOutcome::kUnknown);
  EXPECT_THAT(outcomes[1].status.message(), HasSubstr("may or may not"));
  EXPECT_TRUE(exists(fs, kCommitted).value()) << "rank 0 had all it needed";
}

TEST(Outcome, ARankThatLosesRankZeroBeforeKnowsThatItFailed) {
  MemoryFileSystem fs;
  const auto outcomes =
      save_with([&](int) -> FileSystem& { return fs; }, "saving step 10: shards written");
  EXPECT_EQ(outcomes[1].outcome, SaveOutcome::kFailed);
  EXPECT_FALSE(exists(fs, kCommitted).value());
}

/// Renames, then reports an error, as a network file system may; or reports it and did nothing.
class LyingRename final : public ForwardingFileSystem {
 public:
  LyingRename(FileSystem& base, bool does_it) : ForwardingFileSystem(base), does_it_(does_it) {}
  Status rename(const std::string& from, const std::string& to) override {
    if (does_it_) LOCKSTEP_RETURN_IF_ERROR(base_.rename(from, to));
    return io_error("rename: connection lost");
  }

 private:
  bool does_it_;
};

TEST(Outcome, ARenameThatReportsAnErrorMayHaveHappened) {
  MemoryFileSystem fs;
  LyingRename lying(fs, /*does_it=*/true);
  for (const Outcome& outcome : save_with([&](int) -> FileSystem& { return lying; })) {
    EXPECT_EQ(outcome.status.code(), StatusCode::kIoError);
    EXPECT_EQ(outcome.outcome, SaveOutcome::kUnknown);
    EXPECT_THAT(outcome.status.message(), HasSubstr("is unknown"));
  }
  TestState read(small_schema(), 0);
  EXPECT_TRUE(restore_state(fs, 1, read)->has_value()) << "nobody took it away";
}

TEST(Outcome, ARenameThatDidNotHappenIsAFailure) {
  MemoryFileSystem fs;
  LyingRename lying(fs, /*does_it=*/false);
  for (const Outcome& outcome : save_with([&](int) -> FileSystem& { return lying; })) {
    EXPECT_EQ(outcome.outcome, SaveOutcome::kFailed);
  }
  EXPECT_TRUE(fs.list("/run/checkpoints")->empty()) << "its partial folder is gone";
}

/// Runs out of memory when a shard is opened.
class NoMemory final : public ForwardingFileSystem {
 public:
  using ForwardingFileSystem::ForwardingFileSystem;
  Result<std::unique_ptr<WritableFile>> open_write(const std::string& path,
                                                   OpenMode mode) override {
    if (path.ends_with(".safetensors")) throw std::bad_alloc();
    return base_.open_write(path, mode);
  }
  Result<std::unique_ptr<BulkWritableFile>> create_bulk(const std::string&,
                                                        const BulkOptions&) override {
    throw std::bad_alloc();
  }
  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
    if (path.ends_with(".safetensors")) throw std::bad_alloc();
    return base_.open_read(path);
  }
};

TEST(Outcome, ARankWithoutMemoryForItsShardSaysSoToAll) {
  MemoryFileSystem fs;
  NoMemory no_memory(fs);
  const auto outcomes = save_with([&](int rank) -> FileSystem& {
    return rank == 1 ? no_memory : static_cast<FileSystem&>(fs);
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.status.code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(outcome.status.message(), HasSubstr("rank 1"));
    EXPECT_EQ(outcome.outcome, SaveOutcome::kFailed);
  }
}

TEST(Outcome, ARankZeroWithoutMemoryForTheTablesSaysSoToAll) {
  MemoryFileSystem fs;
  class OnlyReads final : public ForwardingFileSystem {
   public:
    using ForwardingFileSystem::ForwardingFileSystem;
    Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
      if (path.ends_with(".safetensors")) throw std::bad_alloc();
      return base_.open_read(path);
    }
  } no_memory(fs);
  for (const Outcome& outcome : save_with([&](int) -> FileSystem& { return no_memory; })) {
    EXPECT_EQ(outcome.status.code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(outcome.outcome, SaveOutcome::kFailed);
  }
}

TEST(Outcome, ARankWithoutMemoryToReadSaysSoToAll) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  ASSERT_TRUE(save_state(fs, 2, state, 10).is_ok());
  NoMemory no_memory(fs);
  std::vector<Status> statuses(2);
  TestState read(small_schema(), 0);
  const Status all = with_ranks(2, [&](World& world) -> Status {
    const int rank = world.world_rank();
    FileSystem& own = rank == 1 ? static_cast<FileSystem&>(no_memory) : fs;
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(own, world.control_plane())));
    const OwnedState into = read.owned(rank, 2);
    statuses[static_cast<size_t>(rank)] =
        checkpointer.restore(restore_request_of(read, into)).status();
    return Status::ok();
  });
  EXPECT_TRUE(all.is_ok()) << all.message();
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(status.message(), HasSubstr("rank 1"));
  }
  EXPECT_TRUE(exists(fs, kCommitted).value());
}

/// Thrown where a rank is stopped for good.
struct Stopped : std::runtime_error {
  Stopped() : std::runtime_error("stopped") {}
};

TEST(Outcome, IsRightWhicheverNumberedStepIsTheLast) {
  MemoryFileSystem disk;
  TestState before(small_schema(), 1);
  TestState after(small_schema(), 2);
  ASSERT_TRUE(save_state(disk, 2, before, 10).is_ok());
  disk.crash_keeping_all();
  for (int last_step = 1; last_step <= 9; ++last_step) {
    for (int culprit : {0, 1}) {
      const auto copy = disk.after_crash({});
      std::vector<std::vector<int>> seen(2);
      std::vector<SaveOutcome> outcomes(2, SaveOutcome::kNone);
      EXPECT_THROW(with_ranks(2,
                              [&](World& world) -> Status {
                                CheckpointerOptions options =
                                    quiet_options(*copy, world.control_plane());
                                options.on_save_step = [&](int step, int world_rank) {
                                  seen[static_cast<size_t>(world_rank)].push_back(step);
                                  // Only rank 0 runs 5 to 7 and 9.
                                  const bool is_shared = step <= 4 || step == 8;
                                  if (step >= last_step && world_rank == (is_shared ? culprit : 0))
                                    throw Stopped();
                                };
                                auto checkpointer = Checkpointer::open(options);
                                const OwnedState owned = after.owned(world.world_rank(), 2);
                                SaveRequest request;
                                request.schema = &after.schema();
                                request.owned = &owned;
                                request.step = 20;
                                const auto saved = checkpointer->save(request);
                                outcomes[static_cast<size_t>(world.world_rank())] =
                                    checkpointer->last_outcome();
                                return saved.status();
                              })
                       .is_ok(),
                   Stopped);
      EXPECT_TRUE(std::is_sorted(seen[0].begin(), seen[0].end()));
      if (culprit == 0 && last_step >= 5 && last_step <= 8) {
        EXPECT_EQ(outcomes[1], SaveOutcome::kUnknown);
      }
      if (culprit == 0 && last_step <= 4) {
        EXPECT_EQ(outcomes[1], SaveOutcome::kFailed);
      }
      copy->crash_losing_all();
      TestState read(small_schema(), 0);
      const auto restored = restore_state(*copy, 1, read);
      ASSERT_TRUE(restored.is_ok()) << restored.status().message();
      EXPECT_TRUE((last_step < 9 && read == before) || read == after)
          << "step " << last_step << " of rank " << culprit;
    }
  }
}

}  // namespace
}  // namespace lockstep
