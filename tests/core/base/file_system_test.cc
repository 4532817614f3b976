// One suite of behaviour for every FileSystem: the disk's, the one in memory, and each behind the
// fault wrapper.
// Covers: file_system_util.cc posix_file_system.cc
#include "lockstep/core/base/file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "core/base/bytes_of.h"
#include "core/base/scratch_folder.h"
#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

/// A file system with a folder to work in.
struct Subject {
  explicit Subject(const std::string& which) {
    const bool on_disk = which.starts_with("posix");
    if (on_disk) root = make_scratch_folder();
    fs = on_disk ? &posix_file_system() : &memory;
    if (which.ends_with("_behind_faults")) {
      faulty = std::make_unique<FaultFileSystem>(*fs);
      fs = faulty.get();
    }
    if (!on_disk) {
      root = "/work";
      EXPECT_TRUE(fs->make_dir(root).is_ok());
    }
  }
  ~Subject() { EXPECT_TRUE(remove_tree(*fs, root).is_ok()); }

  MemoryFileSystem memory;
  std::unique_ptr<FaultFileSystem> faulty;
  FileSystem* fs = nullptr;
  std::string root;
};

class FileSystemConformance : public ::testing::TestWithParam<std::string> {
 protected:
  FileSystemConformance() : subject_(GetParam()), fs_(*subject_.fs) {}
  std::string path(std::string_view name) const { return path_join(subject_.root, name); }
  void put(std::string_view name, std::string_view content) {
    ASSERT_TRUE(write_and_sync_file(fs_, path(name), content, OpenMode::kTruncate).is_ok());
  }
  std::string get(std::string_view name) {
    auto content = read_whole_file(fs_, path(name), 1 << 20);
    return content.is_ok() ? *content : content.status().to_string();
  }

  Subject subject_;
  FileSystem& fs_;
};

TEST_P(FileSystemConformance, ReadsBackWhatWasWritten) {
  auto file = fs_.open_write(path("a"), OpenMode::kCreateExclusive);
  ASSERT_TRUE(file.is_ok()) << file.status().to_string();
  EXPECT_TRUE((*file)->write(bytes_of("hello ")).is_ok());
  EXPECT_TRUE((*file)->write({}).is_ok());
  EXPECT_TRUE((*file)->write(bytes_of("world")).is_ok());
  EXPECT_TRUE((*file)->sync().is_ok());
  EXPECT_TRUE((*file)->close().is_ok());
  EXPECT_TRUE((*file)->close().is_ok());
  EXPECT_EQ(get("a"), "hello world");
  auto reader = fs_.open_read(path("a"));
  ASSERT_TRUE(reader.is_ok());
  EXPECT_EQ((*reader)->size_bytes().value(), 11u);
  std::string middle(5, ' ');
  EXPECT_TRUE((*reader)->read(6, std::as_writable_bytes(std::span(middle))).is_ok());
  EXPECT_EQ(middle, "world");
}

TEST_P(FileSystemConformance, WritingAfterCloseIsTheCallersMistake) {
  auto file = fs_.open_write(path("a"), OpenMode::kTruncate);
  EXPECT_TRUE((*file)->close().is_ok());
  EXPECT_THROW((*file)->write(bytes_of("x")).ignore(), UsageError);
}

