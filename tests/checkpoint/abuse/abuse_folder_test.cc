// Folders that are not what they should be: links, files in the place of folders, files added, and
// a checkpoint that is deleted while it is read. Elsewhere: a disk that is not shared while it
// saves (save_restore_test.cc), a full disk (damage_test.cc, launch/failures_test.py).

// Covers: restore.cc run_folder.cc ckpt_verify.cc
#include <atomic>
#include <cstdlib>
#include <filesystem>

#include "abuse_run.h"
#include "checkpoint/forwarding_file_system.h"

namespace lockstep {
namespace {

using AbuseFolder = AbuseRun;

TEST_F(AbuseFolder, AFileWithTheNameOfACheckpointStopsTheRun) {
  overwrite_file(fs_, "/run/checkpoints/gen-000003-step-0000000030", "not a folder");
  const auto before = all_files(fs_, "/run/checkpoints");
  TestState read(medium_schema(), 0);
  const auto refused = restore_state(fs_, 2, read);
  EXPECT_EQ(refused.status().code(), StatusCode::kCorruption);
  EXPECT_THAT(
      refused.status().message(),
      HasSubstr("/run/checkpoints/gen-000003-step-0000000030 has the name of a checkpoint"));
  EXPECT_EQ(all_files(fs_, "/run/checkpoints"), before);
  // Also where it is all there is: never from the beginning in silence.
  MemoryFileSystem other;
  ASSERT_TRUE(make_dirs_durable(other, "/run/checkpoints").is_ok());
  overwrite_file(other, "/run/checkpoints/gen-000001-step-0000000010", "");
  EXPECT_EQ(restore_state(other, 1, read).status().code(), StatusCode::kCorruption);
  const auto never = restore_state(
      other, 1, read, [](RestoreRequest& request) { request.mode = ResumeMode::kNever; });
  EXPECT_EQ(never.status().code(), StatusCode::kInvalidArgument);
}

TEST_F(AbuseFolder, FilesThatWereAddedAreToldByVerifyAndHarmNothing) {
  overwrite_file(fs_, path_join(newest_, "shard-00003-of-00004.safetensors"), "x");
  overwrite_file(fs_, path_join(newest_, "notes.txt"), "x");
  const auto report = verify_checkpoint(fs_, newest_);
  ASSERT_TRUE(report.is_ok());
  ASSERT_EQ(report->problems.size(), 2U);
  EXPECT_THAT(report->problems[0], HasSubstr(path_join(newest_, "notes.txt")));
  EXPECT_THAT(report->problems[1], HasSubstr("the manifest does not name it"));
  TestState read(medium_schema(), 0);
  const auto restored = restore_state(fs_, 2, read);
  ASSERT_TRUE(restored.is_ok()) << restored.status().message();
  EXPECT_EQ((*restored)->step, 20);
  EXPECT_TRUE(read == new_);
}

TEST_F(AbuseFolder, ARenamedShardIsMissing) {
  ASSERT_TRUE(fs_.rename(shard(1), path_join(newest_, "shard-00001-of-00003.bak")).is_ok());
  TestState read(medium_schema(), 0);
  const auto refused = restore_state(fs_, 2, read, [&](RestoreRequest& request) {
    request.mode = ResumeMode::kPath;
    request.path = newest_;
  });
  EXPECT_EQ(refused.status().code(), StatusCode::kCorruption);
  EXPECT_THAT(refused.status().message(), HasSubstr("shard-00001-of-00003.safetensors"));
  EXPECT_EQ(read_manifest(fs_, newest_, nullptr).status().code(), StatusCode::kOk);
  EXPECT_EQ(exit_code_for(export_checkpoint(fs_, newest_, "/run/out", true).status()),
            ExitCode::kData);
}

TEST_F(AbuseFolder, ARenamedCheckpointIsNotTheOneThatItsNameSays) {
  const std::string renamed = "/run/checkpoints/gen-000005-step-0000000050";
  ASSERT_TRUE(fs_.rename(newest_, renamed).is_ok());
  newest_ = renamed;
  expect_path_refused(StatusCode::kCorruption, "is the manifest of gen-000002-step-0000000020");
}

TEST_F(AbuseFolder, TwoCheckpointsOfOneGenerationStopTheRun) {
  for (const auto& [path, content] : all_files(fs_, newest_)) {
    const std::string copy = "/run/checkpoints/gen-000002-step-0000000021";
    ASSERT_TRUE(make_dirs_durable(fs_, copy).is_ok());
    overwrite_file(fs_, copy + path.substr(newest_.size()), content);
  }
  const auto before = all_files(fs_, "/run/checkpoints");
  TestState read(medium_schema(), 0);
  const auto refused = restore_state(fs_, 2, read);
  EXPECT_THAT(refused.status().message(), HasSubstr("two checkpoints of generation 2"));
  EXPECT_EQ(exit_code_for(refused.status()), ExitCode::kData);
  EXPECT_EQ(all_files(fs_, "/run/checkpoints"), before);
}

/// Deletes a folder with all that is in it at the kth look at anything in it.
class DeletingFileSystem : public ForwardingFileSystem {
 public:
  DeletingFileSystem(FileSystem& base, std::string folder, int kth)
      : ForwardingFileSystem(base), folder_(std::move(folder)), left_(kth) {}

  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
    look(path);
    return base_.open_read(path);
  }
  Result<std::unique_ptr<BulkReadableFile>> open_bulk(const std::string& path,
                                                      const BulkOptions& options) override {
    look(path);
    return base_.open_bulk(path, options);
  }
  Result<std::vector<DirectoryEntry>> list(const std::string& path) override {
    look(path);
    return base_.list(path);
  }
  Result<FileInfo> stat(const std::string& path) override {
    look(path);
    return base_.stat(path);
  }
  bool has_deleted() const { return left_ <= 0; }

