// Saving and restoring when nothing goes wrong, and the requests that are refused.
// Covers: staging.cc read_plan.cc save_protocol.cc restore.cc checkpointer.cc live_digest.cc
// Covers: collective.cc manifest_check.cc
#include <gmock/gmock.h>

#include "lockstep/checkpoint/manifest.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

TEST(SaveRestore, EveryWorldReadsEveryOther) {
  for (int saved_at = 1; saved_at <= 8; ++saved_at) {
    MemoryFileSystem fs;
    TestState saved(medium_schema(), 7);
    const auto report = save_state(fs, saved_at, saved, 100);
    ASSERT_TRUE(report.is_ok()) << report.status().message();
    EXPECT_EQ(report->state_digest, saved.digest(some_scalars(100)));
    for (int read_at = 1; read_at <= 8; ++read_at) {
      TestState read(medium_schema(), 0);
      const auto restored = restore_state(fs, read_at, read);
      ASSERT_TRUE(restored.is_ok()) << restored.status().message();
      ASSERT_TRUE(restored->has_value());
      EXPECT_TRUE(read == saved) << saved_at << " -> " << read_at;
      EXPECT_EQ(read.digest((*restored)->scalars), report->state_digest);
    }
  }
}

TEST(SaveRestore, BringsBackAllThatWasSaid) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 3);
  ASSERT_TRUE(save_state(fs, 2, state, 40).is_ok());
  const auto restored = restore_state(fs, 1, state);
  ASSERT_TRUE(restored.is_ok()) << restored.status().message();
  const Restored& found = restored->value();
  EXPECT_EQ(found.step, 40);
  EXPECT_EQ(found.epoch, 4);
  EXPECT_EQ(found.generation, 1);
  EXPECT_EQ(found.saved_world_size, 2);
  EXPECT_EQ(found.saved_attempt, 1);
  EXPECT_EQ(found.seed, 0xfeedfacecafebeefULL);
  EXPECT_EQ(found.scalars, some_scalars(40));
  EXPECT_EQ(found.metrics.at("loss"), 1.0 / 40);
  EXPECT_EQ(found.recipe_text, "[train]\nseed = 1\n");
  EXPECT_EQ(found.build.versions.at("torch"), "2.11.0");
  EXPECT_EQ(found.path, "/run/checkpoints/gen-000001-step-0000000040");
}

TEST(BuildIdentity, EachDifferenceIsOneText) {
  const BuildIdentity then{"avx2", {{"LibTorch", "2.10.0"}, {"NCCL", "2.28"}, {"lockstep", "1"}}};
  EXPECT_TRUE(then.differences_to(then).empty());
  const BuildIdentity now{"avx512", {{"GPU", "H200"}, {"LibTorch", "2.11.0"}, {"lockstep", "1"}}};
  EXPECT_EQ(then.differences_to(now),
            (std::vector<std::string>{"instruction set avx2, now avx512", "GPU none, now H200",
                                      "LibTorch 2.10.0, now 2.11.0", "NCCL 2.28, now none"}));
}

TEST(SaveRestore, GenerationsGoOnWhenAStepIsSavedAgain) {
  MemoryFileSystem fs;
  TestState first(small_schema(), 1);
  TestState second(small_schema(), 2);
  ASSERT_TRUE(save_state(fs, 1, first, 20).is_ok());
  ASSERT_TRUE(save_state(fs, 1, second, 10).is_ok());  // as after a rollback
  TestState read(small_schema(), 0);
  const auto restored = restore_state(fs, 2, read);
  EXPECT_EQ(restored->value().generation, 2);
  EXPECT_EQ(restored->value().step, 10);
  EXPECT_TRUE(read == second);
}

TEST(SaveRestore, AnEmptyRunStartsFromNothing) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  const auto restored = restore_state(fs, 3, state);
  ASSERT_TRUE(restored.is_ok()) << restored.status().message();
  EXPECT_FALSE(restored->has_value());
}

TEST(SaveRestore, ReplicatedBytesAreWrittenOnce) {
  for (int num_ranks : {1, 4, 8}) {
    MemoryFileSystem fs;
    TestState state(medium_schema(), 5);
    const auto report = save_state(fs, num_ranks, state, 1);
    uint64_t unique = 0;
    for (size_t k = 0; k < state.schema().kinds.size(); ++k) unique += state.kind(k).size();
    uint64_t on_disk = 0;
    for (const auto& [path, content] : all_files(fs, report->path)) on_disk += content.size();
    EXPECT_GE(report->total_bytes, unique);
    // One page of header a shard, 8 bytes a block, the manifest.
    EXPECT_LT(on_disk, unique + static_cast<uint64_t>(num_ranks) * 4096 + 24000);
  }
}

