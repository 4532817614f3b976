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
      : owner_(std::move(device)), device_(*owner_) {}

  void read(std::span<std::byte> to_host, std::span<const std::byte> from) override;
  void write(std::span<std::byte> to, std::span<const std::byte> from_host) override;
  Status settle() override;
  void pin(std::span<std::byte> host) override { device_.pin(host); }
  void unpin(std::span<std::byte> host) override { device_.unpin(host); }

 private:
  void follow_compute();
  std::shared_ptr<Device> owner_;
  Device& device_;
  bool is_following_ = false;  // no need to again until settle()
};

}  // namespace lockstep
