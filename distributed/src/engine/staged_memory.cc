#include "staged_memory.h"

#include <algorithm>

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
  queue_behind_compute().copy(to_, from_, std::exchange(num_bytes_, 0));
}

DeviceQueue& StagedMemory::queue_behind_compute() {
  if (!std::exchange(is_following_, true)) device_.staging().wait_for(device_.compute().mark());
  return device_.staging();
}

void StagedMemory::read(std::span<std::byte> to_host, std::span<const std::byte> from) {
  copy(to_host, from);
}

void StagedMemory::read_block_hashes(std::span<uint64_t> to_host, std::span<const std::byte> from,
                                     uint64_t block_bytes) {
  LOCKSTEP_CHECK(to_host.size() == (from.size() + block_bytes - 1) / block_bytes, to_host.size(),
                 " hashes of ", from.size(), " bytes in blocks of ", block_bytes);
  begin_collected();  // it may write what is hashed
  DeviceQueue& queue = queue_behind_compute();
  auto* hashes = reinterpret_cast<uint64_t*>(hashes_.data());
  while (!to_host.empty()) {
    const size_t count = std::min(to_host.size(), kHashesAtOnce);
    const size_t size = std::min(from.size(), count * block_bytes);
    queue.block_hashes(from.data(), static_cast<int64_t>(size), static_cast<int64_t>(block_bytes),
                       hashes);
    queue.copy(to_host.data(), hashes, count * sizeof(uint64_t));
    to_host = to_host.subspan(count);
    from = from.subspan(size);
  }
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
