// What restore makes of damage, and save of errors: only proven bad content is set aside, errors
// move nothing.

// Covers: block_hashes.cc block_stream.cc restore.cc run_folder.cc
#include <gmock/gmock.h>

#include "forwarding_file_system.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

class Damage : public ::testing::Test {
 protected:
  Damage() : old_(small_schema(), 1), new_(small_schema(), 2) {
    LOCKSTEP_CHECK(save_state(fs_, 2, old_, 10).is_ok(), "the first save");
    newest_ = save_state(fs_, 2, new_, 20).value().path;
    shard_ = path_join(newest_, "shard-00001-of-00002.safetensors");  // the one with the blocks
    manifest_ = path_join(newest_, "manifest.json");
  }

  std::string bytes(const std::string& path) { return read_whole_file(fs_, path, 1 << 20).value(); }

  /// The newest is bad: the older one comes back, on every world, and the bad one is kept for
  /// people.
  void expect_fall_back() {
    TestState read(small_schema(), 0);
    const auto restored = restore_state(fs_, 3, read);
    ASSERT_TRUE(restored.is_ok()) << restored.status().message();
    EXPECT_EQ((*restored)->step, 10);
    EXPECT_TRUE(read == old_);
    const std::string quarantined = "/run/checkpoints/quarantine/gen-000002-step-0000000020";
    EXPECT_THAT((*restored)->quarantined, ::testing::ElementsAre(quarantined));
    EXPECT_FALSE(exists(fs_, newest_).value());
    EXPECT_TRUE(exists(fs_, quarantined).value());
  }

  MemoryFileSystem fs_;
  TestState old_;
  TestState new_;
  std::string newest_;
  std::string shard_;
  std::string manifest_;
};

TEST_F(Damage, AMissingShard) {
  ASSERT_TRUE(fs_.remove(shard_).is_ok());
  expect_fall_back();
}

TEST_F(Damage, ATruncatedShard) {
  ASSERT_TRUE(fs_.truncate(shard_, bytes(shard_).size() - 1).is_ok());
  expect_fall_back();
}

TEST_F(Damage, ATrailingByte) {
  overwrite_file(fs_, shard_, bytes(shard_) + "x");
  expect_fall_back();
}

TEST_F(Damage, AShardOfAnotherGeneration) {
  overwrite_file(
      fs_, shard_,
      bytes("/run/checkpoints/gen-000001-step-0000000010/shard-00001-of-00002.safetensors"));
  expect_fall_back();
}

TEST_F(Damage, TwoShardsExchanged) {
  const std::string other = path_join(newest_, "shard-00000-of-00002.safetensors");
  const std::string content = bytes(shard_);
  overwrite_file(fs_, shard_, bytes(other));
  overwrite_file(fs_, other, content);
  expect_fall_back();
}

TEST_F(Damage, AShardWithoutBlocks) {
  overwrite_file(fs_, path_join(newest_, "shard-00000-of-00002.safetensors"), "");
  expect_fall_back();
}

TEST_F(Damage, AnEmptyManifest) {
  overwrite_file(fs_, manifest_, "");
  expect_fall_back();
}

TEST_F(Damage, AMissingManifest) {
  ASSERT_TRUE(fs_.remove(manifest_).is_ok());
  expect_fall_back();
}

TEST_F(Damage, AManifestOfAnotherGeneration) {
  overwrite_file(fs_, manifest_,
                 bytes("/run/checkpoints/gen-000001-step-0000000010/manifest.json"));
  expect_fall_back();
}

TEST_F(Damage, ABitFlippedInEach13thByteIsNoticed) {
  int num_flips = 0;
  for (const auto& [path, content] : all_files(fs_, newest_)) {
    for (size_t i = 0; i < content.size(); i += 13) {
      std::string flipped = content;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
      overwrite_file(fs_, path, flipped);
      TestState read(small_schema(), 0);
      const auto restored = restore_state(fs_, 1, read, [&](RestoreRequest& request) {
        request.mode = ResumeMode::kPath;
        request.path = newest_;
      });
      ASSERT_EQ(restored.status().code(), StatusCode::kCorruption) << path << " byte " << i;
      ++num_flips;
    }
    overwrite_file(fs_, path, content);
  }
  EXPECT_GT(num_flips, 800);
}

TEST_F(Damage, NoGoodOneLeftEndsTheRun) {
  overwrite_file(fs_, manifest_, "");
  overwrite_file(fs_, "/run/checkpoints/gen-000001-step-0000000010/manifest.json", "{}");
  TestState read(small_schema(), 0);
  for (int start = 0; start < 2; ++start) {  // the second start finds them all in quarantine
    const auto restored = restore_state(fs_, 2, read);
    EXPECT_EQ(restored.status().code(), StatusCode::kCorruption);
    EXPECT_THAT(restored.status().message(), HasSubstr("none is good"));
  }
}

