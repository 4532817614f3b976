#pragma once
// The safetensors container: an 8-byte little-endian length, a JSON header, then the bytes of the
// tensors to the exact end of the file. Reading is strict, because files come from anywhere: every
// length is bounded before memory is taken, and what is not exactly well-formed is refused. Rules:
// FORMAT.md, "Reading". Thread-safety: values.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/flat/dtype.h"

namespace lockstep {

/// Stock readers refuse longer headers.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;
/// Tensor data starts at a multiple of this many bytes in files that we write (direct I/O).
inline constexpr uint64_t kSafetensorsDataAlignBytes = 4096;

struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::kU8;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< relative to the start of the data
  uint64_t end = 0;
  bool operator==(const SafetensorsEntry&) const = default;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry>
      tensors;  ///< by ascending offset: without holes from 0 to the end of the data
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  ///< of the data in the file
};

/// The first bytes of a file: length, header, spaces up to the alignment. Entries are written in
/// the given order.
std::string safetensors_prefix(const std::vector<SafetensorsEntry>& tensors,
                               const std::map<std::string, std::string>& metadata);

/// Parses a header of a file with `data_bytes` of data; `where` names the file in errors.
/// data_offset stays 0. Errors: kCorruption; kUnsupported for a dtype that this version does not
/// know.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, uint64_t data_bytes,
                                                   std::string_view where);

/// The bytes of an open file before its data (length, header, padding), not yet parsed.
/// Errors: kCorruption when the length can't be right; kIoError.
Result<std::string> read_safetensors_prefix(const ReadableFile& file, std::string_view where);

/// Reads and parses the header of an open file. Errors: as parse_safetensors_header; kIoError.
Result<SafetensorsHeader> read_safetensors_header(const ReadableFile& file, std::string_view where);

/// "[2, 3]": a shape, or other whole numbers, for people.
std::string shape_text(const std::vector<int64_t>& shape);

/// Elements of a shape, or -1 when a dimension is negative or the product of those that are not 0
/// is above 2^53: so that strides of an empty tensor can be computed too.
int64_t checked_num_elems(const std::vector<int64_t>& shape);

}  // namespace lockstep
