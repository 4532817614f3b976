#pragma once
// ShadowMemory: a state in the memory of a device, without the device. What a slice points to can't
// be touched (a read or write of it ends the process); the bytes are elsewhere, and copies happen in
// settle() and no sooner.

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/core/base/check.h"
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
  int num_settled() const { return num_settled_; }
  /// settle() fails from here on.
  void lose() { is_lost_ = true; }

  void read(std::span<std::byte> to_host, std::span<const std::byte> from) override {
    copies_.push_back({to_host.data(), real(from.data()), from.size()});
  }
  void write(std::span<std::byte> to, std::span<const std::byte> from_host) override {
    copies_.push_back({real(to.data()), from_host.data(), to.size()});
  }
  Status settle() override {
    ++num_settled_;
    if (is_lost_) return internal_error("the device is lost");
    for (const Copy& copy : std::exchange(copies_, {})) std::memcpy(copy.to, copy.from, copy.size);
    return Status::ok();
  }
  void pin(std::span<std::byte> /*host*/) override { ++num_pinned_; }
  void unpin(std::span<std::byte> /*host*/) override { --num_pinned_; }

 private:
  struct Copy {
    std::byte* to = nullptr;
    const std::byte* from = nullptr;
    size_t size = 0;
  };
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
  std::vector<Copy> copies_;
  int num_pinned_ = 0;
  int num_settled_ = 0;
  bool is_lost_ = false;
};

}  // namespace lockstep
