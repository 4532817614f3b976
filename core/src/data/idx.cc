#include "lockstep/core/data/idx.h"

#include <array>

#include "gzip_reader.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr uint32_t kUnsignedByteType =
    0x08;  // third byte of the magic; the fourth is the number of dimensions

uint32_t big_endian_u32(const std::byte* bytes) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | std::to_integer<uint32_t>(bytes[i]);
  return value;
}

std::string hex_u32(uint32_t value) {
  return hex64(value).substr(8);
}

Result<uint32_t> read_u32(GzipReader& reader, const std::string& path, std::string_view what) {
  std::array<std::byte, 4> bytes;
  LOCKSTEP_ASSIGN_OR_RETURN(size_t num_read, reader.read(bytes));
  if (num_read != bytes.size())
    return corruption_error(
        cat(path, ": truncated: the content ends within ", what, " of the IDX header"));
  return big_endian_u32(bytes.data());
}

Result<std::vector<int64_t>> read_header(GzipReader& reader, const std::string& path,
                                         std::span<const int64_t> expected_dims) {
  LOCKSTEP_ASSIGN_OR_RETURN(uint32_t magic, read_u32(reader, path, "the magic number"));
  uint32_t expected = kUnsignedByteType << 8 | static_cast<uint32_t>(expected_dims.size());
  if (magic != expected)
    return corruption_error(cat(path, ": wrong IDX magic: expected ", hex_u32(expected),
                                " (unsigned bytes, ", expected_dims.size(), " dimensions), found ",
                                hex_u32(magic)));
  std::vector<int64_t> dims;
  for (size_t i = 0; i < expected_dims.size(); ++i) {
    LOCKSTEP_ASSIGN_OR_RETURN(uint32_t size, read_u32(reader, path, cat("dimension ", i)));
    if (expected_dims[i] < 0 ? size == 0 : size != static_cast<uint64_t>(expected_dims[i]))
      return corruption_error(
          cat(path, ": wrong IDX dimension ", i, ": expected ",
              expected_dims[i] < 0 ? std::string("at least 1") : cat(expected_dims[i]), ", found ",
              size));
    dims.push_back(size);
  }
  return dims;
}

}  // namespace

Result<IdxArray> read_idx_gz(FileSystem& fs, const std::string& path,
                             std::span<const int64_t> expected_dims) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto reader, GzipReader::open(fs, path));
  IdxArray array;
  LOCKSTEP_ASSIGN_OR_RETURN(array.dims, read_header(*reader, path, expected_dims));
  uint64_t num_values = 1;
  for (int64_t dim : array.dims) {
    if (num_values > reader->max_content_bytes() / static_cast<uint64_t>(dim))
      return corruption_error(cat(path,
                                  ": truncated: the header promises dimensions whose product is "
                                  "more than a gzip file of this length can hold (at most ",
                                  reader->max_content_bytes(), " values)"));
    num_values *= static_cast<uint64_t>(dim);
  }
  array.values.resize(num_values);
  LOCKSTEP_ASSIGN_OR_RETURN(size_t num_read,
                            reader->read(std::as_writable_bytes(std::span(array.values))));
  if (num_read != num_values)
    return corruption_error(cat(path, ": truncated: the header promises ", num_values,
                                " values, the content has ", num_read));
  LOCKSTEP_RETURN_IF_ERROR(reader->expect_end());
  return array;
}

}  // namespace lockstep
