#pragma once
// Writes gzip IDX files for tests, right or wrong on request.

#include <zlib.h>

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/base/file_system.h"

namespace lockstep {

inline std::string idx_bytes(uint32_t magic, const std::vector<uint32_t>& dims,
                             const std::string& values) {
  std::string bytes;
  auto put = [&](uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(value >> shift));
  };
  put(magic);
  for (uint32_t dim : dims) put(dim);
  return bytes + values;
}

inline std::string gzip_bytes(const std::string& content) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline void write_file(FileSystem& fs, const std::string& path, const std::string& bytes) {
  Status status = write_and_sync_file(fs, path, bytes, OpenMode::kTruncate);
  ASSERT_TRUE(status.is_ok()) << status.to_string();
}

inline constexpr uint32_t kImagesMagic = 0x803;
inline constexpr uint32_t kLabelsMagic = 0x801;

}  // namespace lockstep
