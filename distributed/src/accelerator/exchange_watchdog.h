#pragma once
// ExchangeWatchdog: exchanges that a device's queue works through behind the host, watched by a
// thread. The host may be anywhere meanwhile, also in a call of LibTorch that waits for the device
// and knows no deadline; what ends such a wait is that the exchange before it is given up. A second
// thread watches the first, which asks the device's driver. Must not know: NCCL. Thread-safety:
// watch() on one thread; text_of_oldest() on any.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/log.h"
#include "lockstep/core/device/device.h"
#include "lockstep/distributed/communicator.h"

namespace lockstep {

/// One call of a communicator, as messages name it.
struct WatchedExchange {
  std::string what;
  uint64_t call = 0;  ///< of this rank's calls
  int world_rank = 0;
  struct Message {
    bool is_sent = false;
    int peer = 0;
    size_t num_bytes = 0;
  };
  std::vector<Message> messages;  ///< none: with all ranks
  double timeout_s = 0;           ///< from when the device comes to it
  QueueMark begin, end;           ///< around it, in the queue

  void add_messages(std::span<const SendOp> sends, std::span<const RecvOp> recvs);
  /// "bucket 3: rank 0, its call 17 (to rank 1 4096 bytes, from rank 1 8192 bytes)"
  std::string text() const;
};

/// "...: was not done within 5 s; ..."
Status not_done_error(const std::string& exchange, double timeout_s);

class ExchangeWatchdog {
 public:
  struct Actions {
    /// What must end all exchanges: a lost rank, an error of the backend. Called again and again
    /// while one is under way.
    std::function<Status()> look;
    /// Called once, on either thread, with what `look` said, the device's own error, or kTimeout
    /// naming the exchange: is to make the device go on. May hang: nothing of the watchdog's owner
    /// may be touched after what can.
    std::function<void(const Status&)> give_up;
  };
  /// `queue` must outlive it. `most_look_s`: so long, or as long as the exchange in question, may
  /// the device's driver keep a look waiting.
  ExchangeWatchdog(DeviceQueue& queue, Actions actions, double most_look_s = 60);
  /// As stop().
  ~ExchangeWatchdog();
  ExchangeWatchdog(const ExchangeWatchdog&) = delete;
  ExchangeWatchdog& operator=(const ExchangeWatchdog&) = delete;

  void watch(WatchedExchange exchange);
  /// Of those not seen to be done; empty without one.
  std::string text_of_oldest() const;
  /// Waits on the host until `is_done` says so. Time that the device computes before it comes to
  /// what is watched is not counted (up to kMaxComputeS). Errors: what is_done or `look` said, with
  /// `text`; kTimeout with `text`; what was given up with: then all is "done", and has not come.
  Status wait(const std::string& text, Deadline deadline,
              const std::function<Result<bool>()>& is_done, const Log& log);
  /// The same until the queue has done all that it was handed.
  Status settle(std::string_view what, Deadline deadline, const Log& log);
  /// Ends the threads. False: one hangs, in give_up() say, longer than this, and they are left to
  /// themselves.
  bool stop(double wait_s = 10);

 private:
  struct State;
  static void run(const std::shared_ptr<State>& state);
  static void watch_looks(const std::shared_ptr<State>& state);
  std::shared_ptr<State> state_;  // the threads' too
};

}  // namespace lockstep
