// Errors of the disk: the k-th call of each kind fails, for every k that an operation reaches. No
// rank may hang, all must say the same, and what was there before stays.
#include <array>

#include "checkpoint/forwarding_file_system.h"
#include "disk_states.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "operations.h"
#include "parts.h"

namespace lockstep::crash {
namespace {

/// One that does not tell how full it is, as some network file systems don't.
class FreeSpaceIsUnknown final : public ForwardingFileSystem {
 public:
  using ForwardingFileSystem::ForwardingFileSystem;
  Result<uint64_t> free_bytes(const std::string&) override { return uint64_t{1} << 40; }
};

constexpr int kMaxRanks = 4;
constexpr double kMostSeconds = 10;  // far more than any operation takes, far less than a time-out

struct Planned {
  std::string name;
  Status status;
};

std::vector<Planned> planned_errors() {
  return {{"ENOSPC", resource_exhausted_error("No space left on device")},
          {"EDQUOT", resource_exhausted_error("Disk quota exceeded")},
          {"EIO", io_error("Input/output error")}};
}

struct Verdicts {
  std::array<Status, kMaxRanks> statuses;
  std::array<std::atomic<int>, kMaxRanks> acknowledged{};
  double seconds = 0;
};

void run_ranks(const Operation& operation, FileSystem& fs, int num_ranks, Verdicts* verdicts) {
  const Stopwatch watch;
  with_ranks(num_ranks, [&](World& world) -> Status {
    const auto rank = static_cast<size_t>(world.world_rank());
    verdicts->statuses[rank] =
        operation.run({fs, world.control_plane(), kRunDir, verdicts->acknowledged[rank], {}});
    return Status::ok();
  }).ignore();
  verdicts->seconds = watch.elapsed_s();
}

class ErrorPart {
 public:
  explicit ErrorPart(const PartOptions& options)
      : share_(options), one_case_of_(static_cast<uint64_t>(options.number("one-case-of", 1))) {}

  PartResult run() {
    const int64_t total = static_cast<int64_t>(operations().size()) * kMaxRanks;
    int64_t done = 0;
    for (const Operation& operation : operations()) {
      MemoryFileSystem disk;
      operation.prepare(disk, kRunDir);
      disk.crash_keeping_all();
      for (int num_ranks = 1; num_ranks <= kMaxRanks; ++num_ranks) {
        for (int i = 0; i < kNumFileOperations; ++i) {
          for (const Planned& planned : planned_errors()) {
            if (++num_cases_ % one_case_of_ != 0) continue;
            fail_each(operation, disk, num_ranks, static_cast<FileOperation>(i), planned);
          }
        }
        if (++num_cases_ % one_case_of_ == 0) fill_up(operation, disk, num_ranks);
        tell_progress(++done, total);
      }
    }
    return std::move(result_);
  }

 private:
  /// The first of the calls 1, 1 + stride, ... that this run tries; differs from case to case.
  uint64_t first_call() { return 1 + (num_cases_ * 7 + share_.offset) % share_.stride; }

  void fail_each(const Operation& operation, const MemoryFileSystem& disk, int num_ranks,
                 FileOperation which, const Planned& planned) {
    bool was_hit = true;
    for (uint64_t nth = first_call(); was_hit; nth += share_.stride) {
      const auto copy = disk.after_crash(keep_all(disk));
      FaultFileSystem faulty(*copy);
      faulty.fail_nth(which, nth, planned.status);
      const std::string name = cat(operation.name, " on ", num_ranks, ": ", planned.name,
                                   " at the ", nth, ". ", file_operation_name(which));
      was_hit = try_one(operation, faulty, *copy, num_ranks, name);
      if (was_hit) ++result_.count("errors_" + planned.name);
    }
  }

  /// A disk that takes only so many bytes: the write that goes past it is a short one.
  void fill_up(const Operation& operation, const MemoryFileSystem& disk, int num_ranks) {
    constexpr uint64_t kStepBytes = 1009;
    uint64_t used = 0;
    for (const auto& [path, content] : all_files(const_cast<MemoryFileSystem&>(disk), "/"))
      used += content.size();
    bool was_hit = true;
    for (uint64_t k = first_call(); was_hit; k += share_.stride) {
      const uint64_t room = 1 + (k - 1) * kStepBytes;
      const auto copy = disk.after_crash(keep_all(disk));
      copy->set_capacity_bytes(used + room);
      FreeSpaceIsUnknown lying(*copy);
      FaultFileSystem faulty(lying);
      was_hit = try_one(
          operation, faulty, *copy, num_ranks,
          cat(operation.name, " on ", num_ranks, ": a disk with room for ", room, " bytes more"));
      if (was_hit) ++result_.count("errors_short_write");
    }
  }

  /// Returns whether the operation noticed.
  bool try_one(const Operation& operation, FileSystem& faulty, MemoryFileSystem& disk,
               int num_ranks, const std::string& name) {
    Verdicts verdicts;
    run_ranks(operation, faulty, num_ranks, &verdicts);
    const int acknowledged = verdicts.acknowledged[0];
    bool was_noticed = false;
    for (size_t rank = 0; rank < static_cast<size_t>(num_ranks); ++rank) {
      was_noticed = was_noticed || !verdicts.statuses[rank].is_ok();
      if (verdicts.acknowledged[rank] != acknowledged)
        result_.violate(cat(name, ": rank ", rank, " has another verdict than rank 0"));
      const bool may_differ = acknowledged == static_cast<int>(operation.states.size()) - 1;
      if (!may_differ && verdicts.statuses[rank].to_string() != verdicts.statuses[0].to_string())
        result_.violate(cat(name, ": rank ", rank, " says ", verdicts.statuses[rank].to_string(),
                            ", rank 0 ", verdicts.statuses[0].to_string()));
    }
    if (verdicts.seconds > kMostSeconds)
      result_.violate(cat(name, ": took ", fixed(verdicts.seconds, 1), " s"));
    disk.set_capacity_bytes(uint64_t{1} << 40);
    std::string wrong = judge(disk, kRunDir, operation, acknowledged);
    if (wrong.empty()) wrong = judge_going_on(disk, kRunDir);
    if (!wrong.empty()) result_.violate(cat(name, ": ", wrong));
    ++result_.count("runs");
    return was_noticed;
  }

  CaseShare share_;
  uint64_t one_case_of_;
  uint64_t num_cases_ = 0;
  PartResult result_;
};

}  // namespace

PartResult run_error_part(const PartOptions& options) {
  return ErrorPart(options).run();
}

}  // namespace lockstep::crash
