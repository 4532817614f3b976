#include "lockstep/core/flat/flat_buffer.h"

#include <cstring>
#include <new>
#include <utility>

namespace lockstep {

FlatBuffer::FlatBuffer(int64_t num_bytes) : num_bytes_(num_bytes) {
  LOCKSTEP_CHECK(num_bytes >= 0, "a buffer of ", num_bytes, " bytes");
  if (num_bytes == 0) return;
  const int64_t whole_pages = (num_bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
  memory_.reset(
      static_cast<std::byte*>(std::aligned_alloc(kAlignBytes, static_cast<size_t>(whole_pages))));
  if (memory_ == nullptr) throw std::bad_alloc();
  fill_zero();
}

FlatBuffer::FlatBuffer(FlatBuffer&& other) noexcept
    : memory_(std::move(other.memory_)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

FlatBuffer& FlatBuffer::operator=(FlatBuffer&& other) noexcept {
  memory_ = std::move(other.memory_);
  num_bytes_ = std::exchange(other.num_bytes_, 0);
  return *this;
}

void FlatBuffer::fill_zero() {
  if (num_bytes_ > 0) std::memset(memory_.get(), 0, static_cast<size_t>(num_bytes_));
}

}  // namespace lockstep
