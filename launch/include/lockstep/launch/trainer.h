#pragma once
// Trainer: a whole training run with your own module and data set: the step loop, evaluation,
// checkpoints, resume, stop signals, metrics and the report. `lockstep train` is this with the
// shipped models and data sets. Thread-safety: one Trainer a rank, one thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/data/dataset.h"
#include "lockstep/core/model/model.h"
#include "lockstep/core/recipe/recipe.h"
#include "lockstep/core/recipe/schema.h"
#include "lockstep/core/train/save_account.h"
#include "lockstep/core/train/step_loop.h"
#include "lockstep/distributed/data_parallel.h"

namespace lockstep {

/// What is not part of the recipe: where a run lives and how this start of it goes.
struct TrainerOptions {
  std::string run_dir;  ///< checkpoints, metrics.jsonl, recipe; empty: nothing is written and
                        ///< nothing resumed
  std::string resume = "auto";  ///< "auto", "never" or the path of a checkpoint; a path needs a
                                ///< run directory: the checkpoint's own, or one without checkpoints
  std::string load = "all";  ///< with a path: "all", or "params-only" for fine-tuning: tensors of
                             ///< the model alone, by name; steps, optimizer and data begin anew
  std::vector<std::string> allow_missing;     ///< with "params-only": tensors ("head.*") that keep
                                              ///< their values
  std::vector<std::string> allow_unexpected;  ///< ... and those of the checkpoint that are not used
  bool overwrite = false;  ///< with "never" alone: move the run's earlier checkpoints,
                           ///< metrics and recipe aside
  bool take_over = false;  ///< start although an earlier attempt seems alive
  std::vector<std::string>
      allow_recipe_change;       ///< keys that may differ from the checkpoint's recipe
  int64_t stop_after_steps = 0;  ///< save and leave once so many steps are done; 0: run to the end
  std::string report_path;       ///< rank 0 writes the report here as JSON; empty: nowhere
  bool may_share_gpu = false;    ///< several ranks may use one GPU; they take turns (for tests)
  bool show_progress = true;     ///< rank 0 tells a person what is going on (standard error)
  StopQuestion asked_to_stop_s_ago = {};  ///< empty: by signals (lifecycle.h)
  /// Called when a rank enters a numbered step of the save protocol (1 to 9). For tests.
  std::function<void(int step, int world_rank)> on_save_step = {};
};

/// What one rank's memory is spent on, in bytes. With a GPU, prediction and measurement are of its
/// memory, and staging is beside them.
struct RankMemory {
  MemoryLedger predicted;
  uint64_t staging_bytes = 0;   ///< host memory that saving holds
  uint64_t measured_bytes = 0;  ///< growth, while that memory was made, of the process, or of what
                                ///< is in use on the GPU; 0: not measured
  DeviceMemoryUse device;       ///< at the end, with what LibTorch keeps; all 0 without a GPU