TEST_P(FileSystemConformance, OpenModesTreatAnExistingFileAsTheySay) {
  put("a", "old");
  EXPECT_EQ(fs_.open_write(path("a"), OpenMode::kCreateExclusive).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(get("a"), "old");
  ASSERT_TRUE(write_and_sync_file(fs_, path("a"), " and new", OpenMode::kAppend).is_ok());
  EXPECT_EQ(get("a"), "old and new");
  ASSERT_TRUE(write_and_sync_file(fs_, path("a"), "new", OpenMode::kTruncate).is_ok());
  EXPECT_EQ(get("a"), "new");
  ASSERT_TRUE(write_and_sync_file(fs_, path("b"), "made", OpenMode::kAppend).is_ok());
  EXPECT_EQ(get("b"), "made");
}

TEST_P(FileSystemConformance, ReadingPastTheEndIsCorruptionThatSaysWhere) {
  put("a", "12345");
  auto reader = fs_.open_read(path("a"));
  std::string out(4, ' ');
  Status status = (*reader)->read(3, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(status.code(), StatusCode::kCorruption);
  EXPECT_THAT(status.message(), HasSubstr(path("a")));
  EXPECT_THAT(status.message(), HasSubstr("ends at byte 5"));
  EXPECT_THAT(status.message(), HasSubstr("expected 4 bytes from byte 3"));
  EXPECT_EQ((*reader)->read(100, std::as_writable_bytes(std::span(out))).code(),
            StatusCode::kCorruption);
}

TEST_P(FileSystemConformance, MissingNamesAreNotFoundAndNamed) {
  const std::string nowhere = path("no/such");
  const std::vector<std::function<Status()>> calls = {
      [&] { return fs_.open_write(nowhere, OpenMode::kTruncate).status(); },
      [&] { return fs_.open_read(nowhere).status(); },
      [&] { return fs_.list(nowhere).status(); },
      [&] { return fs_.stat(nowhere).status(); },
      [&] { return fs_.make_dir(nowhere); },
      [&] { return fs_.rename(nowhere, path("x")); },
      [&] { return fs_.remove(nowhere); },
      [&] { return fs_.sync_dir(nowhere); },
      [&] { return fs_.free_bytes(nowhere).status(); },
      [&] { return fs_.truncate(nowhere, 0); },
  };
  for (size_t i = 0; i < calls.size(); ++i) {
    const Status status = calls[i]();
    EXPECT_EQ(status.code(), StatusCode::kNotFound) << "call " << i << ": " << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr(nowhere)) << "call " << i;
    EXPECT_THAT(status.message(), HasSubstr("No such file or directory")) << "call " << i;
  }
}

TEST_P(FileSystemConformance, AFileInTheMiddleOfAPathIsAnIoError) {
  put("a", "x");
  EXPECT_EQ(fs_.stat(path("a/b")).status().code(), StatusCode::kIoError);
  EXPECT_EQ(fs_.stat(path("a/.")).status().code(), StatusCode::kIoError);
  EXPECT_EQ(fs_.list(path("a")).status().code(), StatusCode::kIoError);
  EXPECT_EQ(fs_.sync_dir(path("a")).code(), StatusCode::kIoError);
}

TEST_P(FileSystemConformance, FoldersAreNotFiles) {
  ASSERT_TRUE(fs_.make_dir(path("d")).is_ok());
  EXPECT_EQ(fs_.make_dir(path("d")).code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(fs_.open_read(path("d")).status().code(), StatusCode::kIoError);
  EXPECT_THAT(fs_.open_read(path("d")).status().message(),
              HasSubstr("not a regular file but a folder"));
  EXPECT_EQ(fs_.open_write(path("d"), OpenMode::kTruncate).status().code(), StatusCode::kIoError);
  EXPECT_EQ(fs_.open_write(path("d"), OpenMode::kCreateExclusive).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(fs_.truncate(path("d"), 0).code(), StatusCode::kIoError);
}

TEST_P(FileSystemConformance, ListsSortedWithTypes) {
  put("b", "12");
  put("a", "");
  ASSERT_TRUE(fs_.make_dir(path("c")).is_ok());
  auto entries = fs_.list(subject_.root);
  ASSERT_TRUE(entries.is_ok());
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[1].name, "b");
  EXPECT_EQ((*entries)[1].type, FileType::kFile);
  EXPECT_EQ((*entries)[2].name, "c");
  EXPECT_EQ((*entries)[2].type, FileType::kDirectory);
  EXPECT_EQ(fs_.stat(path("b"))->size_bytes, 2u);
  EXPECT_EQ(fs_.stat(path("b"))->type, FileType::kFile);
  EXPECT_EQ(fs_.stat(path("c"))->type, FileType::kDirectory);
}

TEST_P(FileSystemConformance, RenameReplacesAFileButNeverAFolder) {
  put("a", "a");
  put("b", "b");
  ASSERT_TRUE(fs_.make_dir(path("d")).is_ok());
  ASSERT_TRUE(fs_.make_dir(path("e")).is_ok());
  put("d/inside", "inside");
  EXPECT_TRUE(fs_.rename(path("a"), path("b")).is_ok());
  EXPECT_EQ(get("b"), "a");
  EXPECT_EQ(fs_.stat(path("a")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(fs_.rename(path("d"), path("e")).code(),
            StatusCode::kAlreadyExists);  // although e is empty
  EXPECT_EQ(fs_.rename(path("e"), path("d")).code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(fs_.rename(path("b"), path("e")).code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(fs_.rename(path("d"), path("b")).code(), StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs_.rename(path("d"), path("f")).is_ok());
  EXPECT_EQ(get("f/inside"), "inside");
  EXPECT_TRUE(fs_.rename(path("f"), path("e/f")).is_ok());
  EXPECT_EQ(get("e/f/inside"), "inside");
  EXPECT_EQ(fs_.rename(path("e"), path("e/f/g")).code(), StatusCode::kIoError);
}

TEST_P(FileSystemConformance, RemovesFilesAndEmptyFoldersOnly) {
  ASSERT_TRUE(fs_.make_dir(path("d")).is_ok());
  put("d/a", "x");
  EXPECT_EQ(fs_.remove(path("d")).code(), StatusCode::kIoError);
  EXPECT_TRUE(fs_.remove(path("d/a")).is_ok());
  EXPECT_TRUE(fs_.remove(path("d")).is_ok());
  EXPECT_EQ(exists(fs_, path("d")).value(), false);
}

TEST_P(FileSystemConformance, TruncateCutsAndFillsWithZeros) {
  put("a", "12345");
  EXPECT_TRUE(fs_.truncate(path("a"), 2).is_ok());
  EXPECT_EQ(get("a"), "12");
  EXPECT_TRUE(fs_.truncate(path("a"), 4).is_ok());
  EXPECT_EQ(get("a"), std::string("12\0\0", 4));
}

TEST_P(FileSystemConformance, AnOpenFileIsCutAndGoesOnThere) {
  for (const OpenMode mode : {OpenMode::kTruncate, OpenMode::kAppend}) {
    ASSERT_TRUE(write_and_sync_file(fs_, path("a"), "", OpenMode::kTruncate).is_ok());
    auto file = fs_.open_write(path("a"), mode);
    ASSERT_TRUE(file.is_ok()) << file.status().to_string();
    EXPECT_TRUE((*file)->write(bytes_of("hello world")).is_ok());
    EXPECT_TRUE((*file)->cut(5).is_ok());
    EXPECT_EQ(get("a"), "hello");
    EXPECT_TRUE((*file)->write(bytes_of(", you")).is_ok());
    EXPECT_TRUE((*file)->sync().is_ok());
    EXPECT_EQ(get("a"), "hello, you");
  }
}

TEST_P(FileSystemConformance, AnOpenReaderSurvivesRenameAndRemove) {
  put("a", "kept");
  auto reader = fs_.open_read(path("a"));
  ASSERT_TRUE(reader.is_ok());
  ASSERT_TRUE(fs_.rename(path("a"), path("b")).is_ok());
  ASSERT_TRUE(fs_.remove(path("b")).is_ok());
  ASSERT_TRUE(fs_.sync_dir(subject_.root).is_ok());
  std::string out(4, ' ');
  EXPECT_TRUE((*reader)->read(0, std::as_writable_bytes(std::span(out))).is_ok());
  EXPECT_EQ(out, "kept");
}

TEST_P(FileSystemConformance, FreeBytesIsPositiveOnAWorkingDisk) {
  auto free = fs_.free_bytes(subject_.root);
  ASSERT_TRUE(free.is_ok());
  EXPECT_GT(*free, 0u);
}

TEST_P(FileSystemConformance, ReadWholeFileRefusesMoreThanTheLimit) {
  put("a", "123456");
  auto content = read_whole_file(fs_, path("a"), 5);
  EXPECT_EQ(content.status().code(), StatusCode::kCorruption);
  EXPECT_THAT(content.status().message(), HasSubstr("6 bytes, but at most 5"));
  EXPECT_EQ(read_whole_file(fs_, path("a"), 6).value(), "123456");
}

TEST_P(FileSystemConformance, MakeDirsDurableMakesAllThatIsMissing) {
  EXPECT_TRUE(make_dirs_durable(fs_, path("x/y/z")).is_ok());
  EXPECT_TRUE(make_dirs_durable(fs_, path("x/y/z")).is_ok());
  EXPECT_EQ(fs_.stat(path("x/y/z"))->type, FileType::kDirectory);
  put("file", "");
  EXPECT_EQ(make_dirs_durable(fs_, path("file")).code(), StatusCode::kIoError);
  EXPECT_EQ(make_dirs_durable(fs_, path("file/below")).code(), StatusCode::kIoError);
}

TEST_P(FileSystemConformance, RemoveTreeRemovesAllAndAcceptsNothing) {
  ASSERT_TRUE(make_dirs_durable(fs_, path("x/y/z")).is_ok());
  put("x/a", "1");
  put("x/y/b", "2");
  EXPECT_TRUE(remove_tree(fs_, path("x")).is_ok());
  EXPECT_EQ(exists(fs_, path("x")).value(), false);
  EXPECT_TRUE(remove_tree(fs_, path("x")).is_ok());
}

INSTANTIATE_TEST_SUITE_P(All, FileSystemConformance,
                         ::testing::Values("posix", "memory", "posix_behind_faults",
                                           "memory_behind_faults"),
                         [](const auto& info) { return info.param; });

class PosixFiles : public ::testing::Test {
 protected:
  ~PosixFiles() override { std::filesystem::remove_all(root_); }
  std::string path(std::string_view name) const { return path_join(root_, name); }
  FileSystem& fs_ = posix_file_system();
  std::string root_ = make_scratch_folder();
};

TEST(OutputErrors, AMissingFolderIsNoMissingInput) {
  Status status = as_output_error(not_found_error("open a/b"));
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_EQ(status.message(), "open a/b; make the folder first");
  EXPECT_EQ(as_output_error(corruption_error("x")).code(), StatusCode::kCorruption);
  EXPECT_TRUE(as_output_error(Status::ok()).is_ok());
}

TEST_F(PosixFiles, SymbolicLinksAreNotFollowedToFiles) {
  ASSERT_TRUE(write_and_sync_file(fs_, path("a"), "secret", OpenMode::kTruncate).is_ok());
  std::filesystem::create_symlink(path("a"), path("link"));
  EXPECT_EQ(fs_.stat(path("link"))->type, FileType::kSymlink);
  EXPECT_EQ(fs_.open_read(path("link")).status().code(), StatusCode::kIoError);
  EXPECT_THAT(fs_.open_read(path("link")).status().message(),
              HasSubstr("symbolic links are not followed"));
  EXPECT_EQ(fs_.open_write(path("link"), OpenMode::kTruncate).status().code(),
            StatusCode::kIoError);
  EXPECT_EQ(fs_.truncate(path("link"), 0).code(), StatusCode::kIoError);
  EXPECT_EQ(*read_whole_file(fs_, fs_.follow_links(path("link")), 100), "secret");
  EXPECT_EQ(fs_.follow_links(path("absent")), path("absent"));
  EXPECT_TRUE(fs_.remove(path("link")).is_ok());
  EXPECT_EQ(read_whole_file(fs_, path("a"), 100).value(), "secret");
}

TEST_F(PosixFiles, RemoveTreeRemovesALinkAndNotWhatItPointsAt) {
  ASSERT_TRUE(fs_.make_dir(path("kept")).is_ok());
  ASSERT_TRUE(fs_.make_dir(path("gone")).is_ok());
  ASSERT_TRUE(write_and_sync_file(fs_, path("kept/a"), "x", OpenMode::kTruncate).is_ok());
  std::filesystem::create_directory_symlink(path("kept"), path("gone/link"));
  EXPECT_TRUE(remove_tree(fs_, path("gone")).is_ok());
  EXPECT_EQ(read_whole_file(fs_, path("kept/a"), 100).value(), "x");
}

TEST_F(PosixFiles, ARunFolderMayBeALinkToAnotherDisk) {
  ASSERT_TRUE(fs_.make_dir(path("elsewhere")).is_ok());
  std::filesystem::create_directory_symlink(path("elsewhere"), path("run"));
  EXPECT_TRUE(make_dirs_durable(fs_, path("run/checkpoints")).is_ok());
  EXPECT_EQ(fs_.list(path("run"))->size(), 1u);
  EXPECT_TRUE(fs_.sync_dir(path("run")).is_ok());
  EXPECT_EQ(exists(fs_, path("elsewhere/checkpoints")).value(), true);
}

TEST_F(PosixFiles, ANamedPipeIsRefusedAndNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(fs_.open_read(path("pipe")).status().code(), StatusCode::kIoError);
  EXPECT_THAT(fs_.open_read(path("pipe")).status().message(), HasSubstr("not a regular file"));
}

TEST_F(PosixFiles, AFullDiskIsResourceExhaustedAndTheFileIsDoneFor) {
  auto file = fs_.open_write("/dev/full", OpenMode::kAppend);
  ASSERT_TRUE(file.is_ok()) << file.status().to_string();
  Status status = (*file)->write(bytes_of("x"));
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("write /dev/full: No space left on device"));
  EXPECT_EQ((*file)->sync().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ((*file)->write({}).code(), StatusCode::kResourceExhausted);
}

TEST(Paths, JoinAndParentAreWhatTheShellWouldSay) {
  EXPECT_EQ(path_join("a", "b"), "a/b");
  EXPECT_EQ(path_join("a/", "b"), "a/b");
  EXPECT_EQ(path_join("", "b"), "b");
  EXPECT_EQ(path_join("/", "b"), "/b");
  EXPECT_EQ(path_parent("a/b"), "a");
  EXPECT_EQ(path_parent("a/b/"), "a");
  EXPECT_EQ(path_parent("b"), ".");
  EXPECT_EQ(path_parent("/b"), "/");
  EXPECT_EQ(path_parent("/"), "/");
  EXPECT_EQ(path_parent("a//b"), "a");
}

}  // namespace
}  // namespace lockstep