 private:
  void look(const std::string& path) {
    if (path.starts_with(folder_) && --left_ == 0)
      LOCKSTEP_CHECK(remove_tree(base_, folder_).is_ok(), "deleting ", folder_);
  }
  std::string folder_;
  std::atomic<int> left_;
};

std::unique_ptr<MemoryFileSystem> copy_of(const MemoryFileSystem& fs) {
  return fs.after_crash(std::vector<CrashFate>(fs.unsynced().size(), {CrashFate::Kind::kKept, 0}));
}

TEST_F(AbuseFolder, ACheckpointThatIsDeletedWhileItIsRead) {
  int num_stopped = 0;
  for (int kth = 1;; ++kth) {
    SCOPED_TRACE(kth);
    const auto copy = copy_of(fs_);
    DeletingFileSystem deleting(*copy, newest_, kth);
    TestState read(medium_schema(), 0);
    const auto restored = restore_state(deleting, 2, read);
    EXPECT_FALSE(exists(*copy, "/run/checkpoints/quarantine/gen-000002-step-0000000020").value());
    if (restored.is_ok()) {
      EXPECT_TRUE(read == new_) << "it was read before it was deleted";
    } else {
      ++num_stopped;
      const ExitCode exit = exit_code_for(restored.status());
      EXPECT_TRUE(exit == ExitCode::kData || exit == ExitCode::kIo);
      EXPECT_THAT(restored.status().message(), HasSubstr(newest_));
      EXPECT_THAT(restored.status().message(), HasSubstr("somebody deletes checkpoints"));
      TestState again(medium_schema(), 0);
      const auto older = restore_state(*copy, 2, again);
      ASSERT_TRUE(older.is_ok()) << older.status().message();
      EXPECT_TRUE(again == old_) << "the older one is untouched";
    }
    if (!deleting.has_deleted()) break;
  }
  EXPECT_GT(num_stopped, 5);
}

TEST_F(AbuseFolder, ACheckpointThatIsDeletedUnderATool) {
  const auto tools = std::vector<std::function<Status(FileSystem&)>>{
      [&](FileSystem& fs) {
        const auto report = verify_checkpoint(fs, newest_, {.num_threads = 2});
        if (!report.is_ok()) return report.status();
        return report->is_good() ? Status::ok() : corruption_error(join(report->problems, "\n"));
      },
      [&](FileSystem& fs) { return read_manifest(fs, newest_, nullptr).status(); },
      [&](FileSystem& fs) { return export_checkpoint(fs, newest_, "/run/o", true).status(); },
      [&](FileSystem& fs) {
        return diff_checkpoints(fs, newest_, "/run/checkpoints/gen-000001-step-0000000010")
            .status();
      }};
  for (const auto& tool : tools) {
    int num_refused = 0;
    for (int kth = 1;; ++kth) {
      SCOPED_TRACE(kth);
      const auto copy = copy_of(fs_);
      DeletingFileSystem deleting(*copy, newest_, kth);
      const Status status = tool(deleting);
      if (!status.is_ok()) {
        ++num_refused;
        const ExitCode exit = exit_code_for(status);
        EXPECT_TRUE(exit == ExitCode::kData || exit == ExitCode::kIo) << status.message();
        EXPECT_THAT(status.message(), HasSubstr(newest_));
      }
      if (!deleting.has_deleted()) break;
    }
    EXPECT_GT(num_refused, 0);
  }
}

TEST_F(AbuseFolder, RanksThatSeeDifferentDisksMoveNothing) {
  MemoryFileSystem own;  // of rank 1: node-local, with a run folder but without its checkpoints
  ASSERT_TRUE(make_dirs_durable(own, "/run/checkpoints").is_ok());
  const auto before = all_files(fs_, "/run/checkpoints");
  const Status status = with_ranks(2, [&](World& world) -> Status {
    FileSystem& fs = world.world_rank() == 1 ? own : fs_;
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    TestState read(medium_schema(), 0);
    const OwnedState into = read.owned(world.world_rank(), 2);
    return checkpointer.restore(restore_request_of(read, into)).status();
  });
  EXPECT_EQ(status.code(), StatusCode::kIoError) << status.message();
  EXPECT_THAT(status.message(), HasSubstr("rank 1"));
  EXPECT_THAT(status.message(), HasSubstr("check that all hosts see the same disk"));
  EXPECT_EQ(all_files(fs_, "/run/checkpoints"), before);
}

/// The same on the system's own files, in a folder of odd letters that goes away with the test.
class AbusePosix : public ::testing::Test {
 protected:
  AbusePosix() : old_(small_schema(), 1), new_(small_schema(), 2) {
    std::string pattern =
        path_join(std::filesystem::temp_directory_path().string(), "abuse-XXXXXX");
    LOCKSTEP_CHECK(::mkdtemp(pattern.data()) != nullptr, pattern);
    root_ = pattern;
    run_ = root_ + "/a run \xc3\xbc\xe2\x82\xac 'q\" $HOME";
    LOCKSTEP_CHECK(save_state(fs_, 2, old_, 10, tweak()).is_ok(), "the first save");
    newest_ = save_state(fs_, 2, new_, 20, tweak()).value().path;
  }
  ~AbusePosix() override { std::filesystem::remove_all(root_); }

