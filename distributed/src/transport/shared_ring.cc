#include "shared_ring.h"

namespace lockstep {

std::span<std::byte> SharedRing::free_slot() {
  if (num_mine_ - num_theirs_ == kNumSlots) {
    num_theirs_ = header_->num_read.load(std::memory_order_acquire);
    if (num_mine_ - num_theirs_ == kNumSlots) return {};
  }
  return slot(num_mine_).bytes;
}

void SharedRing::publish(size_t num_bytes, uint64_t message_bytes) {
  slot(num_mine_).message_bytes = message_bytes;
  slot(num_mine_).num_bytes = num_bytes;
  header_->num_written.store(++num_mine_, std::memory_order_release);
}

bool SharedRing::front(Fragment* fragment) {
  if (num_mine_ == num_theirs_) {
    num_theirs_ = header_->num_written.load(std::memory_order_acquire);
    if (num_mine_ == num_theirs_) return false;
  }
  const Slot& filled = slot(num_mine_);
  *fragment = {{filled.bytes, static_cast<size_t>(filled.num_bytes)}, filled.message_bytes};
  return true;
}

void SharedRing::pop() {
  header_->num_read.store(++num_mine_, std::memory_order_release);
}

}  // namespace lockstep
