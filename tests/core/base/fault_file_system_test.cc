#include "lockstep/core/base/fault_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "lockstep/core/base/memory_file_system.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Killed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Faults : public ::testing::Test {
 protected:
  MemoryFileSystem memory_;
  FaultFileSystem fs_{memory_};
};

TEST_F(Faults, OnlyTheChosenCallFails) {
  fs_.fail_nth(FileOperation::kMakeDir, 2, io_error("planned"));
  EXPECT_TRUE(fs_.make_dir("/a").is_ok());
  Status status = fs_.make_dir("/b");
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_EQ(status.message(), "/b: make_dir: planned");
  EXPECT_EQ(memory_.stat("/b").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(fs_.make_dir("/b").is_ok());
}

TEST_F(Faults, EveryOperationCanFail) {
  ASSERT_TRUE(write_and_sync_file(fs_, "/a", "x", OpenMode::kTruncate).is_ok());
  auto writer = fs_.open_write("/a", OpenMode::kAppend);
  auto second_writer = fs_.open_write("/a", OpenMode::kAppend);
  auto reader = fs_.open_read("/a");
  std::byte one{};
  for (int i = 0; i < kNumFileOperations; ++i)
    fs_.fail_from(static_cast<FileOperation>(i), 1, resource_exhausted_error("planned"));
  const std::vector<Status> all = {
      fs_.open_write("/b", OpenMode::kTruncate).status(),
      (*writer)->write({}),
      (*second_writer)->sync(),
      fs_.truncate("/a", 0),
      fs_.make_dir("/d"),
      fs_.rename("/a", "/b"),
      fs_.remove("/a"),
      fs_.sync_dir("/"),
      fs_.open_read("/a").status(),
      (*reader)->read(0, std::span(&one, 1)),
      fs_.list("/").status(),
      fs_.stat("/a").status(),
      fs_.free_bytes("/").status(),
  };
  ASSERT_EQ(all.size(), static_cast<size_t>(kNumFileOperations));
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(all[i].message(), HasSubstr(file_operation_name(static_cast<FileOperation>(i))));
  }
  fs_.clear_faults();
  EXPECT_EQ(read_whole_file(fs_, "/a", 10).value(), "x");
}

TEST_F(Faults, AFailedWriteLeavesHalfOfItsBytesAndKillsTheFile) {
  auto file = fs_.open_write("/a", OpenMode::kTruncate);
  fs_.fail_nth(FileOperation::kWrite, 1, io_error("planned"));
  EXPECT_EQ((*file)->write(std::as_bytes(std::span("123456", 6))).code(), StatusCode::kIoError);
  EXPECT_EQ((*file)->write(std::as_bytes(std::span("7", 1))).code(), StatusCode::kIoError);
  EXPECT_EQ((*file)->sync().code(), StatusCode::kIoError);
  EXPECT_EQ(read_whole_file(memory_, "/a", 10).value(), "123");
}

TEST_F(Faults, CuttingTakesBackAWriteThatHadNoRoomAndNoOther) {
  auto file = fs_.open_write("/a", OpenMode::kTruncate);
  fs_.fail_nth(FileOperation::kWrite, 1, resource_exhausted_error("planned"));
  EXPECT_FALSE((*file)->write(std::as_bytes(std::span("1234", 4))).is_ok());
  EXPECT_TRUE((*file)->cut(1).is_ok());
  EXPECT_TRUE((*file)->write(std::as_bytes(std::span("567", 3))).is_ok());
  EXPECT_EQ(read_whole_file(memory_, "/a", 10).value(), "1567");
  fs_.fail_nth(FileOperation::kTruncate, 1, io_error("planned"));
  EXPECT_EQ((*file)->cut(0).code(), StatusCode::kIoError);
  EXPECT_EQ((*file)->cut(0).code(), StatusCode::kIoError);
  auto other = fs_.open_write("/a", OpenMode::kAppend);
  fs_.fail_nth(FileOperation::kWrite, 1, io_error("planned"));
  EXPECT_FALSE((*other)->write(std::as_bytes(std::span("8", 1))).is_ok());
  EXPECT_EQ((*other)->cut(0).code(), StatusCode::kIoError);
  auto third = fs_.open_write("/a", OpenMode::kAppend);
  fs_.fail_nth(FileOperation::kSync, 1, resource_exhausted_error("planned"));
  EXPECT_FALSE((*third)->sync().is_ok());
  EXPECT_EQ((*third)->cut(0).code(), StatusCode::kResourceExhausted);
}

TEST_F(Faults, ARetriedSyncSucceedsAndMakesNothingDurable) {
  {
    auto file = fs_.open_write("/a", OpenMode::kTruncate);
    ASSERT_TRUE(fs_.sync_dir("/").is_ok());
    ASSERT_TRUE((*file)->write(std::as_bytes(std::span("data", 4))).is_ok());
    fs_.fail_nth(FileOperation::kSync, 1, io_error("planned"));
    EXPECT_EQ((*file)->sync().code(), StatusCode::kIoError);
    EXPECT_EQ((*file)->sync().code(), StatusCode::kIoError) << "the same handle stays failed";
  }
  auto again = fs_.open_write("/a", OpenMode::kAppend);
  EXPECT_TRUE((*again)->sync().is_ok()) << "as on Linux, where the error is reported once";
  memory_.crash_losing_all();
  EXPECT_EQ(read_whole_file(memory_, "/a", 10).value(), "")
      << "and a protocol that retries loses data here";
}

TEST_F(Faults, TheHookSeesEveryMutatingCallBeforeItHappens) {
  std::vector<std::string> seen;
  fs_.set_hook([&](const FileCall& call) {
    seen.push_back(std::string(file_operation_name(call.operation)) + " " + call.path + " " +
                   std::to_string(call.number));
  });
  ASSERT_TRUE(fs_.make_dir("/d").is_ok());
  ASSERT_TRUE(write_and_sync_file(fs_, "/d/a", "x", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs_.stat("/d/a").is_ok());
  ASSERT_TRUE(fs_.list("/d").is_ok());
  ASSERT_TRUE(fs_.rename("/d/a", "/d/b").is_ok());
  ASSERT_TRUE(fs_.truncate("/d/b", 0).is_ok());
  ASSERT_TRUE(fs_.remove("/d/b").is_ok());
  ASSERT_TRUE(fs_.sync_dir("/d").is_ok());
  EXPECT_THAT(seen,
              ElementsAre("make_dir /d 1", "open_write /d/a 2", "write /d/a 3", "sync /d/a 4",
                          "rename /d/a 5", "truncate /d/b 6", "remove /d/b 7", "sync_dir /d 8"));
  EXPECT_EQ(fs_.num_mutating_calls(), 8u);
}

TEST_F(Faults, AHookThatThrowsPlaysAKillBeforeTheCall) {
  fs_.set_hook([](const FileCall& call) {
    if (call.number >= 3) throw Killed(call.path);
  });
  EXPECT_THROW(write_and_sync_file(fs_, "/a", "x", OpenMode::kTruncate).ignore(),
               Killed);  // at the sync
  EXPECT_THROW(fs_.make_dir("/later").ignore(), Killed);
  EXPECT_EQ(memory_.unsynced().size(), 2u) << "the file and its bytes were there, the sync was not";
}

}  // namespace
}  // namespace lockstep
