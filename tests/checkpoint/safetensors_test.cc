// Covers: json_reader.cc
#include "lockstep/checkpoint/safetensors.h"

#include <gmock/gmock.h>

#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

Result<SafetensorsHeader> read_bytes(const std::string& content) {
  MemoryFileSystem fs;
  overwrite_file(fs, "/f", content);
  const auto file = fs.open_read("/f");
  return read_safetensors_header(**file, "f");
}

/// A file with this header and so many bytes of data.
std::string file_with(std::string_view header, size_t data_bytes) {
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return cat(length, header, std::string(data_bytes, 'd'));
}

TEST(Safetensors, ReadsWhatItWrote) {
  const std::vector<SafetensorsEntry> tensors = {{"b \"quoted\"", Dtype::kF32, {2, 3}, 0, 24},
                                                 {"a", Dtype::kBF16, {}, 24, 26},
                                                 {"empty", Dtype::kU64, {0}, 26, 26}};
  const std::string prefix = safetensors_prefix(tensors, {{"k", "v"}});
  EXPECT_EQ(prefix.size() % kSafetensorsDataAlignBytes, 0U);
  const auto header = read_bytes(prefix + std::string(26, 'x'));
  ASSERT_TRUE(header.is_ok()) << header.status().message();
  EXPECT_EQ(header->tensors, tensors);
  EXPECT_EQ(header->metadata.at("k"), "v");
  EXPECT_EQ(header->data_offset, prefix.size());
}

TEST(Safetensors, RefusesWhatIsNotWellFormed) {
  const std::string good = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  ASSERT_TRUE(read_bytes(file_with(good, 4)).is_ok());
  struct Case {
    const char* header;
    size_t data_bytes;
  };
  for (
      const Case& bad : std::vector<Case>{
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 5},   // trailing byte
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3},   // outside the file
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", 5},   // hole at the start
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4},   // turned around
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}})", 4},  // negative
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0.0,4]}})", 4},
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0]}})", 4},
          {R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}})",
           4},  // shape and bytes disagree
          {R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})", 4},
          {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
           0},  // product wraps
          {R"({"a":{"dtype":"U8","shape":[18446744073709551620],"data_offsets":[0,4]}})", 4},
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}})", 4},  // unknown member
          {R"({"a":{"dtype":"U8","shape":[4]}})", 4},
          {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
           3},  // overlap
          {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
           3},  // hole
          {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
           4},  // duplicate key
          {R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4},
          {R"({"__metadata__":{"k":1},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4},
          {R"({"__metadata__":[],"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4},
          {R"([])", 0},
          {R"( {})", 0},
          {R"({"a":7})", 0},
          {R"({)", 0},
          {R"({}})", 0},
          {"{\"\xff\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0},  // not UTF-8
          {"", 0}}) {
    EXPECT_EQ(read_bytes(file_with(bad.header, bad.data_bytes)).status().code(),
              StatusCode::kCorruption)
        << bad.header;
  }
  EXPECT_EQ(read_bytes(file_with(R"({"a":{"dtype":"F9","shape":[4],"data_offsets":[0,4]}})", 4))
                .status()
                .code(),
            StatusCode::kUnsupported);
}

TEST(Safetensors, BoundsTheHeaderBeforeReadingIt) {
  EXPECT_EQ(read_bytes("").status().code(), StatusCode::kCorruption);
  EXPECT_EQ(read_bytes("1234567").status().code(), StatusCode::kCorruption);
  EXPECT_EQ(read_bytes(std::string(8, '\xff') + "{}").status().code(), StatusCode::kCorruption);
  EXPECT_EQ(read_bytes(std::string("\x03\0\0\0\0\0\0\0{}", 10)).status().code(),
            StatusCode::kCorruption);
}

TEST(Safetensors, BoundsTheDepth) {
  const std::string deep = cat("{\"a\":", std::string(100000, '['), std::string(100000, ']'), "}");
  EXPECT_EQ(read_bytes(file_with(deep, 0)).status().code(), StatusCode::kCorruption);
}

TEST(Safetensors, AnyTruncationOrFlippedHeaderBitIsAnErrorOrTheSameHeader) {
  const std::string prefix = safetensors_prefix({{"a", Dtype::kU8, {4}, 0, 4}}, {{"k", "v"}});
  const std::string whole = prefix + "data";
  for (size_t size = 0; size < whole.size(); size += 3) {
    EXPECT_FALSE(read_bytes(whole.substr(0, size)).is_ok()) << size;
  }
  for (size_t i = 0; i < 140; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      const auto header = read_bytes(flipped);  // must not crash; sanitizers watch
      if (header.is_ok()) {
        EXPECT_EQ(header->tensors.back().end, 4U);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep
