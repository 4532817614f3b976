#include <gmock/gmock.h>

#include "forwarding_file_system.h"
#include "json_reader.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/ckpt_tools_print.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr const char* kFirst = "gen-000001-step-0000000010";
constexpr const char* kSecond = "gen-000002-step-0000000020";
constexpr const char* kThird = "gen-000003-step-0000000030";

/// A run of three checkpoints, at steps 10, 20 and 30.
class Prune : public ::testing::Test {
 protected:
  Prune() {
    TestState state(small_schema(), 1);
    for (int64_t step : {10, 20, 30}) save_state(fs_, 2, state, step).value();
  }
  static PruneOptions keeping(std::vector<RetentionRule> rules, bool is_alive = false) {
    PruneOptions options;
    options.policy.keep_any = std::move(rules);
    options.attempt = quiet_attempt(posix_file_system(), is_alive);
    return options;
  }
  MemoryFileSystem fs_;
};

TEST_F(Prune, DryRunSaysWhatRealRunDoes) {
  PruneOptions options = keeping({keep_latest(1)});
  options.is_dry_run = true;
  const auto before = all_files(fs_, kRunDir);
  const auto dry = prune_run(fs_, kRunDir, options);
  ASSERT_TRUE(dry.is_ok()) << dry.status().message();
  EXPECT_EQ(all_files(fs_, kRunDir), before);
  options.is_dry_run = false;
  const auto real = prune_run(fs_, kRunDir, options);
  ASSERT_TRUE(real.is_ok()) << real.status().message();
  EXPECT_THAT(checkpoints_of(fs_), ElementsAre(kThird));

  uint64_t gone_bytes = 0;
  for (const auto& [path, content] : before) {
    if (path.find(kFirst) != std::string::npos || path.find(kSecond) != std::string::npos)
      gone_bytes += content.size();
  }
  for (const PruneReport& report : {*dry, *real}) {
    EXPECT_EQ(report.freed_bytes(), gone_bytes);
    EXPECT_EQ(report.num_doomed(), 2);
    ASSERT_THAT(report.items, SizeIs(3));
    EXPECT_THAT(report.items[0].kept_because, ElementsAre("the newest durable one", "latest 1"));
    EXPECT_THAT(report.items[2].path, HasSubstr(kFirst));
    EXPECT_TRUE(parse_json(prune_json(report), "json").is_ok()) << prune_json(report);
  }
  EXPECT_THAT(prune_text(*dry), HasSubstr("would delete  step 10  generation 1"));
  EXPECT_THAT(prune_text(*real), HasSubstr("deleted 2 of 3 checkpoints"));
  TestState restored(small_schema(), 0);
  EXPECT_EQ((*restore_state(fs_, 3, restored))->step, 30);
  EXPECT_TRUE(restored == TestState(small_schema(), 1));
}

TEST_F(Prune, NeverDeletesTheNewest) {
  ASSERT_TRUE(prune_run(fs_, kRunDir, keeping({keep_every_steps(7)})).is_ok());
  EXPECT_THAT(checkpoints_of(fs_), ElementsAre(kThird));
}

TEST_F(Prune, IsRefusedWhileTheRunIsAlive) {
  const auto training = Attempt::begin(quiet_attempt(fs_));
  ASSERT_TRUE(training.is_ok());
  PruneOptions options = keeping({keep_latest(1)}, /*is_alive=*/true);
  const auto refused = prune_run(fs_, kRunDir, options);
  EXPECT_EQ(refused.status().code(), StatusCode::kAlreadyExists);
  EXPECT_THAT(refused.status().message(), HasSubstr("--while-running"));
  EXPECT_THAT(checkpoints_of(fs_), SizeIs(3));

  options.while_running = true;
  ASSERT_TRUE(prune_run(fs_, kRunDir, options).is_ok());
  EXPECT_THAT(checkpoints_of(fs_), ElementsAre(kThird));
  EXPECT_TRUE(training->check_not_fenced().is_ok()) << "the run goes on";
}

/// Another start of the run begins just before the n-th deletion.
class StartsMeanwhile final : public ForwardingFileSystem {
 public:
  StartsMeanwhile(FileSystem& base, int deletion) : ForwardingFileSystem(base), left_(deletion) {}
  Status rename(const std::string& from, const std::string& to) override {
    LOCKSTEP_RETURN_IF_ERROR(base_.rename(from, to));
    if (to.ends_with(".doomed") && --left_ == 0) {
      AttemptOptions options = quiet_attempt(base_);
      options.take_over = true;
      LOCKSTEP_RETURN_IF_ERROR(Attempt::begin(options).status());
    }
    return Status::ok();
  }

