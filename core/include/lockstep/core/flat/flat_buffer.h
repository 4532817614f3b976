#pragma once
// FlatBuffer: the memory of a flat space, or of a shard of one. Zero-filled, so that the padding
// between tensors is zero from the start, and page-aligned, so that direct I/O and vector loads
// find it as they like it. Thread-safety: as a plain array.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "lockstep/core/base/check.h"

namespace lockstep {

/// Owns `num_bytes` of memory that starts at a page; move-only; empty by default and after a move.
class FlatBuffer {
 public:
  static constexpr int64_t kAlignBytes = 4096;

  FlatBuffer() = default;
  /// Zero-filled and touched, so no page fault comes later. Requires: num_bytes >= 0.
  /// Errors: std::bad_alloc when there is no memory.
  explicit FlatBuffer(int64_t num_bytes);
  FlatBuffer(FlatBuffer&& other) noexcept;
  FlatBuffer& operator=(FlatBuffer&& other) noexcept;

  std::byte* data() { return memory_.get(); }
  const std::byte* data() const { return memory_.get(); }
  int64_t num_bytes() const { return num_bytes_; }
  std::span<std::byte> bytes() { return {memory_.get(), static_cast<size_t>(num_bytes_)}; }
  std::span<const std::byte> bytes() const {
    return {memory_.get(), static_cast<size_t>(num_bytes_)};
  }
  /// The buffer as elements. Requires: its length is a whole number of them.
  template <typename T>
  std::span<T> as() {
    return {reinterpret_cast<T*>(memory_.get()), num_elems_of(sizeof(T))};
  }
  template <typename T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(memory_.get()), num_elems_of(sizeof(T))};
  }
  void fill_zero();

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  size_t num_elems_of(size_t elem_bytes) const {
    LOCKSTEP_CHECK(static_cast<size_t>(num_bytes_) % elem_bytes == 0, num_bytes_,
                   " bytes are not a whole number of elements of ", elem_bytes);
    return static_cast<size_t>(num_bytes_) / elem_bytes;
  }

  std::unique_ptr<std::byte, Free> memory_;
  int64_t num_bytes_ = 0;
};

}  // namespace lockstep
