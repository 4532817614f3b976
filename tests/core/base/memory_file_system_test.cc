// The crash model: what is synced survives every crash; what is not may vanish, tear or stay, each
// operation by itself.
// Covers: memory_disk.cc
#include "lockstep/core/base/memory_file_system.h"
#include "core/base/bytes_of.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace lockstep {
namespace {

using Kind = CrashFate::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string content_of(FileSystem& fs, const std::string& path) {
  auto content = read_whole_file(fs, path, 1 << 20);
  return content.is_ok() ? *content : std::string(status_code_name(content.status().code()));
}

void write_unsynced(FileSystem& fs, const std::string& path, std::string_view text, OpenMode mode) {
  auto file = fs.open_write(path, mode);
  ASSERT_TRUE(file.is_ok()) << file.status().to_string();
  ASSERT_TRUE((*file)->write(bytes_of(text)).is_ok());
}

TEST(MemoryFileSystemCrash, SyncedBytesUnderASyncedNameSurvive) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/a", "kept", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  EXPECT_TRUE(fs.unsynced().empty());
  fs.crash_losing_all();
  EXPECT_EQ(content_of(fs, "/a"), "kept");
}

TEST(MemoryFileSystemCrash, SyncedBytesUnderAnUnsyncedNameAreGone) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/a", "lost", OpenMode::kTruncate).is_ok());
  fs.crash_losing_all();
  EXPECT_EQ(content_of(fs, "/a"), "not found");
}

TEST(MemoryFileSystemCrash, ASyncedNameMayPointAtAFileWithoutItsBytes) {
  MemoryFileSystem fs;
  write_unsynced(fs, "/a", "bytes", OpenMode::kTruncate);
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  fs.crash_losing_all();
  EXPECT_EQ(content_of(fs, "/a"), "");
}

TEST(MemoryFileSystemCrash, AnUnsyncedRenameFallsBackToTheOldNames) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/current", "old", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(write_and_sync_file(fs, "/next", "new", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  ASSERT_TRUE(fs.rename("/next", "/current").is_ok());
  EXPECT_EQ(content_of(fs, "/current"), "new");
  auto lost = fs.after_crash({{Kind::kLost}});
  EXPECT_EQ(content_of(*lost, "/current"), "old");
  EXPECT_EQ(content_of(*lost, "/next"), "new");
  auto kept = fs.after_crash({{Kind::kKept}});
  EXPECT_EQ(content_of(*kept, "/current"), "new");
  EXPECT_EQ(content_of(*kept, "/next"), "not found");
  EXPECT_EQ(content_of(fs, "/current"), "new")
      << "looking at a crash must not crash the disk itself";
}

TEST(MemoryFileSystemCrash, AFolderWhoseNameWasNotSyncedTakesItsContentWithIt) {
  MemoryFileSystem fs;
  ASSERT_TRUE(fs.make_dir("/d").is_ok());
  ASSERT_TRUE(write_and_sync_file(fs, "/d/a", "x", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs.sync_dir("/d").is_ok());
  fs.crash_losing_all();
  EXPECT_EQ(content_of(fs, "/d/a"), "not found");
}

TEST(MemoryFileSystemCrash, MakeDirsDurableSurvives) {
  MemoryFileSystem fs;
  ASSERT_TRUE(make_dirs_durable(fs, "/x/y/z").is_ok());
  fs.crash_losing_all();
  EXPECT_TRUE(fs.stat("/x/y/z").is_ok());
}

TEST(MemoryFileSystemCrash, AMoveBetweenFoldersMayLoseOrDoubleTheName) {
  MemoryFileSystem fs;
  ASSERT_TRUE(make_dirs_durable(fs, "/x").is_ok());
  ASSERT_TRUE(make_dirs_durable(fs, "/y").is_ok());
  ASSERT_TRUE(write_and_sync_file(fs, "/x/a", "v", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs.sync_dir("/x").is_ok());
  ASSERT_TRUE(fs.rename("/x/a", "/y/a").is_ok());
  ASSERT_EQ(fs.unsynced().size(), 2u);
  std::set<std::pair<std::string, std::string>> outcomes;
  for (Kind first : {Kind::kLost, Kind::kKept}) {
    for (Kind second : {Kind::kLost, Kind::kKept}) {
      auto disk = fs.after_crash({{first}, {second}});
      outcomes.emplace(content_of(*disk, "/x/a"), content_of(*disk, "/y/a"));
    }
  }
  const std::set<std::pair<std::string, std::string>> all = {
      {"v", "not found"}, {"not found", "v"}, {"v", "v"}, {"not found", "not found"}};
  EXPECT_EQ(outcomes, all);
}

TEST(MemoryFileSystemCrash, ASyncMakesOneFileDurableAndNoOther) {
  MemoryFileSystem fs;
  write_unsynced(fs, "/other", "other's bytes", OpenMode::kTruncate);
  write_unsynced(fs, "/a", "x", OpenMode::kTruncate);
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  ASSERT_TRUE(write_and_sync_file(fs, "/a", "y", OpenMode::kAppend).is_ok());
  fs.crash_losing_all();
  EXPECT_EQ(content_of(fs, "/a"), "xy");
  EXPECT_EQ(content_of(fs, "/other"), "");
}

TEST(MemoryFileSystemCrash, EachWriteHasItsOwnFate) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/a", "", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  auto file = fs.open_write("/a", OpenMode::kAppend);
  ASSERT_TRUE((*file)->write(bytes_of("abc")).is_ok());
  ASSERT_TRUE((*file)->write(bytes_of("defg")).is_ok());
  const auto operations = fs.unsynced();
  ASSERT_EQ(operations.size(), 2u);
  EXPECT_EQ(operations[1].kind, UnsyncedOperation::Kind::kData);
  EXPECT_EQ(operations[1].size_bytes, 4u);
  EXPECT_EQ(operations[1].what, "write 4 bytes at 3 of /a");
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kKept}, {Kind::kKept}}), "/a"), "abcdefg");
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kLost}, {Kind::kKept}}), "/a"),
            std::string("\0\0\0defg", 7));
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kKept}, {Kind::kTorn, 2}}), "/a"), "abcde");
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kZeroed}, {Kind::kLost}}), "/a"),
            std::string("\0\0\0", 3));
}