  bool is_on_device() const { return device.total > 0; }
  uint64_t predicted_bytes() const {
    return predicted.total_bytes() + (is_on_device() ? 0 : staging_bytes);
  }
};

enum class TrainEnd : uint8_t { kDone, kStoppedBySignal, kStoppedByLimit };

/// What a stop by a signal leaves behind in the run directory.
enum class TrainStop : uint8_t {
  kNone,        ///< there was no such stop, or no run directory
  kSaved,       ///< a durable checkpoint of the state of the end
  kPrevious,    ///< the grace period was too short: the newest durable checkpoint is an older one
  kNothingNew,  ///< no step was done: whatever checkpoint was there
};

/// What a run came to; the same on every rank except for times.
struct TrainReport {
  TrainEnd end = TrainEnd::kDone;
  TrainStop stop = TrainStop::kNone;
  std::string stop_text;                 ///< the same for people; empty without a stop
  std::optional<int64_t> durable_steps;  ///< done in the newest durable checkpoint
  bool is_saved = false;                 ///< a durable checkpoint holds the state of the end
  int world_size = 1;
  int64_t attempt = 0;       ///< 0 without a run directory
  int64_t steps = 0;         ///< done over the life of the run
  int64_t first_step = 0;    ///< the first one of this start
  std::string resumed_from;  ///< path of the checkpoint; empty: from the beginning
  std::string recipe_hash;
  std::string params_digest;
  std::string state_digest;
  std::string reduction;
  double bucket_mib = 0;  ///< what was aimed at: given, or chosen from the cost of an exchange
  std::optional<double> final_train_loss;
  std::optional<EvalRecord> eval;
  std::vector<int64_t> skipped_steps;
  double samples_per_s =
      0;  ///< over this start's steps but the first; evaluation and saves not counted
  double step_ms_p50 = 0;
  double step_ms_p95 = 0;
  /// Medians of what rank 0's steps went into; the four add up to about step_ms_p50.
  struct StepSplit {
    double compute_ms = 0;  ///< forward, backward, folding
    double exposed_ms = 0;  ///< waiting for other ranks
    double update_ms = 0;   ///< the optimizer
    double loader_ms = 0;   ///< waiting for batches
  };
  StepSplit step_split;
  double seconds_to_first_step = 0;  ///< age of the process at the end of its first step
  std::vector<RankMemory> memory;    ///< of each rank
  SaveSummary saves;                 ///< what saving cost this start, as this rank measured it
  int64_t save_interval_steps = 0;   ///< at the end, with checkpoint.every = "auto"; else 0
  /// As one JSON object (launch/README.md lists the members).
  std::string to_json() const;
};

/// What a run was started from.
struct WeightsReport {
  std::string path;  ///< of the checkpoint of step 0
  int64_t num_tensors = 0;
  uint64_t bytes = 0;
  std::vector<std::string> kept;  ///< buffers that the file does not have
  std::string recipe_hash;
  std::string state_digest;
  /// As one JSON object with these members.
  std::string to_json() const;
};

/// Numbers and texts of the caller's that travel in checkpoints beside the model's state, e.g. the
/// position in a curriculum. (Tensors travel as buffers or as parameters without a gradient of the
/// module.) Both functions are called on every rank; what they see must be the same on all.
struct UserState {
  std::function<Scalars()> scalars = {};  ///< at each save and at the report; may be empty
  /// After a restore or a roll back, with what `scalars` returned at the save. Its error ends the
  /// run on all ranks. May be empty.
  std::function<Status(const Scalars&)> restore = {};
};

/// What a run is made of.
struct TrainerParts {
  Recipe recipe;        ///< [model] and [data] mean what the caller says they mean
  RecipeSchema schema;  ///< that the recipe was loaded with
  DatasetSplits data;
  /// Called once, after LibTorch's generator was seeded from the recipe; its weights on rank 0 are
  /// everyone's.
  std::function<Result<std::unique_ptr<TrainableModel>>(const SampleSpec&, const Recipe&)>
      make_model;
  UserState user_state = {};
};

class Trainer {
 public:
  /// Comes before anything that asks LibTorch about GPUs, torch::manual_seed() included: it loads
  /// what knows them. Collective: all ranks. Lifetime: `world` must outlive it. Errors, the same on
  /// every rank: kInvalidArgument when options contradict each other, when ranks see different
  /// recipes, options, data or binaries (names the first difference and the rank), when there are
  /// more ranks than leaves, or the data set is smaller than one global batch; those of
  /// Checkpointer::open.
  static Result<Trainer> make(World& world, TrainerParts parts, const TrainerOptions& options);
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;
  ~Trainer();

  /// Restores, trains to the end of the recipe or to a stop, saves, and says what came of it. A
  /// start from the path of a checkpoint first saves that state as the newest generation of its own
  /// run, so that whatever happens to this start, the run goes on from there.
  /// Collective. Errors: those of restore, of the data, of peers; every rank gets the same one.
  Result<TrainReport> run();

  /// Instead of run(): fills the model with the weights of a safetensors file (weights_file.h says
  /// which it takes), saves that as the run's checkpoint of step 0 and ends this start. The next
  /// one goes on from there. Requires: a run directory; resume "never".
  /// Collective. Errors: as run(); kInvalidArgument with every difference when the file is of
  /// another model.
  Result<WeightsReport> start_from_weights(const std::string& weights_path);

 private:
  struct Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
