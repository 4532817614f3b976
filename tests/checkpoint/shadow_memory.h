#pragma once
// ShadowMemory: a state in the memory of a device, without the device. What a slice points to can't
// be touched (a read or write of it ends the process); the bytes are elsewhere, and copies happen in
// settle() and no sooner, each when a mark behind it is settled.

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {

class ShadowMemory final : public StateMemory {
 public:
  /// Stands for `parts`, which must outlive it.
  explicit ShadowMemory(std::vector<std::span<std::byte>> parts) : parts_(std::move(parts)) {
    size_t size = 0;
    for (std::span<std::byte> part : parts_) size += part.size();
    void* place = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    LOCKSTEP_CHECK(place != MAP_FAILED, "no address space of ", size, " bytes");
    place_ = {static_cast<std::byte*>(place), size};
  }
  ~ShadowMemory() override { ::munmap(place_.data(), place_.size()); }
  ShadowMemory(const ShadowMemory&) = delete;
  ShadowMemory& operator=(const ShadowMemory&) = delete;

  /// What slices have instead of bytes of a part.
  std::span<std::byte> shadow(size_t part, size_t offset, size_t size) const {
    for (size_t i = 0; i < part; ++i) offset += parts_[i].size();
    return place_.subspan(offset, size);
  }
  int num_pinned() const { return num_pinned_; }
  /// Waits for copies while later ones were under way.
  int num_settled_with_more_behind() const { return num_settled_with_more_behind_; }
  /// settle() fails from here on.
  void lose() { is_lost_ = true; }

  /// Hashes from here on are wrong in one bit.
  void miscount() { is_miscounting_ = true; }

  void read(std::span<std::byte> to_host, std::span<const std::byte> from) override {
    copies_.push_back({to_host.data(), real(from.data()), from.size()});
  }
  void read_block_hashes(std::span<uint64_t> to_host, std::span<const std::byte> from,
                         uint64_t block_bytes) override {
    LOCKSTEP_CHECK(to_host.size() == (from.size() + block_bytes - 1) / block_bytes, "hashes");
    copies_.push_back({to_host.data(), real(from.data()), from.size(), block_bytes});
  }
  void write(std::span<std::byte> to, std::span<const std::byte> from_host) override {
    copies_.push_back({real(to.data()), from_host.data(), to.size()});
  }
  CopyMark mark() override { return std::make_shared<size_t>(num_done_ + copies_.size()); }
  Status settle(const CopyMark& mark) override {
    if (is_lost_) return internal_error("the device is lost");
    const size_t end = *static_cast<size_t*>(mark.get());
    if (num_done_ + copies_.size() > end) ++num_settled_with_more_behind_;
    for (; num_done_ < end; ++num_done_) {
      run(copies_.front());
      copies_.pop_front();
    }
    return Status::ok();
  }
  using StateMemory::settle;
  void pin(std::span<std::byte> /*host*/) override { ++num_pinned_; }
  void unpin(std::span<std::byte> /*host*/) override { --num_pinned_; }

 private:
  struct Copy {
    void* to = nullptr;
    const std::byte* from = nullptr;
    size_t size = 0;
    size_t block_bytes = 0;  // of hashes; 0: the bytes themselves
  };
  void run(const Copy& copy) const {
    if (copy.block_bytes == 0) {
      std::memcpy(copy.to, copy.from, copy.size);
      return;
    }
    auto* hash = static_cast<uint64_t*>(copy.to);
    for (std::span left(copy.from, copy.size); !left.empty();) {
      const size_t size = std::min(copy.block_bytes, left.size());
      *hash++ = xxh3_64(left.first(size)) ^ (is_miscounting_ ? 1U : 0U);
      left = left.subspan(size);
    }
  }
  std::byte* real(const std::byte* shadow) const {
    auto offset = static_cast<size_t>(shadow - place_.data());
    for (std::span<std::byte> part : parts_) {
      if (offset < part.size()) return part.data() + offset;
      offset -= part.size();
    }
    LOCKSTEP_CHECK(false, "not a place of this memory");
    return nullptr;
  }
  std::vector<std::span<std::byte>> parts_;
  std::span<std::byte> place_;
  std::deque<Copy> copies_;
  size_t num_done_ = 0;
  int num_pinned_ = 0;
  int num_settled_with_more_behind_ = 0;
  bool is_lost_ = false;
  bool is_miscounting_ = false;
};

}  // namespace lockstep
