#pragma once
// The parts of the campaign: each hurts a run in one way as often as it is told to, and counts what
// it tried and what was lost. A part tells its progress on stderr and its result as one JSON object
// on stdout. Thread-safety: one part at a time.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep::crash {

/// What a part is told on the command line: "--states 1000" is {"states", "1000"}.
struct PartOptions {
  std::map<std::string, std::string> values;
  int64_t number(const std::string& name, int64_t fallback) const;
  std::string text(const std::string& name, const std::string& fallback) const;
};

/// The cases of one process: each of `stride` from `offset` on, so that the processes of a campaign
/// share all of them, or every n-th.
struct CaseShare {
  explicit CaseShare(const PartOptions& options);
  bool has(uint64_t case_index) const { return case_index % stride == offset; }
  uint64_t stride;
  uint64_t offset;
};

/// A folder on a real disk for one process: `base()` is what each case begins with, `run_dir()` the
/// copy of it that a case hurts.
class PartFolder {
 public:
  /// `name` is the part's; the folder is below the one that it is told.
  PartFolder(const PartOptions& options, const std::string& name);
  /// There and empty.
  void renew() const;
  void remove() const;
  std::string base() const;
  std::string run_dir() const;

 private:
  std::string path_;
};

/// What a part tried and found.
class PartResult {
 public:
  /// Counts something by name; the campaign's script knows the names.
  int64_t& count(const std::string& name) { return counts_[name]; }
  /// Something was lost, or a promise broken. The first ones are kept word by word.
  void violate(const std::string& what);
  int64_t num_violations() const { return num_violations_; }
  void add_violations(const std::vector<std::string>& all);
  /// A table of the report: a control and whether it was caught, a world pair and its digest.
  void note(const std::string& table, const std::string& row, const std::string& value) {
    tables_[table][row] = value;
  }
  std::string to_json() const;

 private:
  std::map<std::string, int64_t> counts_;
  std::map<std::string, std::map<std::string, std::string>> tables_;
  std::vector<std::string> violations_;
  int64_t num_violations_ = 0;
};

/// "progress <done> <total>" on stderr, not more often than every 100 ms.
void tell_progress(int64_t done, int64_t total);

/// Crash states of the in-memory model, and the wrong protocols that it must catch.
PartResult run_model_part(const PartOptions& options);
/// Errors of the disk at each call of each operation.
PartResult run_error_part(const PartOptions& options);
/// Single bits of every byte class.
PartResult run_flip_part(const PartOptions& options);
/// SIGKILL before each call of each rank, on a real disk.
PartResult run_kill_part(const PartOptions& options);
/// One step of a power cut of a real file system: --action prepare, run or judge.
PartResult run_cut_part(const PartOptions& options);
/// A frozen attempt, another one that takes over, and the first goes on.
PartResult run_freeze_part(const PartOptions& options);
/// One rank in trouble: the others have an error that names it, in time, and go on.
PartResult run_bounded_part(const PartOptions& options);
/// Saved at each of 8 numbers of ranks, read at each.
PartResult run_world_part(const PartOptions& options);

}  // namespace lockstep::crash
