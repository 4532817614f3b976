#pragma once
// PeerExchangeCommunicator: what a Communicator can do with exchange() alone, so that a transport
// of point-to-point messages has only that to write. Also keeps the error that ended a
// communicator: after it, every call returns it. Thread-safety: as Communicator; fail() and
// failure() from any thread.

#include <mutex>
#include <vector>

#include "lockstep/distributed/communicator.h"

namespace lockstep {

class PeerExchangeCommunicator : public Communicator {
 public:
  /// Cost: one message to and from each other rank.
  Status all_gather(std::span<const std::byte> in, std::span<std::byte> out, std::string_view what,
                    Deadline deadline) override;
  /// Cost: along a binomial tree: log2(N) rounds; the root sends log2(N) times, the last ranks
  /// nothing.
  Status broadcast(std::span<std::byte> bytes, int root, std::string_view what,
                   Deadline deadline) override;
  /// Cost: an empty message to and from each other rank, so that each one that is missing is named.
  Status barrier(std::string_view what, Deadline deadline) override;

 protected:
  using Communicator::Communicator;

  /// Requires: peers other than this rank, in the world.
  void check_ops(std::span<const SendOp> sends, std::span<const RecvOp> recvs) const;
  /// The error that ended this communicator, or OK.
  Status failure() const;
  /// Ends this communicator with `status`, unless it ended before; returns the error that did.
  Status fail(Status status);

 private:
  // Of the gather or broadcast under way; kept to save allocations.
  std::vector<SendOp> sends_;
  std::vector<RecvOp> recvs_;
  mutable std::mutex mutex_;
  Status failure_;
};

}  // namespace lockstep
