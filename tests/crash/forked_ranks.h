#pragma once
// Ranks as processes, forked from one that is warm: each has a control plane over the loopback, a
// place in shared memory to say how far it came, and can be killed or frozen like a rank under
// mpirun. Thread-safety: the parent has one thread when it forks.

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/fault_file_system.h"

namespace lockstep::crash {

/// What a rank leaves behind, also when it is killed.
struct RankReport {
  std::atomic<int> acknowledged{0};
  std::atomic<int> step{0};  ///< the numbered step of a save that it is in; 0: none
  std::atomic<uint64_t> num_calls{0};
  std::atomic<int> last_operation{0};  ///< FileOperation of the call that it makes
  std::atomic<int> restored{0};        ///< the seed of the state that came back, if it was told
  std::atomic<int> was_hit{0};         ///< it reached the point at which something was planned
  std::atomic<int> is_done{0};
  std::atomic<int> code{0};     ///< StatusCode
  std::atomic<int> outcome{0};  ///< SaveOutcome
  std::atomic<double> seconds{0};
  char message[1024] = {};

  void set_status(const Status& status);
  Status status() const;
};

/// What a rank's body is given.
struct RankSeat {
  int world_rank = 0;
  ControlPlane& plane;
  RankReport& report;
};

class ForkedRanks {
 public:
  explicit ForkedRanks(int num_ranks);
  ~ForkedRanks();
  ForkedRanks(const ForkedRanks&) = delete;
  ForkedRanks& operator=(const ForkedRanks&) = delete;

  /// Forks the ranks into a process group of their own.
  void start(const std::function<void(RankSeat&)>& body);
  int num_ranks() const { return static_cast<int>(pids_.size()); }
  RankReport& report(int world_rank) { return reports_[world_rank]; }
  /// The highest state that any rank was told to be durable.
  int acknowledged() const;

  /// Waits for the end of all; those left after `seconds` are killed. Returns whether none was
  /// left.
  bool wait(double seconds);
  /// Waits until each rank has ended or stands still. Returns whether that came in time.
  bool wait_until_frozen(double seconds);
  void send(int world_rank, int signal_number);
  void send_to_all(int signal_number);
  /// Whether it is seen to have ended or to stand still, and the state of each of its threads (R,
  /// S, D, T, Z).
  std::string thread_states(int world_rank) const;

 private:
  void look(int flags);
  bool wait_for(double seconds, const std::function<bool()>& question);

  RankReport* reports_ = nullptr;
  std::vector<pid_t> pids_;
  std::vector<int> has_ended_;
  std::vector<int> is_frozen_;
};

/// Copies a folder of small files.
void copy_folder(const std::string& from, const std::string& to);

}  // namespace lockstep::crash
