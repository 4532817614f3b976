#pragma once
// IDX: the array format of the MNIST family, gzip-compressed, read as hostile input: nothing is
// allocated on a header's word that the file's length could not bear out, and the stream must end
// where the header says.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// An array of bytes, row-major.
struct IdxArray {
  std::vector<int64_t> dims;
  std::vector<uint8_t> values;
};

/// Reads a gzip file that holds one IDX array of unsigned bytes with these dimensions (-1: any but
/// 0). Errors, all with the path, what was expected and what was found: kNotFound; kIoError;
/// kCorruption for a file that is not gzip or fails its checksum, a wrong magic or dimension, too
/// few or too many bytes.
Result<IdxArray> read_idx_gz(FileSystem& fs, const std::string& path,
                             std::span<const int64_t> expected_dims);

}  // namespace lockstep