TEST(SaveRestore, NeverIsRefusedWhereCheckpointsAre) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  ASSERT_TRUE(save_state(fs, 2, state, 5).is_ok());
  const auto never = [](RestoreRequest& request) { request.mode = ResumeMode::kNever; };
  const auto refused = restore_state(fs, 2, state, never);
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("--overwrite"));

  const auto overwrite = [](CheckpointerOptions& options) { options.overwrite = true; };
  const auto moved = restore_state(fs, 2, state, never, overwrite);
  ASSERT_TRUE(moved.is_ok()) << moved.status().message();
  EXPECT_FALSE(moved->has_value());
  EXPECT_TRUE(exists(fs, "/run/checkpoints-aside-a0003/gen-000001-step-0000000005").value());
  EXPECT_FALSE(restore_state(fs, 1, state)->has_value());
  EXPECT_EQ(save_state(fs, 1, state, 1)->generation, 2) << "no number is used again";
}

TEST(SaveRestore, APathIsDurableOnceItWasRead) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  const std::string path = save_state(fs, 1, state, 5)->path;
  ASSERT_TRUE(fs.make_dir("/elsewhere").is_ok() && fs.sync_dir("/").is_ok());
  ASSERT_TRUE(fs.rename(path, "/elsewhere/gen-000001-step-0000000005").is_ok());
  const auto by_path = [&](RestoreRequest& request) {
    request.mode = ResumeMode::kPath;
    request.path = "/elsewhere/gen-000001-step-0000000005";
  };
  ASSERT_TRUE(restore_state(fs, 1, state, by_path).is_ok());
  fs.crash_losing_all();
  EXPECT_TRUE(exists(fs, "/elsewhere/gen-000001-step-0000000005/manifest.json").value());
}

TEST(SaveRestore, PartsThatAreNotTheWholeStateAreRefused) {
  MemoryFileSystem fs;
  TestState state(medium_schema(), 1);
  ASSERT_TRUE(save_state(fs, 2, state, 5).is_ok());
  for (bool twice : {false, true}) {
    TestState read(medium_schema(), 0);
    const Status status = with_ranks(2, [&](World& world) -> Status {
      LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                                Checkpointer::open(quiet_options(fs, world.control_plane())));
      OwnedState into = read.owned(world.world_rank(), 2);
      if (world.world_rank() == 1) into.slices.pop_back();
      if (twice) into = read.owned(0, 1);
      return checkpointer.restore(restore_request_of(read, into)).status();
    });
    EXPECT_EQ(status.code(), StatusCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr("do not take each block once"));
    EXPECT_TRUE(read == TestState(medium_schema(), 0)) << "nothing was read";
  }
}

TEST(SaveRestore, APathIsTakenAsItIs) {
  MemoryFileSystem fs;
  TestState first(small_schema(), 1);
  TestState second(small_schema(), 2);
  const std::string path = save_state(fs, 2, first, 5)->path;
  ASSERT_TRUE(save_state(fs, 2, second, 6).is_ok());
  TestState read(small_schema(), 0);
  const auto by_path = [&](RestoreRequest& request) {
    request.mode = ResumeMode::kPath;
    request.path = path;
  };
  EXPECT_EQ(restore_state(fs, 1, read, by_path)->value().step, 5);
  EXPECT_TRUE(read == first);
}

TEST(SaveRestore, AnotherModelIsRefusedWithEachDifference) {
  MemoryFileSystem fs;
  TestState state(medium_schema(), 1);
  ASSERT_TRUE(save_state(fs, 1, state, 5).is_ok());
  TestState other(small_schema(), 0);
  const auto refused = restore_state(fs, 2, other);
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(),
              HasSubstr("missing: weight: the model has trainable.F32 [16, 17]"));
  EXPECT_THAT(refused.status().message(), HasSubstr("unexpected: embed.weight"));
  EXPECT_TRUE(exists(fs, "/run/checkpoints/gen-000001-step-0000000005").value());
}

