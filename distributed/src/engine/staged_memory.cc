#include "staged_memory.h"

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

// A piece of a few MiB takes a millisecond.
constexpr double kSettleS = 60;

}  // namespace

void StagedMemory::copy(std::span<std::byte> to, std::span<const std::byte> from) {
  LOCKSTEP_CHECK(to.size() == from.size(), from.size(), " bytes into ", to.size());
  if (to.data() != to_ + num_bytes_ || from.data() != from_ + num_bytes_) {
    begin_collected();
    to_ = to.data();
    from_ = from.data();
  }
  num_bytes_ += to.size();
}

void StagedMemory::begin_collected() {
  if (num_bytes_ == 0) return;
  if (!std::exchange(is_following_, true)) device_.staging().wait_for(device_.compute().mark());
  device_.staging().copy(to_, from_, std::exchange(num_bytes_, 0));
}

void StagedMemory::read(std::span<std::byte> to_host, std::span<const std::byte> from) {
  copy(to_host, from);
}

void StagedMemory::write(std::span<std::byte> to, std::span<const std::byte> from_host) {
  copy(to, from_host);
}

CopyMark StagedMemory::mark() {
  begin_collected();
  return device_.staging().mark();
}

Status StagedMemory::settle(const CopyMark& mark) {
  is_following_ = false;
  return device_.staging().wait_until(mark, "copies between host and device",
                                      Deadline::after_s(kSettleS));
}

}  // namespace lockstep
