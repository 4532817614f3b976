#pragma once
// The step loop: which step comes next, when to evaluate, when to save, when to stop, and what to
// do about a step whose numbers are not finite. It calls three seams and knows neither ranks nor
// files: the engine computes, the keeper saves and goes back, observers watch. Every decision is a
// function of what all ranks know, so that all ranks take it alike. Thread-safety: one thread.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/train/save_interval.h"
#include "lockstep/core/train/save_record.h"

namespace lockstep {

/// One finished step, the same on every rank except for the times.
struct StepRecord {
  int64_t step = 0;   ///< number of the step, from 0
  int64_t epoch = 0;  ///< from 0
  double loss = 0;    ///< weighted mean over the global batch
  double gradient_norm = 0;
  double learning_rate = 0;
  double clip_factor = 1;
  int64_t num_samples = 0;
  bool is_applied = true;  ///< false: not finite, or skipped by decision
  double step_ms = 0;
  double communication_ms = 0;  ///< of exchanges of this rank, one after another
  double exposed_ms = 0;        ///< of them, while the rank did nothing but wait
  double loader_ms = 0;         ///< waiting for batches
  double update_ms = 0;         ///< the optimizer's; on a GPU that of the step before
  std::string bad_numbers;  ///< not empty: not finite; names step, micro-batch and samples
};

struct EvalRecord {
  int64_t num_steps = 0;  ///< steps done before it
  int64_t epoch = 0;
  double loss = 0;
  double accuracy = 0;
  int64_t num_correct = 0;
  int64_t num_samples = 0;
};

/// The interval between saves changed (checkpoint.every = "auto"); the same on every rank except
/// for the reason.
struct IntervalRecord {
  int64_t num_steps = 0;  ///< done when it changed
  int64_t steps = 0;      ///< the new interval
  int64_t was = 0;
  std::string why;  ///< on the rank that decides; else empty
};

/// Bits of the flag word on which ranks agree at each step.
inline constexpr uint64_t kFlagStop = 1;          ///< save and leave
inline constexpr uint64_t kFlagSaving = 2;        ///< this rank's part of a save is under way
inline constexpr uint64_t kFlagNoTimeToSave = 4;  ///< with kFlagStop: leave without a save
/// From this bit on: the interval between saves that the one rank with a chooser wants, in steps; 0
/// from the others.
inline constexpr int kFlagIntervalShift = 16;

struct StepOutcome {
  StepRecord record;
  uint64_t flags = 0;  ///< of all ranks
};

struct EvalOutcome {
  std::optional<EvalRecord> record;  ///< nothing: given up, because a rank was told to stop
  uint64_t flags = 0;                ///< of all ranks
};
/// This rank's flags now; asked again and again in what takes long.
using FlagsQuestion = std::function<uint64_t()>;

/// Computes. Collective where there are ranks: all call in the same order and get the same outcome.
/// Errors end the run: those of the data, of compute and of peers.
class StepEngine {
 public:
  virtual ~StepEngine() = default;
  /// Forward, backward, reduction and update of one step. `flags` are this rank's; not finite means
  /// no update.
  virtual Result<StepOutcome> run_step(int64_t step, uint64_t flags) = 0;
  /// Counts a step as done without computing it (its batch was found bad before).
  virtual Result<StepOutcome> skip_step(int64_t step, uint64_t flags) = 0;
  /// Gives up on every rank as soon as one has kFlagStop.
  virtual Result<EvalOutcome> evaluate(int64_t num_steps, const FlagsQuestion& flags) = 0;
};

/// Saves the state and goes back to it.
class StateKeeper {
 public:
  virtual ~StateKeeper() = default;
  /// Saves the state after `num_steps` steps; returns once it is durable, or has failed in a way
  /// that leaves training able to go on (the record's status). Errors returned here end the run.
  virtual Result<SaveRecord> save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                                  const std::vector<int64_t>& skipped_steps) = 0;
  /// save() in two halves, with training in between: this one returns once the state is copied.
  /// Requires: none under way. Errors of the save are told by finish_save().
  virtual void start_save(int64_t num_steps, const std::optional<EvalRecord>& last_eval,
                          const std::vector<int64_t>& skipped_steps) = 0;
  /// Whether this rank's part of the save that was started is over; other ranks may not be there.
  virtual bool has_save_ended() const = 0;
  /// Waits for the save that was started, and gives its record. Errors: as save().
  virtual Result<SaveRecord> finish_save() = 0;
  /// Restores the last saved state; returns its number of steps. Errors: kNotFound when there is
  /// none.
  virtual Result<int64_t> roll_back() = 0;
};

