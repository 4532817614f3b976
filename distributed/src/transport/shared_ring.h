#pragma once
// SharedRing: a queue of fragments from one rank to another on the same host, in memory that both
// have mapped. One writer, one reader, no locks, no system calls: the writer copies in while the
// reader copies out, so both processors work on one message. Messages larger than a slot are
// several fragments; each carries its message's size.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>

namespace lockstep {

class SharedRing {
 public:
  static constexpr size_t kSlotBytes = 32 * 1024;
  static constexpr uint64_t kNumSlots = 8;
  static constexpr size_t kCapacityBytes = kSlotBytes * kNumSlots;

  struct Fragment {
    std::span<const std::byte> bytes;
    uint64_t message_bytes = 0;
  };

  SharedRing() = default;
  /// A view of the ring at `memory` (bytes_needed() of it, at a multiple of 64). The reader calls
  /// format() first.
  explicit SharedRing(std::byte* memory) : header_(reinterpret_cast<Header*>(memory)) {}
  static size_t bytes_needed() { return sizeof(Header) + kNumSlots * sizeof(Slot); }
  /// Makes the ring empty, before the writer may know of it.
  void format() { new (header_) Header(); }
  bool is_there() const { return header_ != nullptr; }

  /// Where the writer's next fragment goes; empty while the ring is full.
  std::span<std::byte> free_slot();
  /// Hands what was written into free_slot() to the reader.
  void publish(size_t num_bytes, uint64_t message_bytes);
  /// False while the ring is empty.
  bool front(Fragment* fragment);
  /// Gives the front's slot back to the writer.
  void pop();

 private:
  /// Each counter on a cache line of its own: each is written by one side only.
  struct Header {
    alignas(64) std::atomic<uint64_t> num_written{0};
    alignas(64) std::atomic<uint64_t> num_read{0};
  };
  struct alignas(64) Slot {
    uint64_t message_bytes;
    uint64_t num_bytes;
    alignas(64) std::byte bytes[kSlotBytes];
  };
  static_assert(std::atomic<uint64_t>::is_always_lock_free,
                "or it would not work between processes");

  Slot& slot(uint64_t index) const {
    return reinterpret_cast<Slot*>(header_ + 1)[index % kNumSlots];
  }

  Header* header_ = nullptr;
  uint64_t num_mine_ = 0;    ///< fragments that this side has written, or read
  uint64_t num_theirs_ = 0;  ///< the other side's count when last looked at
};

}  // namespace lockstep
