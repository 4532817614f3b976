#pragma once
// Reads the one stream of a gzip file in pieces, through the FileSystem seam. Memory: one input
// piece.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

class GzipReader {
 public:
  static Result<std::unique_ptr<GzipReader>> open(FileSystem& fs, const std::string& path);
  ~GzipReader();
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  /// No stream of this file's length can hold more bytes than this (deflate shrinks at most
  /// 1032-fold).
  uint64_t max_content_bytes() const;
  /// Fills `out` as far as the stream goes and returns how far that was: less than asked at its end
  /// alone. Errors: kCorruption for a damaged stream or a wrong checksum, kIoError.
  Result<size_t> read(std::span<std::byte> out);
  /// OK when both the stream and the file end here, its checksum right; kCorruption otherwise.
  Status expect_end();

 private:
  struct Impl;
  explicit GzipReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
