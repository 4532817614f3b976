#pragma once
// What a run does to its disk, one rank at a time: saves, starts, retention, take-over. Each can be
// run by threads over memory and by processes over a real disk, and killed at any of its calls;
// what a new start may find then is the same for all. Thread-safety: an Operation is used by all
// ranks at once.

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/run_fixture.h"
#include "lockstep/checkpoint/checkpointer.h"

namespace lockstep::crash {

/// Six kinds of one short block each, so that 1 to 4 ranks all own something; 5 KB.
StateSchema campaign_schema();
/// A state of that schema, drawn from `seed` once and kept. Nobody may write to it.
TestState& state_of(uint64_t seed);
/// What a rank owns of it: kind k belongs to rank k modulo the number of ranks.
OwnedState owned_by_turns(TestState& state, int world_rank, int world_size);

/// What one rank knows while it runs an operation.
struct RankContext {
  FileSystem& fs;
  ControlPlane& plane;
  std::string run_dir;
  /// Raised to i when the i-th state of the operation was said to be durable.
  std::atomic<int>& acknowledged;
  /// Told when the rank enters a numbered step of a save.
  std::function<void(int step)> on_step;
};

struct Operation {
  std::string name;
  /// The states that it leaves one after the other, by seed; 0 is no checkpoint at all. The first
  /// is what was there before.
  std::vector<uint64_t> states;
  /// There was a bad checkpoint before it began: one in quarantine is no surprise.
  bool has_bad = false;
  /// A start may find none where none was acknowledged, if the first state stands aside.
  bool moves_aside = false;
  std::function<void(FileSystem& fs, const std::string& run_dir)> prepare;
  std::function<Status(const RankContext& context)> run;
};

/// save, re-save of a step, two saves, two behind training, first save, start after a cut save,
/// start over a bad manifest and over a bad shard, retention by two rules, take-over, moving aside.
const std::vector<Operation>& operations();
const Operation& operation(const std::string& name);

/// The options of a rank over `context`: quiet_options, the run's folder, the steps told.
CheckpointerOptions options_of(const RankContext& context);
/// Opens, optionally restores, saves each of `seeds`, closes.
struct SaveRun {
  std::vector<uint64_t> seeds = {};
  int64_t first_step = 20;
  int64_t step_between = 10;
  SaveMode mode = SaveMode::kInFront;
  bool restores_first = false;
  bool goes_on_after_error = false;  ///< as training does: the next save is tried all the same
  TweakOptions tweak = {};
};
Status save_run(const RankContext& context, const SaveRun& run);

/// What a start of one rank makes of a disk; `read` holds the state when one was found.
Result<std::optional<Restored>> start_alone(FileSystem& fs, const std::string& run_dir,
                                            TestState& read, const TweakRestore& tweak = {});

/// Starts anew on what a crash left. Says what is wrong, or nothing: only states from the last
/// acknowledged one on may come back, bit for bit, and none from scratch.
std::string judge(FileSystem& fs, const std::string& run_dir, const Operation& operation,
                  int acknowledged);
/// Whether a run goes on from there: one more save and one more start, bit for bit.
std::string judge_going_on(FileSystem& fs, const std::string& run_dir);

}  // namespace lockstep::crash
