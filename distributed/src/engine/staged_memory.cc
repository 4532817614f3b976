#include "staged_memory.h"

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

// A piece of a few MiB takes a millisecond.
constexpr double kSettleS = 60;

}  // namespace

void StagedMemory::follow_compute() {
  if (std::exchange(is_following_, true)) return;
  device_.staging().wait_for(device_.compute().mark());
}

void StagedMemory::read(std::span<std::byte> to_host, std::span<const std::byte> from) {
  LOCKSTEP_CHECK(to_host.size() == from.size(), from.size(), " bytes into ", to_host.size());
  follow_compute();
  device_.staging().copy(to_host.data(), from.data(), from.size());
}

void StagedMemory::write(std::span<std::byte> to, std::span<const std::byte> from_host) {
  LOCKSTEP_CHECK(to.size() == from_host.size(), from_host.size(), " bytes into ", to.size());
  follow_compute();
  device_.staging().copy(to.data(), from_host.data(), from_host.size());
}

Status StagedMemory::settle() {
  is_following_ = false;
  return device_.staging().settle("copies between host and device", Deadline::after_s(kSettleS));
}

}  // namespace lockstep