/// Medium_schema() with its last two kinds of one space exchanged: the optimizer's slots, which
/// have one size.
StateSchema with_slots_exchanged() {
  StateSchema schema = medium_schema();
  LOCKSTEP_CHECK(
      schema.kinds[1].kind == "adamw.exp_avg" && schema.kinds[2].kind == "adamw.exp_avg_sq",
      "the slots of medium_schema()");
  std::swap(schema.kinds[1], schema.kinds[2]);
  return schema;
}

TEST(SaveRestore, SlotsAreFoundByNameWhateverTheirOrder) {
  MemoryFileSystem fs;
  TestState saved(medium_schema(), 7);
  ASSERT_TRUE(save_state(fs, 3, saved, 1).is_ok());
  for (int read_at : {1, 2}) {
    TestState read(with_slots_exchanged(), 0);
    const auto restored = restore_state(fs, read_at, read);
    ASSERT_TRUE(restored.is_ok()) << restored.status().message();
    std::swap(read.kind(1), read.kind(2));  // back to the order of medium_schema()
    EXPECT_TRUE(read == saved);
  }
}

TEST(SaveRestore, KindsThatAreNotListedSpaceBySpaceAreRefused) {
  MemoryFileSystem fs;
  StateSchema schema = medium_schema();
  std::swap(schema.kinds.front(), schema.kinds.back());
  TestState state(schema, 1);
  const auto refused = save_state(fs, 2, state, 1);
  EXPECT_EQ(refused.status().code(), StatusCode::kInternal);
  EXPECT_THAT(refused.status().message(), HasSubstr("space by space"));
  EXPECT_THAT(all_files(fs, "/run/checkpoints"), ::testing::IsEmpty());
}

TEST(SaveRestore, AnotherRecipeIsRefusedUnlessItsKeysAreAllowed) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  ASSERT_TRUE(save_state(fs, 1, state, 5).is_ok());
  const auto differ = [](std::vector<std::string> allowed) {
    return [allowed](RestoreRequest& request) {
      request.differing_keys = [](const std::string& saved, const std::string&) {
        EXPECT_EQ(saved, "[train]\nseed = 1\n");
        return Result<std::vector<std::string>>(
            std::vector<std::string>{"train.seed", "optimizer.name"});
      };
      request.allowed_recipe_changes = allowed;
    };
  };
  const auto refused = restore_state(fs, 2, state, differ({"train.seed"}));
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("these keys differ: optimizer.name."));
  EXPECT_TRUE(restore_state(fs, 2, state, differ({"train.seed", "optimizer.name"})).is_ok());
}

TEST(SaveRestore, RanksThatDoNotOwnEachBlockOnceAreRefused) {
  MemoryFileSystem fs;
  TestState state(medium_schema(), 1);
  const Status status = with_ranks(2, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    const OwnedState owned = state.owned(0, 2);  // both own the same half
    SaveRequest request;
    request.schema = &state.schema();
    request.owned = &owned;
    request.step = 1;
    const auto saved = checkpointer.save(request);
    EXPECT_EQ(checkpointer.last_outcome(), SaveOutcome::kFailed);
    return saved.status();
  });
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("is in"));
  EXPECT_THAT(all_files(fs, "/run/checkpoints"), ::testing::IsEmpty());
}

/// One save by one rank after `change`. Nothing of a refused one may be left.
Status save_changed(TestState& state, const std::function<void(SaveRequest&)>& change) {
  MemoryFileSystem fs;
  const Status status = with_ranks(1, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    const OwnedState owned = state.owned(0, 1);
    SaveRequest request;
    request.schema = &state.schema();
    request.owned = &owned;
    change(request);
    const auto saved = checkpointer.save(request);
    EXPECT_EQ(checkpointer.last_outcome(),
              saved.is_ok() ? SaveOutcome::kDurable : SaveOutcome::kFailed);
    return saved.status();
  });
  EXPECT_EQ(all_files(fs, "/run/checkpoints").empty(), !status.is_ok());
  return status;
}