 private:
  int left_;
};

TEST_F(Prune, StopsWhenTheRunStartsMeanwhile) {
  for (bool while_running : {false, true}) {
    TestState state(small_schema(), 1);
    ASSERT_TRUE(save_state(fs_, 2, state, 40).is_ok());
    const size_t before = checkpoints_of(fs_).size();
    StartsMeanwhile starting(fs_, /*deletion=*/1);
    PruneOptions options = keeping({keep_latest(1)});
    options.while_running = while_running;
    const auto stopped = prune_run(starting, kRunDir, options);
    EXPECT_EQ(stopped.status().code(), StatusCode::kAborted) << stopped.status().message();
    EXPECT_THAT(checkpoints_of(fs_), SizeIs(before - 1)) << "one was gone by then";
  }
}

TEST_F(Prune, ABadNewestOneProtectsTheOthers) {
  const std::string shard =
      path_join(path_join("/run/checkpoints", kThird), "shard-00000-of-00002.safetensors");
  std::string content = read_whole_file(fs_, shard, 1 << 20).value();
  content.back() = static_cast<char>(content.back() ^ 1);
  overwrite_file(fs_, shard, content);
  const auto refused = prune_run(fs_, kRunDir, keeping({keep_latest(1)}));
  EXPECT_EQ(refused.status().code(), StatusCode::kCorruption);
  EXPECT_THAT(refused.status().message(), HasSubstr("nothing was deleted"));
  EXPECT_THAT(checkpoints_of(fs_), ElementsAre(kFirst, kSecond, kThird));
}

TEST_F(Prune, AMetricThatNoCheckpointHasIsRefused) {
  for (const bool is_dry_run : {true, false}) {
    PruneOptions options =
        keeping({keep_best("loss", BestIs::kLowest, 1), keep_best("acuracy", BestIs::kHighest, 1)});
    options.is_dry_run = is_dry_run;
    const auto refused = prune_run(fs_, kRunDir, options);
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(refused.status().message(), AllOf(HasSubstr("\"acuracy\""), HasSubstr("loss")));
    EXPECT_THAT(checkpoints_of(fs_), ElementsAre(kFirst, kSecond, kThird));
  }
}

TEST_F(Prune, DeletesWhatWasLeftBehind) {
  for (const char* left : {"/run/checkpoints/.gen-000004-step-0000000040.a0003.partial",
                           "/run/checkpoints/.gen-000000-step-0000000005.a0001.doomed"}) {
    ASSERT_TRUE(fs_.make_dir(left).is_ok());
    overwrite_file(fs_, path_join(left, "file"), "12345");
  }
  PruneOptions options = keeping({keep_latest(3)});
  options.is_dry_run = true;
  EXPECT_EQ(prune_run(fs_, kRunDir, options)->freed_bytes(), 10U);
  options.is_dry_run = false;
  EXPECT_EQ(prune_run(fs_, kRunDir, options)->freed_bytes(), 10U);
  EXPECT_THAT(checkpoints_of(fs_), ElementsAre(kFirst, kSecond, kThird));
}

TEST_F(Prune, AMistypedRunIsNotMade) {
  EXPECT_EQ(prune_run(fs_, "/rum", keeping({keep_latest(1)})).status().code(),
            StatusCode::kNotFound);
  EXPECT_FALSE(exists(fs_, "/rum").value());
}

/// A crash at any call: after it the newest is there, and each other one is whole or not listed.
TEST_F(Prune, SurvivesACrashAtAnyMoment) {
  const auto before = all_files(fs_, "/run/checkpoints");
  for (uint64_t seed = 0; seed < 40; ++seed) {
    fs_.crash_keeping_all();
    const auto copy = fs_.after_crash({});
    StartsMeanwhile stopping(*copy, static_cast<int>(seed % 3) + 1);
    prune_run(stopping, kRunDir, keeping({keep_latest(1)})).status().ignore();
    copy->crash_at_random(seed);
    TestState restored(small_schema(), 0);
    ASSERT_EQ((*restore_state(*copy, 1, restored))->step, 30);
    for (const auto& [path, content] : all_files(*copy, "/run/checkpoints")) {
      if (path.find("/.") == std::string::npos) {
        EXPECT_EQ(before.at(path), content);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep
