// Covers: attempt_record.cc
#include "lockstep/checkpoint/attempt.h"

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "forwarding_file_system.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

class AttemptTest : public ::testing::Test {
 protected:
  AttemptOptions options(bool is_running = false) { return quiet_attempt(fs_, is_running); }
  MemoryFileSystem fs_;
};

TEST_F(AttemptTest, NumbersGoUpAndAreDurable) {
  for (int64_t number = 1; number <= 3; ++number) {
    const auto attempt = Attempt::begin(options());
    ASSERT_TRUE(attempt.is_ok()) << attempt.status().message();
    EXPECT_EQ(attempt->number(), number);
    fs_.crash_losing_all();
  }
}

TEST_F(AttemptTest, TheRecordNamesTheProcess) {
  AttemptRecord record{
      {"a \"host\"", "boot", 12, 0xffffffffffffffffULL}, "job 5", "2026-11-22T13:05:09Z"};
  const auto parsed = parse_attempt_record(attempt_record_text(record) + "...", "f");
  ASSERT_TRUE(parsed.is_ok()) << parsed.status().message();
  EXPECT_EQ(parsed->process, record.process);
  EXPECT_EQ(parsed->job_id, "job 5");
  EXPECT_EQ(parsed->num_heartbeats, 3U);
  EXPECT_FALSE(parsed->ended);
  EXPECT_TRUE(parse_attempt_record(attempt_record_text(record) + "..end\n", "f")->ended);
  EXPECT_EQ(parse_attempt_record("", "f").status().code(), StatusCode::kCorruption);
  EXPECT_EQ(parse_attempt_record("{}\n", "f").status().code(), StatusCode::kCorruption);
}

TEST_F(AttemptTest, ALiveOneIsNotRunOver) {
  auto first = Attempt::begin(options());
  const auto second = Attempt::begin(options(/*is_running=*/true));
  EXPECT_EQ(second.status().code(), StatusCode::kAlreadyExists);
  EXPECT_THAT(second.status().message(), HasSubstr("process 7 on host"));
  EXPECT_THAT(second.status().message(), HasSubstr("--take-over"));
  EXPECT_TRUE(first->check_not_fenced().is_ok());
  ASSERT_TRUE(first->end().is_ok());
  EXPECT_TRUE(Attempt::begin(options(/*is_running=*/true)).is_ok()) << "one that ended is over";
}

TEST_F(AttemptTest, TakingOverFencesTheOlder) {
  auto first = Attempt::begin(options());
  ASSERT_TRUE(fs_.make_dir("/run/checkpoints/.gen-000001-step-0000000005.a0001.partial").is_ok());
  AttemptOptions take_over = options(/*is_running=*/true);
  take_over.take_over = true;
  const auto second = Attempt::begin(take_over);
  ASSERT_TRUE(second.is_ok()) << second.status().message();
  EXPECT_EQ(first->check_not_fenced().code(), StatusCode::kAborted);
  EXPECT_TRUE(second->check_not_fenced().is_ok());
  EXPECT_TRUE(exists(fs_, "/run/checkpoints/.gen-000001-step-0000000005.a0001.doomed").value())
      << "its partial folder has another name";
}

/// An older writer whose save ends, in this way or that, just before its folder is taken away.
class RacingWriter final : public ForwardingFileSystem {
 public:
  RacingWriter(FileSystem& base, bool commits) : ForwardingFileSystem(base), commits_(commits) {}
  Status rename(const std::string& from, const std::string& to) override {
    if (const Status ended = commits_ ? base_.rename(from, kCommitted) : remove_tree(base_, from);
        !ended.is_ok()) {
      return ended;
    }
    return base_.rename(from, to);
  }
  static constexpr const char* kCommitted = "/run/checkpoints/gen-000001-step-0000000005";

 private:
  bool commits_;
};

TEST_F(AttemptTest, AnOlderWriterMayEndItsSaveMeanwhile) {
  for (bool commits : {false, true}) {
    ASSERT_TRUE(make_dirs_durable(fs_, "/run/checkpoints").is_ok());
    ASSERT_TRUE(fs_.make_dir("/run/checkpoints/.gen-000001-step-0000000005.a0001.partial").is_ok());
    RacingWriter racing(fs_, commits);
    AttemptOptions options = this->options();
    options.fs = &racing;
    const auto attempt = Attempt::begin(options);
    ASSERT_TRUE(attempt.is_ok()) << attempt.status().message();
    EXPECT_EQ(exists(fs_, RacingWriter::kCommitted).value(), commits);
  }
}

/// Something else removes each folder while it is listed.
class VanishingFolders final : public ForwardingFileSystem {
 public:
  using ForwardingFileSystem::ForwardingFileSystem;
  Result<std::vector<DirectoryEntry>> list(const std::string& path) override {
    if (path.ends_with(".doomed")) LOCKSTEP_RETURN_IF_ERROR(remove_tree(base_, path));
    return base_.list(path);
  }
};

TEST_F(AttemptTest, WhatSomebodyElseRemovesIsRemoved) {
  ASSERT_TRUE(make_dirs_durable(fs_, "/run/a.doomed").is_ok());
  VanishingFolders vanishing(fs_);
  EXPECT_TRUE(remove_tree(vanishing, "/run").is_ok());
  EXPECT_FALSE(exists(fs_, "/run").value());
}

