#pragma once
// Communicator: the data path between ranks. Small on purpose: it moves bits and adds nothing, so
// that every sum is ours and has one order. Implementations: thread ranks in one process, MPI, and
// NCCL for memory of a GPU. All pass one conformance suite
// (tests/distributed/communicator_conformance.h).
// Stream: a communicator of a GPU works in the device's queue of communication. Its calls return
// when the work is handed over: memory is filled in the order of that queue, on_received() may hand
// over what is to come after, and settle() waits. Others are done when a call returns.
// Thread-safety: one thread at a time (callers hand it over with a happens-before edge).
// After kTimeout or kPeerFailure a communicator is dead: every later call returns the same error.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// One message of a group: `bytes` of memory that is sent to, or filled by, `peer`.
struct SendOp {
  int peer = 0;
  std::span<const std::byte> bytes;
};
struct RecvOp {
  int peer = 0;
  std::span<std::byte> bytes;
};

/// Whom an exchange tells that recvs[index] is filled: any callable, or nullptr for nobody. Does
/// not own the callable, which must outlive the exchange, and allocates nothing.
class OnReceived {
 public:
  OnReceived(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  template <typename F>
  requires(std::invocable<const F&, size_t> && !std::same_as<F, OnReceived>)
      OnReceived(const F& call)  // NOLINT(google-explicit-constructor)
      : callable_(&call), invoke_([](const void* callable, size_t index) {
          (*static_cast<const F*>(callable))(index);
        }) {}

  explicit operator bool() const { return invoke_ != nullptr; }
  void operator()(size_t index) const { invoke_(callable_, index); }

 private:
  const void* callable_ = nullptr;
  void (*invoke_)(const void* callable, size_t index) = nullptr;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  int world_rank() const { return world_rank_; }
  int world_size() const { return world_size_; }
  /// Payload bytes this rank has handed to send since construction: of every SendOp, those of
  /// broadcasts and gathers included; and each native sum's values once, whatever the backend makes
  /// of them (none in a world of one). Counted when handed over, so also when the call then fails.
  uint64_t num_bytes_sent() const { return num_bytes_sent_; }

  /// A group of sends and receives that make progress together; returns when all are done. Between
  /// two ranks, messages match in the order in which they are listed, over all groups. Memory that
  /// is received into must not overlap that of any other op; several sends may share theirs. A peer
  /// is never this rank itself. `on_received(i)`, when given, is called on this thread, once for
  /// each recvs[i] that is filled (empty ones too), in any order, while others may be under way:
  /// add there, and the add hides behind the wire. It must not call this communicator. When the
  /// exchange fails it has been called for some and not for others. What it throws comes out of the
  /// exchange, which can't be resumed: the peers' matching calls may fail, or wait for their
  /// deadline. `what` names the exchange in errors. Collective: each
  /// listed peer must list the matching op, with the same number of bytes. A group may wait for all
  /// its peers to come to one of theirs before any of it moves (NCCL's do where two ranks meet for
  /// the first time), so groups must not depend on each other in a circle. Errors: kTimeout naming
  /// the peers still waited for, kPeerFailure, kInvalidArgument when a peer sent another size.
  virtual Status exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                          OnReceived on_received, std::string_view what, Deadline deadline) = 0;
  /// Every rank's `in` in rank order into `out` (world_size times in.size()). in may be a part of
  /// out at its own place. Collective: all ranks, same size. Errors: as exchange.
  virtual Status all_gather(std::span<const std::byte> in, std::span<std::byte> out,
                            std::string_view what, Deadline deadline) = 0;
  /// root's bytes into everyone's. Collective: all ranks, same size. Errors: as exchange.
  virtual Status broadcast(std::span<std::byte> bytes, int root, std::string_view what,
                           Deadline deadline) = 0;
  /// The backend's own sum over ranks, in place, of `num_elems` floats (or doubles). NOT invariant:
  /// for reduction = "native" and benchmarks only. Collective: all ranks. Errors: as exchange.
  virtual Status native_all_reduce_sum(float* values, int64_t num_elems, Deadline deadline) = 0;
  virtual Status native_all_reduce_sum(double* values, int64_t num_elems, Deadline deadline) = 0;
  /// Returns once every rank is here. Collective: all ranks. Errors: as exchange.
  virtual Status barrier(std::string_view what, Deadline deadline) = 0;
  /// Returns once everything that was handed over is done. Errors: as exchange; those of calls that
  /// returned before they were done.
  virtual Status settle(std::string_view /*what*/, Deadline /*deadline*/) { return Status::ok(); }
  /// Ends every wait of this rank with kAborted; later calls return it too. May be called from any
  /// thread.
  virtual void abort(std::string_view reason) = 0;
  /// "mpi", "threads" or "nccl"; for reports.
  virtual std::string_view backend() const = 0;

 protected:
  Communicator(int world_rank, int world_size) : world_rank_(world_rank), world_size_(world_size) {}
  void count_sent(uint64_t bytes) { num_bytes_sent_ += bytes; }
  void count_native_sum(uint64_t bytes) { num_bytes_sent_ += world_size_ > 1 ? bytes : 0; }

 private:
  int world_rank_;
  int world_size_;
  uint64_t num_bytes_sent_ = 0;
};

}  // namespace lockstep