TEST_F(Damage, ANewerFormatStopsAndMovesNothing) {
  std::string text = bytes(manifest_);
  text = text.substr(0, text.find(" \"manifest_hash\""));
  text.replace(text.find("\"format_version\":1"), 18, "\"format_version\":2");
  overwrite_file(fs_, manifest_,
                 cat(text, " \"manifest_hash\":\"", xxh3_128(text).hex(), "\"\n}\n"));
  TestState read(small_schema(), 0);
  EXPECT_EQ(restore_state(fs_, 2, read).status().code(), StatusCode::kUnsupported);
  EXPECT_TRUE(exists(fs_, newest_).value());
}

TEST_F(Damage, AnErrorOfTheDiskStopsAndMovesNothing) {
  for (FileOperation operation :
       {FileOperation::kOpenRead, FileOperation::kRead, FileOperation::kList}) {
    for (uint64_t nth = 1;; ++nth) {
      FaultFileSystem faulty(fs_);
      TestState read(small_schema(), 0);
      faulty.fail_nth(operation, nth, io_error("the disk says EIO"));
      const auto restored = restore_state(faulty, 2, read);
      EXPECT_TRUE(exists(fs_, newest_).value());
      if (restored.is_ok()) {
        EXPECT_GT(nth, 2U);
        EXPECT_TRUE(read == new_);
        break;
      }
      EXPECT_EQ(restored.status().code(), StatusCode::kIoError) << restored.status().message();
    }
  }
}

TEST_F(Damage, ContentThatOnlyOneRankFindsBadMovesNothing) {
  const Status status = with_ranks(2, [&](World& world) -> Status {
    FaultFileSystem own(fs_);
    if (world.world_rank() == 1)
      own.fail_nth(FileOperation::kRead, 4, corruption_error("torn on this host"));
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(own, world.control_plane())));
    TestState read(small_schema(), 0);
    const OwnedState into = read.owned(world.world_rank(), 2);
    return checkpointer.restore(restore_request_of(read, into)).status();
  });
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_THAT(status.message(), HasSubstr("rank 1"));
  EXPECT_THAT(status.message(), HasSubstr("finds the same files good"));
  EXPECT_TRUE(exists(fs_, newest_).value());
}

/// Flips one bit of the nth piece on its way to the disk.
class FlippingFileSystem final : public ForwardingFileSystem {
 public:
  FlippingFileSystem(FileSystem& base, int nth) : ForwardingFileSystem(base), left_(nth) {}
  Result<std::unique_ptr<BulkWritableFile>> create_bulk(const std::string& path,
                                                        const BulkOptions& options) override {
    LOCKSTEP_ASSIGN_OR_RETURN(auto file, base_.create_bulk(path, options));
    return std::unique_ptr<BulkWritableFile>(std::make_unique<File>(std::move(file), *this));
  }
  bool has_flipped() const { return left_ <= 0; }

 private:
  class File final : public BulkWritableFile {
   public:
    File(std::unique_ptr<BulkWritableFile> base, FlippingFileSystem& owner)
        : base_(std::move(base)), owner_(owner) {}
    Status start_write(uint64_t offset_bytes, std::span<const std::byte> bytes,
                       uint64_t ticket) override {
      if (--owner_.left_ != 0) return base_->start_write(offset_bytes, bytes, ticket);
      auto buffer = AlignedBuffer::make(bytes.size());
      LOCKSTEP_RETURN_IF_ERROR(buffer.status());
      flipped_ = std::move(*buffer);
      std::copy(bytes.begin(), bytes.end(), flipped_.bytes().begin());
      flipped_.bytes()[kFlippedByte] ^= std::byte{0x10};
      return base_->start_write(offset_bytes, flipped_.bytes().first(bytes.size()), ticket);
    }
    Result<BulkEnd> wait_one(Deadline deadline) override { return base_->wait_one(deadline); }
    int num_in_flight() const override { return base_->num_in_flight(); }
    std::string_view method() const override { return base_->method(); }
    Status set_size(uint64_t size_bytes) override { return base_->set_size(size_bytes); }
    Status sync() override { return base_->sync(); }
    Status close() override { return base_->close(); }

   private:
    static constexpr size_t kFlippedByte = 100;  // in use in each piece of the small state
    std::unique_ptr<BulkWritableFile> base_;
    FlippingFileSystem& owner_;
    AlignedBuffer flipped_;
  };
  int left_;
};

TEST_F(Damage, ABitFlippedBetweenStagingAndDiskIsCaughtAtRestore) {
  for (int nth = 1;; ++nth) {
    MemoryFileSystem disk;
    ASSERT_TRUE(save_state(disk, 1, old_, 10).is_ok());
    FlippingFileSystem flipping(disk, nth);
    const auto saved = save_state(flipping, 1, new_, 20);
    if (!flipping.has_flipped()) {
      EXPECT_GE(nth, 3);  // header and data at least
      break;
    }
    TestState read(small_schema(), 0);
    const auto restored = restore_state(disk, 2, read);
    ASSERT_TRUE(restored.is_ok()) << restored.status().message();
    EXPECT_EQ((*restored)->step, 10) << nth;
    EXPECT_TRUE(read == old_);
  }
}