/// Notes the heartbeats there were when the first folder was renamed, and whether anything was
/// removed.
class Observer final : public ForwardingFileSystem {
 public:
  using ForwardingFileSystem::ForwardingFileSystem;
  Status rename(const std::string& from, const std::string& to) override {
    const Deadline deadline = Deadline::after_s(20);
    while (!has_beaten && !deadline.has_passed()) sleep_ns(1'000'000);
    return base_.rename(from, to);
  }
  Result<std::unique_ptr<WritableFile>> open_write(const std::string& path,
                                                   OpenMode mode) override {
    if (mode == OpenMode::kAppend) has_beaten = true;
    return base_.open_write(path, mode);
  }
  Status remove(const std::string& path) override {
    has_removed = true;
    return base_.remove(path);
  }
  std::atomic<bool> has_beaten = false;
  std::atomic<bool> has_removed = false;
};

TEST_F(AttemptTest, BeatsWhileItTakesFoldersAndDeletesThemLater) {
  ASSERT_TRUE(make_dirs_durable(fs_, "/run/checkpoints").is_ok());
  ASSERT_TRUE(fs_.make_dir("/run/checkpoints/.gen-000001-step-0000000005.a0001.partial").is_ok());
  Observer observer(fs_);
  AttemptOptions options = this->options();
  options.fs = &observer;
  options.heartbeat_s = 0.001;
  const auto attempt = Attempt::begin(options);
  ASSERT_TRUE(attempt.is_ok()) << attempt.status().message();
  EXPECT_TRUE(observer.has_beaten);
  EXPECT_FALSE(observer.has_removed) << "deleting takes long, and ranks wait for begin()";
  EXPECT_EQ(fs_.list("/run/checkpoints")->size(), 1U);
  attempt->remove_doomed();
  EXPECT_TRUE(fs_.list("/run/checkpoints")->empty());
}

TEST_F(AttemptTest, AHeartbeatFromAnotherHostIsWatched) {
  const auto first = Attempt::begin(options());
  AttemptOptions elsewhere = options();
  elsewhere.process.host = "other";
  std::atomic<bool> stop = false;
  std::thread heart([&] {
    while (!stop) {
      fs_.open_write("/run/attempts/0001", OpenMode::kAppend)
          .value()
          ->write(std::as_bytes(std::span(".")))
          .ignore();
      sleep_ns(20'000'000);
    }
  });
  EXPECT_EQ(Attempt::begin(elsewhere).status().code(), StatusCode::kAlreadyExists);
  stop = true;
  heart.join();
  EXPECT_TRUE(Attempt::begin(elsewhere).is_ok()) << "it stopped beating";
}

TEST_F(AttemptTest, AnEmptyFileIsAStartThatDied) {
  const auto first = Attempt::begin(options());
  overwrite_file(fs_, "/run/attempts/0002", "");
  const auto third = Attempt::begin(options());
  ASSERT_TRUE(third.is_ok()) << third.status().message();
  EXPECT_EQ(third->number(), 3);
}

TEST_F(AttemptTest, TheHeartBeatsAndStopsAtTheEnd) {
  AttemptOptions beating = options();
  beating.heartbeat_s = 0.005;
  auto attempt = Attempt::begin(beating);
  const auto record = [&] {
    return parse_attempt_record(read_whole_file(fs_, "/run/attempts/0001", 1 << 20).value(), "f")
        .value();
  };
  const Deadline deadline = Deadline::after_s(20);
  while (record().num_heartbeats < 3 && !deadline.has_passed()) sleep_ns(1'000'000);
  EXPECT_GE(record().num_heartbeats, 3U);
  ASSERT_TRUE(attempt->end().is_ok());
  EXPECT_TRUE(record().ended);
}

TEST(Process, ThisOneRuns) {
  ProcessIdentity process = this_process();
  EXPECT_TRUE(process_runs(process));
  process.start_ticks += 1;  // the id used again by another process
  EXPECT_FALSE(process_runs(process));
}

TEST(Fencing, AnOlderAttemptDoesNotTouchTheMetrics) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  bool has_flushed = false;
  const Status status = with_ranks(1, [&](World& world) -> Status {
    CheckpointerOptions options = quiet_options(fs, world.control_plane());
    options.on_save_step = [&](int step, int) {
      if (step == 5) overwrite_file(fs, "/run/attempts/0002", "");  // another start takes over
    };
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    const OwnedState owned = state.owned(0, 1);
    SaveRequest request;
    request.schema = &state.schema();
    request.owned = &owned;
    request.before_commit = [&] {
      has_flushed = true;
      return Status::ok();
    };
    return checkpointer.save(request).status();
  });
  EXPECT_EQ(status.code(), StatusCode::kAborted);
  EXPECT_FALSE(has_flushed);
}

TEST(Fencing, AnOlderAttemptThatWakesUpCanNotCommit) {
  MemoryFileSystem fs;
  TestState mine(small_schema(), 1);
  TestState theirs(small_schema(), 2);
  ASSERT_TRUE(save_state(fs, 1, theirs, 5).is_ok());
  for (int asleep_at : {2, 4, 6, 7}) {
    const auto saved = save_state(fs, 1, mine, 10 + asleep_at, [&](CheckpointerOptions& options) {
      options.on_save_step = [&](int step, int) {
        if (step != asleep_at) return;
        TestState read(small_schema(), 0);
        ASSERT_TRUE(restore_state(fs, 1, read).is_ok());  // another start takes over meanwhile
      };
    });
    EXPECT_FALSE(saved.is_ok()) << asleep_at;
    TestState read(small_schema(), 0);
    EXPECT_EQ(restore_state(fs, 1, read)->value().step, 5) << asleep_at;
  }
}

}  // namespace
}  // namespace lockstep
