#include "rehearsal.h"

#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep::crash {
namespace {

/// Thrown where a process is stopped for good.
struct Killed : std::runtime_error {
  Killed() : std::runtime_error("killed") {}
};

}  // namespace

Rehearsal rehearse(const MemoryFileSystem& disk, const Protocol& protocol, const Judge& judge,
                   const RehearsalOptions& options, DistinctDisks* distinct) {
  Rehearsal rehearsal;
  std::set<std::tuple<uint64_t, uint64_t, int>> judged;
  for (uint64_t kill_at = 1;; ++kill_at) {
    const auto copy = disk.after_crash(keep_all(disk));
    FaultFileSystem faulty(*copy);
    std::atomic<bool> was_killed = false;
    faulty.set_hook([&](const FileCall& call) {
      if (call.number < kill_at) return;
      was_killed = true;
      throw Killed();
    });
    std::atomic<int> acknowledged = 0;
    try {
      protocol(faulty, acknowledged);
    } catch (const Killed&) {
    }
    rehearsal.ends_well = acknowledged == options.last_state;
    if (was_killed && kill_at % options.num_parts != options.part) continue;
    ++rehearsal.num_kill_points;
    const uint64_t seed = mix(options.seed, kill_at, 0);
    for (const Fates& fates : fates_to_try(copy->unsynced(), options.budget, seed)) {
      const auto crashed = copy->after_crash(fates);
      ++rehearsal.num_crashes;
      const Hash128 hash = disk_hash(*crashed, "/");
      if (!judged.insert({hash.high, hash.low, acknowledged}).second) continue;
      ++rehearsal.num_judged;
      if (distinct != nullptr) distinct->insert({hash.high, hash.low});
      std::string wrong = judge(*crashed, acknowledged);
      if (wrong.empty() && options.goes_on && (hash.low & 15) == 0)
        wrong = judge_going_on(*crashed, options.run_dir);
      if (!wrong.empty())
        rehearsal.violations.push_back(cat("killed before call ", kill_at, ": ", wrong));
    }
    if (!was_killed) return rehearsal;
  }
}

Protocol protocol_of(const Operation& operation, int num_ranks, const std::string& run_dir) {
  return [&operation, num_ranks, run_dir](FileSystem& fs, std::atomic<int>& acknowledged) {
    with_ranks(num_ranks, [&](World& world) {
      return operation.run({fs, world.control_plane(), run_dir, acknowledged, {}});
    }).ignore();
  };
}

Judge judge_of(const Operation& operation, const std::string& run_dir) {
  return [&operation, run_dir](FileSystem& fs, int acknowledged) {
    return judge(fs, run_dir, operation, acknowledged);
  };
}

}  // namespace lockstep::crash