TEST(MemoryFileSystemCrash, EmptyingAFileIsUndoneUnlessSynced) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/a", "old", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  write_unsynced(fs, "/a", "n", OpenMode::kTruncate);
  EXPECT_EQ(content_of(fs, "/a"), "n");
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kLost}, {Kind::kLost}}), "/a"), "old");
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kKept}, {Kind::kLost}}), "/a"), "");
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kLost}, {Kind::kKept}}), "/a"), "nld");
}

TEST(MemoryFileSystemCrash, ARemovalMayComeBackUntilItsFolderIsSynced) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/a", "x", OpenMode::kTruncate).is_ok());
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  ASSERT_TRUE(fs.remove("/a").is_ok());
  EXPECT_EQ(content_of(*fs.after_crash({{Kind::kLost}}), "/a"), "x");
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  fs.crash_losing_all();
  EXPECT_EQ(content_of(fs, "/a"), "not found");
}

TEST(MemoryFileSystemCrash, ForgetsOperationsThatNoCrashCanBringBack) {
  MemoryFileSystem fs;
  write_unsynced(fs, "/a", "never synced", OpenMode::kTruncate);
  ASSERT_TRUE(fs.remove("/a").is_ok());
  EXPECT_EQ(fs.unsynced().size(), 3u);
  ASSERT_TRUE(fs.sync_dir("/").is_ok());
  EXPECT_TRUE(fs.unsynced().empty());
}

TEST(MemoryFileSystemCrash, FilesThatWereOpenAreDead) {
  MemoryFileSystem fs;
  auto writer = fs.open_write("/a", OpenMode::kTruncate);
  ASSERT_TRUE((*writer)->write(bytes_of("x")).is_ok());
  auto reader = fs.open_read("/a");
  fs.crash_keeping_all();
  EXPECT_EQ((*writer)->write(bytes_of("y")).code(), StatusCode::kIoError);
  EXPECT_EQ((*writer)->sync().code(), StatusCode::kIoError);
  EXPECT_EQ((*reader)->size_bytes().status().code(), StatusCode::kIoError);
  EXPECT_EQ(content_of(fs, "/a"), "x");
}

TEST(MemoryFileSystemCrash, RandomCrashesAreRepeatableAndReachEveryFate) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::string outcome;
    for (int repeat = 0; repeat < 2; ++repeat) {
      MemoryFileSystem fs;
      ASSERT_TRUE(write_and_sync_file(fs, "/a", "", OpenMode::kTruncate).is_ok());
      ASSERT_TRUE(fs.sync_dir("/").is_ok());
      write_unsynced(fs, "/a", "abc", OpenMode::kAppend);
      fs.crash_at_random(seed);
      if (repeat == 0) outcome = content_of(fs, "/a");
      EXPECT_EQ(content_of(fs, "/a"), outcome);
    }
    outcomes.insert(outcome);
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"", "abc", "a", "ab", std::string("\0\0\0", 3)}));
}

TEST(MemoryFileSystemCrash, FatesMustFitTheOperations) {
  MemoryFileSystem fs;
  ASSERT_TRUE(fs.make_dir("/d").is_ok());
  EXPECT_THROW(fs.crash({}), UsageError);
  EXPECT_THROW(fs.after_crash({{Kind::kTorn, 1}}), UsageError);
}

TEST(MemoryFileSystem, AFullDiskTakesWhatFitsAndSaysSo) {
  MemoryFileSystem fs;
  fs.set_capacity_bytes(4);
  auto file = fs.open_write("/a", OpenMode::kTruncate);
  EXPECT_EQ(fs.free_bytes("/").value(), 4u);
  Status status = (*file)->write(bytes_of("123456"));
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("/a"));
  EXPECT_EQ((*file)->sync().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(content_of(fs, "/a"), "1234");
  EXPECT_EQ(fs.free_bytes("/").value(), 0u);
  EXPECT_TRUE((*file)->cut(1).is_ok());
  EXPECT_TRUE((*file)->write(bytes_of("78")).is_ok());
  EXPECT_TRUE((*file)->sync().is_ok());
  EXPECT_EQ(content_of(fs, "/a"), "178");
}

}  // namespace
}  // namespace lockstep