/// Watches. Errors end the run: where there are ranks, return one only if all of them do.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual Status on_step(const StepRecord& /*record*/) { return Status::ok(); }
  virtual Status on_evaluation(const EvalRecord& /*record*/) { return Status::ok(); }
  virtual Status on_save(const SaveRecord& /*record*/) { return Status::ok(); }
  virtual Status on_interval(const IntervalRecord& /*record*/) { return Status::ok(); }
  virtual Status on_roll_back(int64_t /*num_steps*/, std::string_view /*reason*/) {
    return Status::ok();
  }
};

enum class OnNonFinite : uint8_t {
  kStop,      ///< end the run with an error
  kSkip,      ///< leave the step out and go on
  kRollBack,  ///< restore the last checkpoint and leave that step out; stop when it comes again
};

struct StepLoopOptions {
  int64_t first_step = 0;  ///< steps already done
  int64_t end_step = 0;    ///< length of the run in steps
  int64_t steps_per_epoch = 1;
  int64_t eval_every_epochs = 1;  ///< 0: only at the end
  int64_t save_every_steps = 0;   ///< 0: never by steps
  int64_t save_every_epochs = 0;  ///< 0: never by epochs
  /// Saves `kFirstInterval` steps after the start, and from then on at the interval that the one
  /// rank with a chooser wants. Not together with save_every_steps.
  bool chooses_interval = false;
  IntervalChooser* chooser = nullptr;  ///< on one rank; must outlive the run
  int64_t stop_after_step = 0;         ///< stop once so many steps are done; 0: no such limit
  OnNonFinite on_nonfinite = OnNonFinite::kStop;
  std::vector<int64_t> skipped_steps;  ///< decided earlier, from the checkpoint
  bool is_stopped = false;    ///< all ranks agreed on a stop before the first step: run none
  bool is_evaluated = true;   ///< false: an evaluation that is due at first_step was given up by a
                              ///< stop and is made up for
  bool can_save = true;       ///< false: no run directory; nothing is saved
  double grace_s = 0;         ///< from being told to stop to being killed; 0: not known
  bool saves_behind = false;  ///< all saves but the last go on behind training
  bool skips_when_saving = false;  ///< with it: a save that is due while one is under way is left
                                   ///< out, else training waits
};

/// Steps between saves while none was measured yet.
inline constexpr int64_t kFirstInterval = 10;

/// What a stop left behind.
enum class StopVerdict : uint8_t {
  kNone,      ///< there was no stop, or nowhere to save
  kSaved,     ///< the state of the end is durable, or nothing was done since the start
  kPrevious,  ///< the grace period was too short for a save: what counts is the checkpoint before
};

enum class LoopEnd : uint8_t { kDone, kStoppedBySignal, kStoppedByLimit };

struct LoopReport {
  LoopEnd end = LoopEnd::kDone;
  int64_t num_steps = 0;  ///< done over the life of the run
  int64_t num_steps_this_start = 0;
  std::optional<StepRecord> last_step;
  std::optional<EvalRecord> last_eval;
  std::optional<SaveRecord> last_save;
  StopVerdict verdict = StopVerdict::kNone;  ///< of a stop by signal
  std::optional<int64_t> durable_steps;      ///< done in the newest durable checkpoint
  double expected_save_ms = 0;  ///< what the verdict went by, on this rank; 0: nothing measured
  int64_t interval_steps = 0;   ///< in use at the end; 0: it was not chosen by measurement
  std::vector<int64_t> skipped_steps;
};

/// Seconds since this rank was told to stop (a signal), nothing while it was not. Asked once a
/// step, and in evaluations.
using StopQuestion = std::function<std::optional<double>()>;

/// Runs steps first_step .. end_step - 1. Evaluates and saves at the ends of epochs as told, and at
/// the end of the run; after a stop it saves and returns. Where the grace period seems too short
/// for that on any rank, by the longest of the last saves, and there is a durable checkpoint, it
/// returns without. `observers` are called in order.
/// Collective where the engine is. Errors: those of the seams; kInvalidArgument for numbers that
/// are not finite under kStop, or that come again after a roll back.
Result<LoopReport> run_step_loop(StepEngine& engine, StateKeeper& keeper,
                                 const std::vector<StepObserver*>& observers,
                                 const StepLoopOptions& options, StopQuestion should_stop);

}  // namespace lockstep