TEST_F(Damage, ABitFlippedBetweenStagingAndDiskFailsASaveThatReadsBack) {
  for (int nth = 1;; ++nth) {
    MemoryFileSystem disk;
    ASSERT_TRUE(save_state(disk, 1, old_, 10).is_ok());
    FlippingFileSystem flipping(disk, nth);
    const auto saved = save_state(flipping, 1, new_, 20,
                                  [](CheckpointerOptions& options) { options.reads_back = true; });
    if (!flipping.has_flipped()) {
      EXPECT_TRUE(saved.is_ok());
      break;
    }
    EXPECT_EQ(saved.status().code(), StatusCode::kCorruption);
    EXPECT_THAT(saved.status().message(), HasSubstr("rank 0"));
    TestState read(small_schema(), 0);
    const auto restored = restore_state(disk, 2, read);
    ASSERT_TRUE(restored.is_ok());
    EXPECT_EQ((*restored)->step, 10);
    EXPECT_TRUE((*restored)->quarantined.empty());
  }
}

/// Fails the nth call of an operation in a third save. Returns false when the save did not notice.
bool save_with_error(MemoryFileSystem& fs, FileOperation operation, uint64_t nth,
                     const Status& error, TestState& state) {
  FaultFileSystem faulty(fs);
  std::vector<Status> statuses(2);
  std::vector<SaveOutcome> outcomes(2, SaveOutcome::kNone);
  bool began = true;
  const Status all = with_ranks(2, [&](World& world) -> Status {
    const auto rank = static_cast<size_t>(world.world_rank());
    auto checkpointer = Checkpointer::open(quiet_options(faulty, world.control_plane()));
    if (!checkpointer.is_ok()) {
      if (rank == 0) began = false;
      return checkpointer.status();
    }
    if (rank == 0) faulty.fail_nth(operation, nth, error);
    LOCKSTEP_RETURN_IF_ERROR(world.control_plane().barrier("fault set", Deadline::after_s(20)));
    const OwnedState owned = state.owned(world.world_rank(), 2);
    SaveRequest request;
    request.schema = &state.schema();
    request.owned = &owned;
    request.step = 30;
    statuses[rank] = checkpointer->save(request).status();
    outcomes[rank] = checkpointer->last_outcome();
    return Status::ok();
  });
  EXPECT_TRUE(began && all.is_ok());
  EXPECT_EQ(statuses[0].to_string(), statuses[1].to_string()) << "every rank returns the same";
  EXPECT_EQ(outcomes[0], outcomes[1]);
  if (statuses[0].is_ok()) return false;
  EXPECT_EQ(statuses[0].code(), error.code());
  EXPECT_THAT(statuses[0].message(), HasSubstr("rank "));
  EXPECT_NE(outcomes[0], SaveOutcome::kDurable);
  if (outcomes[0] == SaveOutcome::kFailed) {
    EXPECT_FALSE(exists(fs, "/run/checkpoints/gen-000003-step-0000000030").value());
  }
  return true;
}

TEST_F(Damage, AnErrorAtAnyCallOfASaveLeavesTheOldOne) {
  int num_failed = 0;
  for (const Status& error :
       {resource_exhausted_error("no space left"), io_error("the disk says EIO")}) {
    for (int i = 0; i < kNumFileOperations; ++i) {
      for (uint64_t nth = 1; nth < 40; ++nth) {
        const auto copy = fs_.after_crash(
            std::vector<CrashFate>(fs_.unsynced().size(), {CrashFate::Kind::kKept, 0}));
        TestState state(small_schema(), 3);
        if (!save_with_error(*copy, static_cast<FileOperation>(i), nth, error, state)) break;
        ++num_failed;
        // A new start goes on from there, and can save.
        TestState read(small_schema(), 0);
        const auto restored = restore_state(*copy, 1, read);
        ASSERT_TRUE(restored.is_ok()) << restored.status().message();
        EXPECT_TRUE(read == new_ || ((*restored)->step == 30 && read == state));
        EXPECT_TRUE(save_state(*copy, 2, state, 40).is_ok());
      }
    }
  }
  EXPECT_GT(num_failed, 50);
}

TEST_F(Damage, AFullDiskIsSeenBeforeAnythingIsWritten) {
  fs_.set_capacity_bytes(uint64_t{1} << 20);  // less than what a save wants to have to spare
  const auto before = all_files(fs_, "/run/checkpoints");
  TestState state(small_schema(), 3);
  const auto saved = save_state(fs_, 2, state, 30);
  EXPECT_EQ(saved.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(saved.status().message(), HasSubstr("Free some space"));
  EXPECT_EQ(all_files(fs_, "/run/checkpoints"), before);
}

}  // namespace
}  // namespace lockstep
