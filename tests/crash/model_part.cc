// The crash model: every operation of a run over a disk in memory, stopped before each of its
// calls, with all or many of the fates that POSIX allows to what was not synced.
#include <algorithm>

#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/text.h"
#include "parts.h"
#include "rehearsal.h"
#include "wrong_protocols.h"

namespace lockstep::crash {
namespace {

constexpr const char* kRun = "/a/b/run";  // not even its parents are there at first
constexpr int kMaxRanks = 4;

class ModelPart {
 public:
  explicit ModelPart(const PartOptions& options) {
    rehearsal_.budget.most_exhaustive = static_cast<size_t>(options.number("exhaustive", 512));
    rehearsal_.budget.num_samples = static_cast<size_t>(options.number("samples", 128));
    rehearsal_.seed = static_cast<uint64_t>(options.number("seed", 1));
    rehearsal_.run_dir = kRun;
    rehearsal_.part = static_cast<uint64_t>(options.number("part", 0));
    rehearsal_.num_parts = static_cast<uint64_t>(options.number("parts", 1));
    hashes_path_ = options.text("hashes", "");
    num_cut_starts_ = options.number("cut-starts", 40);
  }

  PartResult run() {
    const int64_t total = static_cast<int64_t>(operations().size()) * kMaxRanks + 3;
    int64_t done = 0;
    for (const Operation& operation : operations()) {
      for (int num_ranks = 1; num_ranks <= kMaxRanks; ++num_ranks) {
        rehearse_operation(operation, num_ranks);
        tell_progress(++done, total);
      }
    }
    crash_again_while_starting();
    tell_progress(++done, total);
    kill_a_start_then_save();
    lose_the_only_one();
    tell_progress(++done, total);
    catch_controls();
    tell_progress(++done, total);
    result_.count("states_of_this_share") = static_cast<int64_t>(distinct_.size());
    if (!hashes_path_.empty()) write_hashes();
    return std::move(result_);
  }

 private:
  /// For the script, which counts a disk once that two processes have met.
  void write_hashes() {
    std::string text;
    for (const auto& [high, low] : distinct_) text += hex64(high) + hex64(low) + "\n";
    const Status status =
        write_and_sync_file(posix_file_system(), hashes_path_, text, OpenMode::kTruncate);
    if (!status.is_ok()) result_.violate(status.message());
  }

  Rehearsal add(const std::string& name, Rehearsal rehearsal) {
    result_.count("kill_points") += rehearsal.num_kill_points;
    result_.count("crashes") += rehearsal.num_crashes;
    result_.count("judged") += rehearsal.num_judged;
    for (const std::string& each : rehearsal.violations) result_.violate(cat(name, ": ", each));
    return rehearsal;
  }

  void rehearse_operation(const Operation& operation, int num_ranks) {
    MemoryFileSystem disk;
    operation.prepare(disk, kRun);
    disk.crash_keeping_all();
    RehearsalOptions options = rehearsal_;
    options.last_state = static_cast<int>(operation.states.size()) - 1;
    const std::string name = cat(operation.name, " on ", num_ranks);
    const Rehearsal rehearsal = add(name, rehearse(disk, protocol_of(operation, num_ranks, kRun),
                                                   judge_of(operation, kRun), options, &distinct_));
    if (!rehearsal.ends_well) result_.violate(cat(name, ": fails when nobody stops it"));
  }

  /// A start on what a crash in the middle of a save left is itself cut at each of its calls.
  void crash_again_while_starting() {
    const Operation& save = operation("save");
    MemoryFileSystem disk;
    save.prepare(disk, kRun);
    disk.crash_keeping_all();
    std::vector<std::pair<std::unique_ptr<MemoryFileSystem>, int>> left;
    const Judge collect = [&](FileSystem& fs, int acknowledged) {
      auto& crashed = static_cast<MemoryFileSystem&>(fs);
      left.emplace_back(crashed.after_crash(keep_all(crashed)), acknowledged);
      return std::string();
    };
    RehearsalOptions once = rehearsal_;
    once.budget = {.most_exhaustive = 4, .num_samples = 4};
    once.goes_on = false;
    rehearse(disk, protocol_of(save, 2, kRun), collect, once, nullptr);
    const size_t step = std::max<size_t>(1, left.size() / static_cast<size_t>(num_cut_starts_));
    for (size_t i = 0; i < left.size(); i += step) {
      const int before = left[i].second;
      const Protocol start = [&](FileSystem& fs, std::atomic<int>& acknowledged) {
        acknowledged = before;
        TestState read(campaign_schema(), 0);
        const auto found = start_alone(fs, kRun, read);
        // What a start has seen is as good as acknowledged.
        if (found.is_ok() && found->has_value() && read == state_of(save.states[1]))
          acknowledged = 1;
      };
      add("start after a crash",
          rehearse(*left[i].first, start, judge_of(save, kRun), rehearsal_, &distinct_));
    }
  }

