#pragma once
// PlaneInbox: what the io thread of a TCP control plane has for the thread that calls it: results
// of rounds, who is lost. Thread-safety: any thread; it is the only state that the
// two threads share.

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "control_protocol.h"
#include "lockstep/core/base/deadline.h"
#include "loss_callback.h"

namespace lockstep {

class PlaneInbox {
 public:
  // From the io thread.
  void set_ready();
  void set_drained();
  void deliver(RoundResult result);
  /// The connection of `world_rank` closed without a shutdown: ends every wait, calls the callback.
  void lose(int world_rank);
  /// This rank's own end of the plane broke: ends every wait with `status`. The first one stays.
  void fail(Status status);

  // From the caller's thread.
  /// False when the deadline passed first, or failure() says why it will not be.
  bool wait_until_ready(Deadline deadline);
  bool wait_until_drained(Deadline deadline);
  /// The messages of `round`. Shortly before the deadline calls `give_up` and waits for what rank 0
  /// then says of the round: it alone decides whether all had come, so that every rank leaves with
  /// the same verdict. Errors: as ControlPlane::all_gather, without `what`.
  Result<std::vector<std::string>> wait_for(uint64_t round, const std::function<void()>& give_up,
                                            Deadline deadline);
  /// kPeerFailure once a rank is lost; what fail() was told.
  Status failure() const;
  std::vector<int> lost_ranks() const;
  /// As World::on_peer_lost.
  void on_peer_lost(std::function<void(int)> callback);

 private:
  using Lock = std::unique_lock<std::mutex>;
  bool wait_for_flag(const bool& flag, Deadline deadline);
  Status failure_locked() const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool is_ready_ = false;
  bool is_drained_ = false;
  /// By round; what a frozen rank finds when it goes on may be more than one.
  std::map<uint64_t, RoundResult> results_;
  std::vector<int> lost_;
  std::atomic<bool> has_lost_ = false;  ///< spares the lock to whoever polls lost_ranks()
  LossCallback callback_;
  Status failure_;  ///< of the io thread, or of the callback
};

}  // namespace lockstep
