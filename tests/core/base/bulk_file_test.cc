// One suite of behaviour for every way in which large files travel: in memory, behind planned
// faults, and on a real disk by io_uring, by threads, and through the page cache.
// Covers: memory_bulk_file.cc posix_aligned_buffer.cc posix_bulk_file.cc posix_calls.cc
// Covers: posix_thread_engine.cc uring_engine.cc
#include "lockstep/core/base/bulk_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/base/scratch_folder.h"
#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kPiece = 5 * kBulkAlignBytes;
constexpr int kInFlight = 4;

std::byte byte_at(uint64_t offset) {
  return static_cast<std::byte>((offset * 2654435761U) >> 13);
}

AlignedBuffer buffer_of(uint64_t bytes) {
  auto made = AlignedBuffer::make(bytes);
  EXPECT_TRUE(made.is_ok());
  return std::move(*made);
}

struct Way {
  std::string name;
  BulkMethod method = BulkMethod::kAuto;
  bool on_disk = false;
  bool behind_faults = false;
};

class BulkConformance : public ::testing::TestWithParam<Way> {
 protected:
  BulkConformance() {
    options_.method = GetParam().method;
    options_.max_in_flight = kInFlight;
    FileSystem& base = GetParam().on_disk ? posix_file_system() : memory_;
    faulty_ = std::make_unique<FaultFileSystem>(base);
    fs_ = GetParam().behind_faults ? faulty_.get() : &base;
    if (GetParam().on_disk) root_ = make_scratch_folder();
    buffer_ = buffer_of(kInFlight * kPiece);
  }
  ~BulkConformance() override {
    if (GetParam().on_disk) {
      EXPECT_TRUE(remove_tree(*fs_, root_).is_ok());
    }
  }

  std::string path() const { return path_join(root_, "file"); }
  std::span<std::byte> slot(uint64_t index) {
    return buffer_.bytes().subspan(index * kPiece, kPiece);
  }
  static Deadline soon() { return Deadline::after_s(30); }

  /// A file of `num_pieces` pieces cut to `size` bytes, each byte a function of its place; written
  /// last piece first, as many under way at once as may be.
  Status write_file(uint64_t num_pieces, uint64_t size) {
    LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs_->create_bulk(path(), options_));
    std::vector<uint64_t> slot_of(num_pieces);
    std::vector<uint64_t> free = {0, 1, 2, 3};
    const auto finish_one = [&]() -> Status {
      LOCKSTEP_ASSIGN_OR_RETURN(const BulkEnd end, file->wait_one(soon()));
      EXPECT_EQ(end.bytes, kPiece);
      free.push_back(slot_of[end.ticket]);
      const auto used = slot(slot_of[end.ticket]);
      std::fill(used.begin(), used.end(), std::byte{0xff});  // it is the caller's again
      return Status::ok();
    };
    for (uint64_t piece = num_pieces; piece-- > 0;) {
      if (free.empty()) LOCKSTEP_RETURN_IF_ERROR(finish_one());
      slot_of[piece] = free.back();
      free.pop_back();
      const auto bytes = slot(slot_of[piece]);
      for (uint64_t i = 0; i < kPiece; ++i) bytes[i] = byte_at(piece * kPiece + i);
      LOCKSTEP_RETURN_IF_ERROR(file->start_write(piece * kPiece, bytes, piece));
    }
    while (file->num_in_flight() > 0) LOCKSTEP_RETURN_IF_ERROR(finish_one());
    LOCKSTEP_RETURN_IF_ERROR(file->set_size(size));
    LOCKSTEP_RETURN_IF_ERROR(file->sync());
    LOCKSTEP_RETURN_IF_ERROR(file->close());
    return file->close();
  }

  MemoryFileSystem memory_;
  std::unique_ptr<FaultFileSystem> faulty_;
  FileSystem* fs_ = nullptr;
  std::string root_ = "/";
  AlignedBuffer buffer_;
  BulkOptions options_;
};

