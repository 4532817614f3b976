#pragma once
// StagedMemory: a device's memory as whoever saves and restores sees it, through the device's queue
// of staging. A copy begins behind what training has handed over; training is put behind a copy by
// settle(), so an update never meets a copy of what it changes. Must not know: files.

#include <memory>
#include <utility>

#include "lockstep/core/device/device.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {

class StagedMemory final : public StateMemory {
 public:
  explicit StagedMemory(std::shared_ptr<Device> device)
      : owner_(std::move(device)),
        device_(*owner_),
        hashes_(device_.allocate(kHashesAtOnce * sizeof(uint64_t))) {}

  void read(std::span<std::byte> to_host, std::span<const std::byte> from) override;
  void write(std::span<std::byte> to, std::span<const std::byte> from_host) override;
  void read_block_hashes(std::span<uint64_t> to_host, std::span<const std::byte> from,
                         uint64_t block_bytes) override;
  CopyMark mark() override;
  Status settle(const CopyMark& mark) override;
  using StateMemory::settle;
  void pin(std::span<std::byte> host) override { device_.pin(host); }
  void unpin(std::span<std::byte> host) override { device_.unpin(host); }

 private:
  // 512 MiB of F32: a launch that long costs nothing beside its work.
  static constexpr size_t kHashesAtOnce = 8192;
  void copy(std::span<std::byte> to, std::span<const std::byte> from);
  void begin_collected();
  DeviceQueue& queue_behind_compute();
  std::shared_ptr<Device> owner_;
  Device& device_;
  DeviceMemory hashes_;  // on their way to the host
  bool is_following_ = false;  // no need to again until settle()
  // Copies that adjoin are begun as one: a block is small for a device.
  std::byte* to_ = nullptr;
  const std::byte* from_ = nullptr;
  size_t num_bytes_ = 0;
};

}  // namespace lockstep
