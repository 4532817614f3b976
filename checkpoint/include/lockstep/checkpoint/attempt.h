#pragma once
// Attempt: this start of a run, and the proof that no newer start has taken over. Each start
// creates the next file in <run>/attempts exclusively; the file also tells the next start whether
// this one still lives: its first line names the process, and a byte is appended at every
// heartbeat, so its size is the heartbeat counter. Only rank 0 holds one. Thread-safety: one thread
// at a time; the heartbeat runs on a thread of its own.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/log.h"

namespace lockstep {

/// Names one process for good, also after its id is used again.
struct ProcessIdentity {
  std::string host;
  std::string boot_id;
  int64_t pid = 0;
  uint64_t start_ticks = 0;
  bool operator==(const ProcessIdentity&) const = default;
};
ProcessIdentity this_process();
/// Whether that process runs on this host since this boot. False for other hosts: nothing is known
/// of them.
bool process_runs(const ProcessIdentity& process);

struct AttemptOptions {
  FileSystem* fs = nullptr;
  std::string run_dir;
  Log log;
  std::string job_id;      ///< of the scheduler; for people
  bool take_over = false;  ///< start although the last attempt lives; that one is fenced
  /// What the error says to do when the last attempt is alive.
  std::string advice_when_alive =
      "Wait for it to end, use another run directory, or pass --take-over to stop it from saving "
      "anything more";
  double heartbeat_s = 1;  ///< 0: none is written
  double watch_s = 3;      ///< how long a foreign attempt's heartbeat is watched
  ProcessIdentity process = this_process();
  std::function<bool(const ProcessIdentity&)> is_running = process_runs;
};

class Attempt {
 public:
  /// Makes the run's folders, creates the next attempt file and syncs it, starts the heartbeat, and
  /// only then takes older writers' partial folders away from them: whoever wakes up late finds its
  /// folder gone, or itself fenced. They are renamed; remove_doomed() deletes them. Errors:
  /// kAlreadyExists when the last attempt is alive and take_over is not set, naming its host and
  /// process; kAborted when a newer attempt starts meanwhile; kIoError, kResourceExhausted. Cost:
  /// watch_s seconds when the last attempt was not ended and ran on another host.
  static Result<Attempt> begin(const AttemptOptions& options);
  Attempt(Attempt&&) noexcept;
  Attempt& operator=(Attempt&&) noexcept;
  /// Stops the heartbeat. Without end() the next start has to find out by itself that this one is
  /// over.
  ~Attempt();

  int64_t number() const;
  /// Deletes what begin() or an earlier deletion left to be deleted. What can't be is only told.
  /// Cost: minutes for large checkpoints; call it when nobody waits with a short deadline.
  void remove_doomed() const;
  /// OK while no newer attempt file exists. Errors: kAborted naming the newer attempt; kIoError.
  Status check_not_fenced() const;
  /// Stops the heartbeat and marks the attempt as over. Idempotent.
  Status end();

 private:
  struct Impl;
  explicit Attempt(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The last bytes of the file of an attempt that is over.
inline constexpr std::string_view kAttemptEndMark = "end\n";

/// What an attempt file says.
struct AttemptRecord {
  ProcessIdentity process;
  std::string job_id;
  std::string utc_time;
  bool ended = false;
  uint64_t num_heartbeats = 0;
};
std::string attempt_record_text(const AttemptRecord& record);
/// Errors: kCorruption, also for the empty file of a start that died at once.
Result<AttemptRecord> parse_attempt_record(std::string_view text, std::string_view where);

/// The highest attempt number in the run, 0 when there is none. Errors: kIoError.
Result<int64_t> newest_attempt(FileSystem& fs, const RunPaths& paths);

}  // namespace lockstep