  TweakOptions tweak() const {
    return [run = run_](CheckpointerOptions& options) { options.run_dir = run; };
  }
  Result<std::optional<Restored>> restore(TestState& into, const std::string& path = {}) {
    return restore_state(
        fs_, 2, into,
        [&](RestoreRequest& request) {
          if (path.empty()) return;
          request.mode = ResumeMode::kPath;
          request.path = path;
        },
        tweak());
  }

  FileSystem& fs_ = posix_file_system();
  TestState old_;
  TestState new_;
  std::string root_;
  std::string run_;
  std::string newest_;
};

TEST_F(AbusePosix, PathsWithSpacesAndOddLetters) {
  TestState read(small_schema(), 0);
  const auto restored = restore(read);
  ASSERT_TRUE(restored.is_ok()) << restored.status().message();
  EXPECT_TRUE(read == new_);
  EXPECT_TRUE(verify_checkpoint(fs_, newest_, {.num_threads = 2})->is_good());
  EXPECT_EQ(list_checkpoints(fs_, run_)->size(), 2U);
  const std::string out = run_ + "/w \xc3\xa9.safetensors";
  EXPECT_TRUE(export_checkpoint(fs_, newest_, out, true).is_ok());
  EXPECT_TRUE(exists(fs_, out).value());
}

TEST_F(AbusePosix, LinksAreNotFollowed) {
  const std::string shard = newest_ + "/shard-00001-of-00002.safetensors";
  for (const std::string& path : {shard, newest_ + "/manifest.json"}) {
    SCOPED_TRACE(path);
    std::filesystem::rename(path, root_ + "/elsewhere");
    std::filesystem::create_symlink(root_ + "/elsewhere", path);
    TestState read(small_schema(), 0);
    for (const std::string& named : {std::string(), newest_}) {
      const auto refused = restore(read, named);
      EXPECT_EQ(refused.status().code(), StatusCode::kIoError) << refused.status().message();
      EXPECT_THAT(refused.status().message(), HasSubstr(path));
      EXPECT_THAT(refused.status().message(), HasSubstr("symbolic links are not followed"));
    }
    EXPECT_EQ(verify_checkpoint(fs_, newest_).status().code(), StatusCode::kIoError);
    EXPECT_EQ(export_checkpoint(fs_, newest_, root_ + "/out", false).status().code(),
              StatusCode::kIoError);
    EXPECT_TRUE(exists(fs_, newest_).value()) << "nothing was moved";
    std::filesystem::rename(root_ + "/elsewhere", path);
  }
}

TEST_F(AbusePosix, ALinkWithTheNameOfACheckpointStopsTheRun) {
  std::filesystem::create_directory_symlink(newest_,
                                            run_ + "/checkpoints/gen-000009-step-0000000090");
  TestState read(small_schema(), 0);
  const auto refused = restore(read);
  EXPECT_EQ(refused.status().code(), StatusCode::kCorruption);
  EXPECT_THAT(refused.status().message(), HasSubstr("symbolic link"));
  // In place of the newest: not the older one in silence.
  std::filesystem::remove(run_ + "/checkpoints/gen-000009-step-0000000090");
  std::filesystem::rename(newest_, root_ + "/elsewhere");
  std::filesystem::create_directory_symlink(root_ + "/elsewhere", newest_);
  EXPECT_EQ(restore(read).status().code(), StatusCode::kCorruption);
}

TEST_F(AbusePosix, AHeaderOfMoreThanReadersTakeIsNotRead) {
  const std::string shard = newest_ + "/shard-00001-of-00002.safetensors";
  std::filesystem::resize_file(shard, 300'000'000);  // a hole: no disk is used
  std::string head = read_whole_file(fs_, newest_ + "/manifest.json", 1 << 20).value();
  Manifest manifest = parse_manifest(head, "m").value();
  manifest.shards[1].bytes = 300'000'000;
  overwrite_file(fs_, newest_ + "/manifest.json", manifest_text(manifest));
  std::filesystem::permissions(shard, std::filesystem::perms::owner_all);
  {
    auto file = std::fopen(shard.c_str(), "r+b");
    ASSERT_NE(file, nullptr);
    const unsigned char length[8] = {0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0};  // 100,000,001
    ASSERT_EQ(std::fwrite(length, 1, 8, file), 8U);
    ASSERT_EQ(std::fclose(file), 0);
  }
  TestState read(small_schema(), 0);
  const auto refused = restore(read, newest_);
  EXPECT_EQ(refused.status().code(), StatusCode::kCorruption);
  EXPECT_THAT(refused.status().message(), HasSubstr("a header of 100000001 bytes"));
  EXPECT_THAT(verify_checkpoint(fs_, newest_)->problems.at(0), HasSubstr("at most 100000000"));
}

}  // namespace
}  // namespace lockstep
