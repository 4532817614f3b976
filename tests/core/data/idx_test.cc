// Covers: idx.cc, gzip_reader.cc
#include "lockstep/core/data/idx.h"

#include <gmock/gmock.h>

#include <array>

#include "idx_files.h"
#include "lockstep/core/base/memory_file_system.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::array<int64_t, 2> kAnyByThree = {-1, 3};
const std::string kPath = "/x.gz";
const std::string kGood = idx_bytes(0x802, {2, 3}, "abcdef");

class Idx : public testing::Test {
 protected:
  Result<IdxArray> read(const std::string& file_bytes) {
    write_file(fs_, kPath, file_bytes);
    return read_idx_gz(fs_, kPath, kAnyByThree);
  }
  void expect_corruption(const std::string& file_bytes, const std::string& part) {
    Result<IdxArray> result = read(file_bytes);
    EXPECT_EQ(result.status().code(), StatusCode::kCorruption) << part;
    EXPECT_THAT(result.status().message(), AllOf(HasSubstr(kPath), HasSubstr(part)));
  }
  MemoryFileSystem fs_;
};

TEST_F(Idx, ReadsDimensionsAndValues) {
  Result<IdxArray> array = read(gzip_bytes(kGood));
  ASSERT_TRUE(array.is_ok()) << array.status().to_string();
  EXPECT_EQ(array->dims, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::string(array->values.begin(), array->values.end()), "abcdef");
}

TEST_F(Idx, ReadsWhatIsLongerThanOnePiece) {
  std::string values;
  for (unsigned i = 0; i < 900'000; ++i) values.push_back(static_cast<char>(i * i >> 3));
  Result<IdxArray> array = read(gzip_bytes(idx_bytes(0x802, {300'000, 3}, values)));
  ASSERT_TRUE(array.is_ok()) << array.status().to_string();
  EXPECT_EQ(std::string(array->values.begin(), array->values.end()), values);
}

TEST_F(Idx, SaysThatAFileIsMissing) {
  Status status = read_idx_gz(fs_, "/absent.gz", kAnyByThree).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("/absent.gz"));
}

TEST_F(Idx, RefusesAFileThatIsNotGzip) {
  expect_corruption(kGood, "incorrect header check");
  expect_corruption("", "truncated");
}

TEST_F(Idx, RefusesEveryTruncationOfTheFile) {
  std::string file = gzip_bytes(kGood);
  for (size_t size = 0; size < file.size(); ++size)
    expect_corruption(file.substr(0, size), "truncated");
}

TEST_F(Idx, RefusesEveryTruncationOfTheContent) {
  for (size_t size = 0; size < kGood.size(); ++size)
    expect_corruption(gzip_bytes(kGood.substr(0, size)), "truncated");
}

TEST_F(Idx, NeverTakesAFlippedBitForOtherContent) {
  std::string file = gzip_bytes(kGood);
  // The ten bytes before the stream proper hold a time stamp and the like, which no checksum
  // covers.
  for (size_t bit = 80; bit < file.size() * 8; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    Result<IdxArray> array = read(flipped);
    // The last byte of the compressed data has bits that mean nothing.
    bool means_the_same =
        array.is_ok() && std::string(array->values.begin(), array->values.end()) == "abcdef";
    EXPECT_TRUE(means_the_same || array.status().code() == StatusCode::kCorruption)
        << "bit " << bit;
  }
}

TEST_F(Idx, RefusesAWrongMagicNumber) {
  expect_corruption(gzip_bytes(idx_bytes(0x803, {2, 3}, "abcdef")),
                    "expected 00000802 (unsigned bytes, 2 dimensions), found 00000803");
  expect_corruption(gzip_bytes(idx_bytes(0xD02, {2, 3}, "abcdef")), "found 00000d02");
}

TEST_F(Idx, RefusesWrongDimensions) {
  expect_corruption(gzip_bytes(idx_bytes(0x802, {2, 4}, "abcdefgh")),
                    "dimension 1: expected 3, found 4");
  expect_corruption(gzip_bytes(idx_bytes(0x802, {0, 3}, "")),
                    "dimension 0: expected at least 1, found 0");
}

TEST_F(Idx, RefusesTrailingBytes) {
  expect_corruption(gzip_bytes(kGood + "g"), "trailing bytes");
  expect_corruption(gzip_bytes(kGood) + "xyz", "trailing bytes: 3 after the end");
}

TEST_F(Idx, DoesNotAllocateWhatTheFileCanNotHold) {
  // 12 GB on the word of a header in a file of about 30 bytes.
  expect_corruption(gzip_bytes(idx_bytes(0x802, {0xFFFFFFFF, 3}, "abc")), "can hold");
  constexpr std::array<int64_t, 3> kAny = {-1, -1, -1};
  write_file(fs_, kPath, gzip_bytes(idx_bytes(0x803, {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "")));
  EXPECT_EQ(read_idx_gz(fs_, kPath, kAny).status().code(), StatusCode::kCorruption);
}

}  // namespace
}  // namespace lockstep
