#pragma once
// Memory for direct I/O: page-aligned, on huge pages where the system has them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "lockstep/core/base/status.h"

namespace lockstep {

/// Owns a piece of page-aligned memory. Movable; an empty one owns nothing.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// `bytes` rounded up to whole pages, zeroed at first touch. Errors: kResourceExhausted.
  static Result<AlignedBuffer> make(uint64_t bytes);
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~AlignedBuffer();

  std::span<std::byte> bytes() const { return {data_, bytes_}; }
  uint64_t size_bytes() const { return bytes_; }

 private:
  AlignedBuffer(std::byte* data, uint64_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace lockstep