TEST_P(BulkConformance, ReadsBackWhatWasWrittenInAnyOrder) {
  constexpr uint64_t kSize = 10 * kPiece - 777;
  const Status written = write_file(10, kSize);
  ASSERT_TRUE(written.is_ok()) << written.message();
  EXPECT_EQ(fs_->stat(path())->size_bytes, kSize);
  for (bool may_read_cache : {true, false}) {
    options_.may_read_cache = may_read_cache;
    const auto file = fs_->open_bulk(path(), options_);
    ASSERT_TRUE(file.is_ok());
    EXPECT_EQ((*file)->size_bytes().value(), kSize);
    for (uint64_t first = 0; first < 10; first += 2) {
      std::set<uint64_t> ended;
      ASSERT_TRUE((*file)->start_read(first * kPiece, slot(0), first).is_ok());
      ASSERT_TRUE((*file)->start_read((first + 1) * kPiece, slot(1), first + 1).is_ok());
      EXPECT_EQ((*file)->num_in_flight(), 2);
      for (int i = 0; i < 2; ++i) {
        const auto end = (*file)->wait_one(soon());
        ASSERT_TRUE(end.is_ok()) << end.status().message();
        EXPECT_EQ(end->bytes, std::min(kPiece, kSize - end->ticket * kPiece));
        const auto bytes = slot(end->ticket - first);
        for (uint64_t k = 0; k < end->bytes; ++k) {
          ASSERT_EQ(bytes[k], byte_at(end->ticket * kPiece + k)) << end->ticket << " " << k;
        }
        ended.insert(end->ticket);
      }
      EXPECT_EQ(ended.size(), 2U);
    }
  }
}

TEST_P(BulkConformance, AReadBehindTheEndGivesNothing) {
  ASSERT_TRUE(write_file(1, kPiece).is_ok());
  const auto file = fs_->open_bulk(path(), options_);
  ASSERT_TRUE((*file)->start_read(4 * kPiece, slot(0), 7).is_ok());
  const auto end = (*file)->wait_one(soon());
  ASSERT_TRUE(end.is_ok()) << end.status().message();
  EXPECT_EQ(end->ticket, 7U);
  EXPECT_EQ(end->bytes, 0U);
}