  /// A start that is killed at each of its calls leaves the run half made; a later one saves, and
  /// what that one acknowledged survives the power cut.
  void kill_a_start_then_save() {
    const Operation& first = operation("first-save");
    for (uint64_t kill_at = 1, was_killed = 1; was_killed != 0; ++kill_at) {
      was_killed = 0;
      MemoryFileSystem fs;
      FaultFileSystem faulty(fs);
      faulty.set_hook([&](const FileCall& call) {
        if (call.number < kill_at) return;
        was_killed = 1;
        throw std::runtime_error("killed");
      });
      TestState read(campaign_schema(), 0);
      try {
        start_alone(faulty, kRun, read).status().ignore();
      } catch (const std::runtime_error&) {
      }
      std::atomic<int> acknowledged = 0;
      protocol_of(first, 2, kRun)(fs, acknowledged);
      for (const Fates& fates : fates_to_try(fs.unsynced(), rehearsal_.budget, kill_at)) {
        ++result_.count("crashes");
        const auto crashed = fs.after_crash(fates);
        count_state(*crashed);
        const std::string wrong = judge(*crashed, kRun, first, 1);
        if (acknowledged != 1 || !wrong.empty())
          result_.violate(cat("save after a killed start: ", wrong));
      }
    }
  }

  /// The only checkpoint is bad: however the start is cut, no later one may begin from scratch.
  void lose_the_only_one() {
    MemoryFileSystem disk;
    operation("save").prepare(disk, kRun);
    overwrite_file(disk, path_join(RunPaths{kRun}.generation({1, 10}), kManifestFile), "");
    disk.crash_keeping_all();
    const Protocol start = [](FileSystem& fs, std::atomic<int>&) {
      TestState read(campaign_schema(), 0);
      start_alone(fs, kRun, read).status().ignore();
    };
    const Judge still_bad = [](FileSystem& fs, int) -> std::string {
      TestState read(campaign_schema(), 0);
      const Status status = start_alone(fs, kRun, read).status();
      return status.code() == StatusCode::kCorruption ? "" : cat("not refused: ", status.message());
    };
    RehearsalOptions options = rehearsal_;
    options.goes_on = false;
    add("the only one is bad", rehearse(disk, start, still_bad, options, &distinct_));
  }

  void catch_controls() {
    for (const Control& control : controls(kRun)) {
      MemoryFileSystem disk;
      control.operation.prepare(disk, kRun);
      disk.crash_keeping_all();
      RehearsalOptions options = rehearsal_;
      options.num_parts = 1;
      options.part = 0;
      options.goes_on = false;
      const Rehearsal rehearsal =
          rehearse(disk, control.protocol, judge_of(control.operation, kRun), options, nullptr);
      const bool is_caught = !rehearsal.violations.empty();
      result_.note("controls", control.name,
                   control.is_wrong ? (is_caught ? "caught" : "NOT CAUGHT")
                                    : (is_caught ? "WRONGLY REFUSED" : "passes, as it must"));
      if (is_caught != control.is_wrong)
        result_.violate(cat("control '", control.name,
                            "': ", is_caught ? rehearsal.violations.front() : "was not caught"));
    }
  }

  void count_state(FileSystem& fs) {
    const Hash128 hash = disk_hash(fs, "/");
    distinct_.insert({hash.high, hash.low});
  }

  RehearsalOptions rehearsal_;
  std::string hashes_path_;
  int64_t num_cut_starts_ = 0;
  DistinctDisks distinct_;
  PartResult result_;
};

}  // namespace

PartResult run_model_part(const PartOptions& options) {
  return ModelPart(options).run();
}

}  // namespace lockstep::crash
