#pragma once
// ThreadHub: what ranks that are threads of one process share: mailboxes for the data path, rounds
// for the control planes, and who has left. One mutex guards all of it but the callbacks; payloads
// are copied outside it, from the sender's memory straight into the receiver's. Thread-safety: any
// thread.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gather_round.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/status.h"
#include "lockstep/distributed/communicator.h"
#include "loss_callback.h"

namespace lockstep {

class ThreadHub {
 public:
  explicit ThreadHub(int world_size);

  int world_size() const { return world_size_; }
  /// Held by rank threads while LibTorch draws random numbers (one generator a process).
  std::mutex& process_lock() { return process_lock_; }

  /// As Communicator::exchange, for `rank`.
  Status exchange(int rank, std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                  OnReceived on_received, std::string_view what, Deadline deadline);
  /// Ends the present and later exchanges of `rank` with kAborted.
  void abort(int rank, std::string_view reason);

  /// One round of the plane called `plane`: every rank's message. `round` counts each rank's calls
  /// on that plane. Errors: as ControlPlane::all_gather.
  Result<std::vector<std::string>> gather(const std::string& plane, uint64_t round, int rank,
                                          std::string_view what, std::string message,
                                          Deadline deadline);

  /// `rank` will take part in nothing any more. Unless `on_purpose`, whoever waits for it gets
  /// kPeerFailure, and the other ranks' callbacks are called, on this thread; a rank whose callback
  /// throws is aborted. The rank's own callback is never called again.
  void leave(int rank, bool on_purpose);
  std::vector<int> lost_ranks() const;
  /// As World::on_peer_lost, for `rank`.
  void on_peer_lost(int rank, std::function<void(int)> callback);

 private:
  enum class Delivery { kPosted, kCopying, kDone, kOtherSize };
  struct Message {
    std::span<const std::byte> bytes;
    Delivery delivery = Delivery::kPosted;
    size_t expected_bytes = 0;  ///< what the receiver listed, when kOtherSize
  };
  struct Round {
    GatherRound arrivals;
    int num_taken = 0;
    Status given_up = {};
  };
  class ExchangeCall;
  using Lock = std::unique_lock<std::mutex>;

  std::deque<Message*>& mailbox(int from, int to);
  /// Waits until something may have changed for `rank` or the deadline has passed.
  void wait(Lock& lock, int rank, Deadline deadline);
  std::vector<int> left_of(const std::vector<int>& ranks) const;
  /// The newest series of a plane, and why it is over, if it is.
  struct Series {
    uint64_t number = 0;
    Status given_up = {};
  };
  /// Why a wait for the missing ranks of a round is over, or OK while it goes on. A time-out ends
  /// the series.
  Status reason_to_give_up(Round& round, std::string_view what, Deadline deadline, Series& newest,
                           uint64_t own_series);

  const int world_size_;
  std::mutex process_lock_;
  mutable std::mutex mutex_;
  std::vector<std::condition_variable> changed_;  ///< one a rank
  std::vector<std::deque<Message*>> mailboxes_;   ///< [from * N + to], in the order sent
  std::vector<char> has_left_;
  std::vector<char> is_lost_;
  std::vector<std::string> abort_reasons_;
  std::vector<LossCallback> callbacks_;  ///< by rank; not under the mutex
  std::map<std::pair<std::string, uint64_t>, std::shared_ptr<Round>> rounds_;
  std::map<std::string, Series> series_;  ///< by plane
};

}  // namespace lockstep