TEST(SaveRestore, WhatCouldNotBeReadAgainIsRefused) {
  TestState state(small_schema(), 1);
  const auto none = [](SaveRequest&) {};
  EXPECT_TRUE(save_changed(state, none).is_ok());
  const std::string not_utf8 = "a\xff";
  const auto expect_refused = [&](TestState& of, const std::function<void(SaveRequest&)>& change,
                                  const char* member) {
    const Status refused = save_changed(of, change);
    EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument) << member;
    EXPECT_THAT(refused.message(), HasSubstr(member));
  };
  expect_refused(
      state,
      [&](SaveRequest& r) {
        r.scalars = {{"user", not_utf8}};
      },
      "scalars");
  expect_refused(
      state,
      [&](SaveRequest& r) {
        r.scalars = {{not_utf8, int64_t{1}}};
      },
      "scalars");
  expect_refused(
      state,
      [&](SaveRequest& r) {
        r.metrics = {{not_utf8, 1.0}};
      },
      "metrics");
  expect_refused(
      state, [&](SaveRequest& r) { r.recipe_text = not_utf8; }, "recipe_text");
  expect_refused(
      state, [&](SaveRequest& r) { r.recipe_hash = not_utf8; }, "recipe_hash");
  expect_refused(
      state, [](SaveRequest& r) { r.epoch = int64_t{1} << 53; }, "epoch");
  expect_refused(
      state, [](SaveRequest& r) { r.epoch = -1; }, "epoch");
  for (const char* kind : {"sgd/momentum", "sgd@1"}) {
    StateSchema schema = small_schema();
    schema.kinds[1].kind = kind;
    TestState other(schema, 1);
    expect_refused(other, none, "kinds");
  }
  EXPECT_THROW(save_changed(state, [](SaveRequest& r) { r.step = -1; }).is_ok(), UsageError);
}

TEST(SaveRestore, ADiskThatIsNotSharedIsSaidSo) {
  MemoryFileSystem shared;
  MemoryFileSystem own;
  ASSERT_TRUE(make_dirs_durable(own, "/run/checkpoints").is_ok());
  TestState state(small_schema(), 1);
  const Status status = with_ranks(2, [&](World& world) -> Status {
    FileSystem& fs = world.world_rank() == 1 ? static_cast<FileSystem&>(own) : shared;
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    const OwnedState owned = state.owned(world.world_rank(), 2);
    SaveRequest request;
    request.schema = &state.schema();
    request.owned = &owned;
    return checkpointer.save(request).status();
  });
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_THAT(status.message(), HasSubstr("rank 1"));
  EXPECT_THAT(status.message(), HasSubstr("must be on a disk that all hosts share"));
}

TEST(SaveRestore, TheStagingMemoryIsKeptForTheNextSave) {
  MemoryFileSystem fs;
  TestState state(medium_schema(), 1);
  const Status status = with_ranks(1, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    const OwnedState owned = state.owned(0, 1);
    SaveRequest request;
    request.schema = &state.schema();
    request.owned = &owned;
    std::vector<SaveReport> reports;
    for (int64_t step : {1, 2}) {
      request.step = step;
      LOCKSTEP_ASSIGN_OR_RETURN(SaveReport report, checkpointer.save(request));
      reports.push_back(report);
    }
    EXPECT_EQ(reports[0].staging_bytes, reports[1].staging_bytes);
    EXPECT_EQ(reports[1].generation, 2);
    EXPECT_EQ(checkpointer.last_outcome(), SaveOutcome::kDurable);
    return read_manifest(fs, reports[1].path, nullptr)->parent_generation == 1
               ? Status::ok()
               : internal_error("parent");
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

TEST(LiveDigest, IsTheOneThatACheckpointWouldName) {
  TestState state(medium_schema(), 9);
  for (int num_ranks : {1, 3, 8}) {
    const Status status = with_ranks(num_ranks, [&](World& world) -> Status {
      const OwnedState owned = state.owned(world.world_rank(), num_ranks);
      LOCKSTEP_ASSIGN_OR_RETURN(const Hash128 digest,
                                live_state_digest(world.control_plane(), state.schema(), owned,
                                                  some_scalars(1), Deadline::after_s(20)));
      EXPECT_EQ(digest, state.digest(some_scalars(1)));
      return Status::ok();
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

TEST(LiveDigest, NoticesOneFlippedBitAnywhere) {
  TestState state(small_schema(), 9);
  const Hash128 before = state.digest({});
  for (size_t k = 0; k < state.schema().kinds.size(); ++k) {
    for (std::byte& byte : state.kind(k)) {
      byte ^= std::byte{4};
      EXPECT_NE(state.digest({}), before);
      byte ^= std::byte{4};
    }
  }
}

}  // namespace
}  // namespace lockstep
