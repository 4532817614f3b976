#pragma once
// Power cuts over a disk in memory: a protocol is run again and again, stopped before its 1st, 2nd,
// ... call that changes something, and each disk that POSIX allows after that is judged.
// Thread-safety: one rehearsal at a time over one StateCounter.

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "disk_states.h"
#include "operations.h"

namespace lockstep::crash {

/// What a protocol does to a disk; raises the number of its state that was acknowledged.
using Protocol = std::function<void(FileSystem& fs, std::atomic<int>& acknowledged)>;
/// Says what is wrong with a disk after a crash, or nothing.
using Judge = std::function<std::string(FileSystem& fs, int acknowledged)>;

struct Rehearsal {
  int64_t num_kill_points = 0;
  int64_t num_crashes = 0;  ///< fates tried, the same disk counted each time
  int64_t num_judged = 0;   ///< disks that differ from all others of this rehearsal, each judged
  bool ends_well = false;   ///< when nobody stops it: the last state was acknowledged
  std::vector<std::string> violations;
};

struct RehearsalOptions {
  FateBudget budget;
  uint64_t seed = 0;
  std::string run_dir = kRunDir;
  bool goes_on = true;  ///< one disk of 16 must also take a further save
  int last_state = 1;   ///< the number of the state that ends it well
  /// Stops only at kill points k with k % num_parts == part: to share the work.
  uint64_t part = 0;
  uint64_t num_parts = 1;
};

/// Hashes of all disks that were judged over many rehearsals.
using DistinctDisks = std::set<std::pair<uint64_t, uint64_t>>;

Rehearsal rehearse(const MemoryFileSystem& disk, const Protocol& protocol, const Judge& judge,
                   const RehearsalOptions& options, DistinctDisks* distinct);

/// An operation by ranks as threads, and its judge.
Protocol protocol_of(const Operation& operation, int num_ranks, const std::string& run_dir);
Judge judge_of(const Operation& operation, const std::string& run_dir);

}  // namespace lockstep::crash
