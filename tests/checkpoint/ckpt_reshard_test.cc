#include "ckpt_reshard.h"

#include <gmock/gmock.h>

#include <random>

#include "json_reader.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/ckpt_tools_print.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

uint64_t bytes_of(const StateSchema& schema, const std::vector<KindRuns>& runs) {
  return plan_shard(schema, runs)->table_begin;
}

TEST(ReshardPlan, CoversEachBlockOnceAndEvenly) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<TensorSpec> specs;
    const size_t num_tensors = 1 + random() % 6;
    for (size_t i = 0; i < num_tensors; ++i) {
      const Dtype dtype = random() % 2 == 0 ? Dtype::kF32 : Dtype::kBF16;
      const auto role = static_cast<SpaceRole>(random() % 3);
      specs.push_back(
          {cat("t", i), {}, dtype, {static_cast<int64_t>(random() % 900'000)}, {0}, role});
    }
    StateSchema schema{FlatLayout::plan(specs).value(), {}};
    for (const FlatSpace& space : schema.layout.spaces()) {
      schema.kinds.push_back({space.name, std::string(value_kind(space.role))});
      if (space.role == SpaceRole::kTrainable) schema.kinds.push_back({space.name, "sgd.momentum"});
    }
    const auto world_size = static_cast<int64_t>(1 + random() % 40);
    const auto parts = plan_reshard(schema, world_size);
    ASSERT_EQ(std::ssize(parts), world_size);
    std::vector<ShardEntry> shards;
    uint64_t total = 0;
    for (const auto& runs : parts) {
      shards.push_back({"", 0, runs, {}, {}});
      total += bytes_of(schema, runs);
    }
    ASSERT_TRUE(check_coverage(schema, shards).is_ok());
    for (const auto& runs : parts) {
      const double part = static_cast<double>(bytes_of(schema, runs));
      EXPECT_NEAR(part, static_cast<double>(total) / static_cast<double>(world_size),
                  kBlockElems * 4);
    }
  }
}

/// A checkpoint of four ranks.
class Reshard : public ::testing::Test {
 protected:
  Reshard() : state_(medium_schema(), 6) { path_ = save_state(fs_, 4, state_, 10).value().path; }
  MemoryFileSystem fs_;
  TestState state_;
  std::string path_;
};

TEST_F(Reshard, AnyWorldHasTheSameStateAndDigest) {
  for (const int64_t world_size : {1, 2, 3, 4, 7, 18, 60}) {
    const std::string out = cat("/of ", world_size, " \xc3\xbc");
    const auto report = reshard_checkpoint(fs_, path_, world_size, out, {.num_threads = 2});
    ASSERT_TRUE(report.is_ok()) << report.status().message();
    EXPECT_EQ(report->state_digest, state_.digest(some_scalars(10)));
    EXPECT_EQ(report->old_world_size, 4);
    EXPECT_TRUE(parse_json(reshard_json(*report), "json").is_ok());
    const auto manifest = read_manifest(fs_, out, nullptr);
    ASSERT_TRUE(manifest.is_ok()) << manifest.status().message();
    EXPECT_EQ(manifest->world_size, world_size);
    EXPECT_EQ(manifest->step, 10);
    EXPECT_TRUE(verify_checkpoint(fs_, out)->is_good());
    EXPECT_TRUE(diff_checkpoints(fs_, path_, out)->is_equal());
    EXPECT_FALSE(exists(fs_, out + ".partial").value());
    // And a run restores from it.
    TestState restored(medium_schema(), 0);
    const auto found = restore_state(fs_, 3, restored, [&](RestoreRequest& request) {
      request.mode = ResumeMode::kPath;
      request.path = out;
    });
    ASSERT_TRUE(found.is_ok()) << found.status().message();
    EXPECT_TRUE(restored == state_);
  }
}

TEST_F(Reshard, ThereAndBackIsTheSameBytesAsAtOnce) {
  ASSERT_TRUE(reshard_checkpoint(fs_, path_, 3, "/three").is_ok());
  ASSERT_TRUE(reshard_checkpoint(fs_, path_, 5, "/five").is_ok());
  ASSERT_TRUE(reshard_checkpoint(fs_, "/five", 3, "/three-again").is_ok());
  const auto at_once = all_files(fs_, "/three");
  const auto by_five = all_files(fs_, "/three-again");
  ASSERT_EQ(at_once.size(), 4U);
  for (const auto& [path, content] : at_once)
    EXPECT_EQ(by_five.at("/three-again" + path.substr(6)), content) << path;
}

TEST_F(Reshard, RefusesWhatCanNotBe) {
  for (const int64_t world_size : {int64_t{0}, int64_t{-1}, int64_t{100'001}, INT64_MAX}) {
    EXPECT_EQ(reshard_checkpoint(fs_, path_, world_size, "/out").status().code(),
              StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(reshard_checkpoint(fs_, path_, 2, path_).status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(reshard_checkpoint(fs_, path_, 2, "/gen-000009-step-0000000010").status().code(),
            StatusCode::kInvalidArgument);
  const auto nowhere = reshard_checkpoint(fs_, path_, 2, "/nowhere/out");
  EXPECT_EQ(nowhere.status().code(), StatusCode::kIoError);
  EXPECT_THAT(nowhere.status().message(), HasSubstr("make the folder first"));
  EXPECT_EQ(reshard_checkpoint(fs_, "/nowhere", 2, "/out").status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(exists(fs_, "/out").value());
}

TEST_F(Reshard, BadContentEndsItAndLeavesNothing) {
  const std::string shard = path_join(path_, "shard-00001-of-00004.safetensors");
  const std::string good = read_whole_file(fs_, shard, 1 << 24).value();
  std::string flipped = good;
  flipped[4096 + 17] ^= 1;
  for (const std::string& bad : {flipped, good.substr(0, good.size() - 1), std::string()}) {
    overwrite_file(fs_, shard, bad);
    EXPECT_EQ(reshard_checkpoint(fs_, path_, 2, "/out", {.num_threads = 2}).status().code(),
              StatusCode::kCorruption);
    EXPECT_FALSE(exists(fs_, "/out").value());
    EXPECT_FALSE(exists(fs_, "/out.partial").value());
  }
}

TEST_F(Reshard, WhatAKilledOneLeftIsRemoved) {
  ASSERT_TRUE(fs_.make_dir("/out.partial").is_ok());
  overwrite_file(fs_, "/out.partial/shard-00000-of-00002.safetensors", "half");
  ASSERT_TRUE(reshard_checkpoint(fs_, path_, 2, "/out/").is_ok());
  EXPECT_TRUE(verify_checkpoint(fs_, "/out")->is_good());
}

TEST_F(Reshard, IsWholeOrNotThereAfterACrash) {
  fs_.crash_keeping_all();
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto copy = fs_.after_crash({});
    ASSERT_TRUE(reshard_checkpoint(*copy, path_, 3, "/out").is_ok());
    copy->crash_at_random(seed);
    EXPECT_TRUE(verify_checkpoint(*copy, "/out")->is_good()) << "it was acknowledged";
  }
}

TEST_F(Reshard, TooLittleSpaceIsToldBeforeAnythingIsWritten) {
  fs_.set_capacity_bytes(1'500'000);
  const auto report = reshard_checkpoint(fs_, path_, 2, "/out");
  EXPECT_EQ(report.status().code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(exists(fs_, "/out.partial").value());
}

}  // namespace
}  // namespace lockstep