TEST_P(BulkConformance, AnExistingFileAndAMissingOneAreToldApart) {
  EXPECT_EQ(fs_->open_bulk(path(), options_).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_file(1, 5).is_ok());
  EXPECT_EQ(fs_->create_bulk(path(), options_).status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(fs_->stat(path())->size_bytes, 5U);
  EXPECT_EQ(fs_->open_bulk(root_, options_).status().code(), StatusCode::kIoError);
}

TEST_P(BulkConformance, WhatIsNotAlignedIsTheCallersMistake) {
  const auto file = fs_->create_bulk(path(), options_);
  EXPECT_THROW((*file)->start_write(1, slot(0), 0).ignore(), UsageError);
  EXPECT_THROW((*file)->start_write(0, slot(0).first(100), 0).ignore(), UsageError);
  EXPECT_THROW((*file)->start_write(0, slot(0).subspan(8, kBulkAlignBytes), 0).ignore(),
               UsageError);
  EXPECT_THROW((*file)->wait_one(soon()).status().ignore(), UsageError);
}

TEST_P(BulkConformance, MoreUnderWayThanAskedForIsTheCallersMistake) {
  const auto file = fs_->create_bulk(path(), options_);
  for (uint64_t i = 0; i < kInFlight; ++i) {
    ASSERT_TRUE((*file)->start_write(i * kPiece, slot(i), i).is_ok());
  }
  EXPECT_THROW((*file)->start_write(kInFlight * kPiece, slot(0), 9).ignore(), UsageError);
  EXPECT_THROW((*file)->sync().ignore(), UsageError);
}  // and dropping it waits

TEST_P(BulkConformance, RoomThatWasSetAsideIsCutToTheSize) {
  options_.expected_bytes = 100 * kPiece;
  ASSERT_TRUE(write_file(3, 3 * kPiece - 1).is_ok());
  EXPECT_EQ(fs_->stat(path())->size_bytes, 3 * kPiece - 1);
}

INSTANTIATE_TEST_SUITE_P(
    Ways, BulkConformance,
    ::testing::Values(Way{"memory"}, Way{"memory_behind_faults", BulkMethod::kAuto, false, true},
                      Way{"disk", BulkMethod::kAuto, true},
                      Way{"disk_behind_faults", BulkMethod::kAuto, true, true},
                      Way{"uring", BulkMethod::kUring, true},
                      Way{"threads", BulkMethod::kThreads, true},
                      Way{"buffered", BulkMethod::kBuffered, true}),
    [](const auto& info) { return info.param.name; });

TEST(BulkFile, SaysHowItsBytesTravel) {
  const std::string root = make_scratch_folder();
  BulkOptions options;
  options.method = BulkMethod::kBuffered;
  EXPECT_EQ(posix_file_system().create_bulk(path_join(root, "a"), options).value()->method(),
            "threads, buffered");
  options.method = BulkMethod::kThreads;
  EXPECT_THAT(posix_file_system().create_bulk(path_join(root, "b"), options).value()->method(),
              ::testing::StartsWith("threads, "));
  EXPECT_TRUE(remove_tree(posix_file_system(), root).is_ok());
}

TEST(BulkFile, AFailedWriteAndAFailedSyncAreFinal) {
  MemoryFileSystem memory;
  FaultFileSystem fs(memory);
  const AlignedBuffer buffer = buffer_of(2 * kBulkAlignBytes);
  for (FileOperation operation : {FileOperation::kWrite, FileOperation::kSync}) {
    const std::string path = std::string("/") + std::string(file_operation_name(operation));
    const auto file = fs.create_bulk(path, {});
    fs.fail_nth(operation, 1, io_error("EIO"));
    Status status = (*file)->start_write(0, buffer.bytes(), 0);
    if (status.is_ok()) {
      ASSERT_TRUE((*file)->wait_one(Deadline::after_s(5)).is_ok());
      status = (*file)->sync();
    }
    EXPECT_EQ(status.code(), StatusCode::kIoError);
    EXPECT_EQ((*file)->sync().code(), StatusCode::kIoError);
  }
  EXPECT_EQ(memory.stat("/write")->size_bytes, kBulkAlignBytes);  // half of it came through
}

TEST(BulkFile, AFullDiskIsSaidSo) {
  MemoryFileSystem fs;
  fs.set_capacity_bytes(kBulkAlignBytes);
  const AlignedBuffer buffer = buffer_of(2 * kBulkAlignBytes);
  const auto file = fs.create_bulk("/a", {});
  ASSERT_TRUE((*file)->start_write(0, buffer.bytes(), 0).is_ok());
  EXPECT_EQ((*file)->wait_one(Deadline::after_s(5)).status().code(),
            StatusCode::kResourceExhausted);
}

TEST(AlignedBufferTest, IsAlignedZeroedAndMoves) {
  for (uint64_t bytes : {uint64_t{1}, uint64_t{4096}, uint64_t{5} << 20}) {
    auto made = AlignedBuffer::make(bytes);
    ASSERT_TRUE(made.is_ok());
    AlignedBuffer buffer = std::move(*made);
    EXPECT_GE(buffer.size_bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.bytes().data()) % kBulkAlignBytes, 0U);
    EXPECT_TRUE(std::all_of(buffer.bytes().begin(), buffer.bytes().end(),
                            [](std::byte b) { return b == std::byte{0}; }));
    std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{1});
    AlignedBuffer other;
    other = std::move(buffer);
    EXPECT_EQ(other.bytes().back(), std::byte{1});
  }
  EXPECT_EQ(AlignedBuffer::make(uint64_t{1} << 62).status().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace lockstep
