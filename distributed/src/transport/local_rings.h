#pragma once
// LocalRings: the shared rings between this rank and the others on its host, and one exchange's way
// through them. Pure memory: knows no MPI. Thread-safety: as its communicator.

#include <span>
#include <string_view>
#include <vector>

#include "lockstep/distributed/communicator.h"
#include "shared_ring.h"

namespace lockstep {

class LocalRings {
 public:
  /// Memory that each rank of the host brings: a ring from every rank of the host, by local rank.
  static size_t segment_bytes(int num_local_ranks) {
    return SharedRing::bytes_needed() * static_cast<size_t>(num_local_ranks);
  }

  /// No rings.
  explicit LocalRings(int world_size) : to_(static_cast<size_t>(world_size)), from_(to_) {}
  /// `segments[i]` belongs to the rank `world_ranks[i]`; all mapped here. Empties the rings to this
  /// rank: nobody may send before every rank of the host has come so far. Ignores rings when a
  /// message is longer than `max_message_bytes`.
  void attach(int world_rank, std::span<std::byte* const> segments,
              std::span<const int> world_ranks, size_t max_message_bytes);

  /// Whether a message of this size between this rank and `peer` goes through a ring: the same
  /// answer on both sides.
  bool carries(int peer, size_t num_bytes) const {
    return to_[static_cast<size_t>(peer)].is_there() && num_bytes <= max_message_bytes_;
  }

  /// Begins an exchange: those of its ops that carries() says yes to. The spans must live until it
  /// is done.
  void begin(std::span<const SendOp> sends, std::span<const RecvOp> recvs);
  /// Moves what can be moved at once, at most one fragment a peer and direction; calls
  /// `on_received` for each receive that became complete. Errors: kInvalidArgument naming the peer
  /// and both sizes.
  Status progress(OnReceived on_received, int world_rank, std::string_view what, bool* has_moved);
  bool is_done() const { return num_left_ == 0; }
  /// Peers with a message under way, with repetitions.
  std::vector<int> peers_waited_for() const;

 private:
  struct Way {
    int peer = 0;
    std::vector<size_t> ops;  ///< indices, in order
    size_t next = 0;          ///< of ops
    size_t offset_bytes = 0;  ///< of the op under way
    bool is_done() const { return next == ops.size(); }
  };
  bool push(Way& way);
  Status pull(Way& way, OnReceived on_received, int world_rank, std::string_view what,
              bool* has_moved);
  /// The ways of one direction. Those of exchanges before are used again, so that a step like the
  /// one before it allocates nothing.
  class Ways {
   public:
    void clear() { num_used_ = 0; }
    /// The way of `peer`; a new one has no ops.
    Way& of(int peer);
    std::span<Way> used() { return std::span(ways_).first(num_used_); }
    std::span<const Way> used() const { return std::span(ways_).first(num_used_); }

   private:
    std::vector<Way> ways_;
    size_t num_used_ = 0;
  };

  size_t max_message_bytes_ = 0;
  std::vector<SharedRing> to_;  ///< by world rank; not there for other hosts
  std::vector<SharedRing> from_;
  std::span<const SendOp> sends_;
  std::span<const RecvOp> recvs_;
  Ways out_;
  Ways in_;
  size_t num_left_ = 0;  ///< ops
};

}  // namespace lockstep
