#pragma once
// Recipe: the resolved configuration of a run. It determines the numbers and has a hash; each value
// knows where it came from. World size is not part of it. Made by load_recipe (loader.h).
// Thread-safety: values.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/recipe/key.h"
#include "lockstep/core/recipe/schema.h"

namespace lockstep {

// The tables as types. The defaults here are the defaults of recipes.

struct ModelRecipe {
  std::string name;
  KeyValues own;  ///< the model's own keys, all of them
};

struct DataRecipe {
  std::string name;
  std::string path;      ///< empty: the data set's usual place
  std::string identity;  ///< Dataset::identity, once known; empty before
  KeyValues own;         ///< the data set's own keys, all of them
};

struct TrainRecipe {
  int64_t seed = 1;
  int64_t steps = 0;   ///< length of the run in steps; 0: given in epochs
  int64_t epochs = 0;  ///< length of the run in epochs; 0: given in steps
  int64_t micro_batch_size = 0;
  int64_t micro_batches_per_step = 0;
  int64_t leaf_micro_batches =
      1;  ///< micro-batches accumulated in place as one leaf of the reduction tree
  std::string memory_format = "contiguous";  ///< or "channels_last"
  int64_t intra_op_threads = 1;
  std::string reduction = "tree";     ///< or "native": not invariant, for comparison
  std::string leaf_dtype = "f32";     ///< or "bf16": gradients are rounded before they are added
  std::string device = "auto";        ///< or "cpu", "cuda": where it is computed
  double bucket_mib = 0;              ///< about so much gradient is exchanged at a time; 0: chosen
  double timeout_s = 600;             ///< for one exchange with the other ranks
  std::string on_nonfinite = "stop";  ///< or "skip", "rollback"
};

struct OptimizerRecipe {
  std::string name = "adamw";  ///< or "sgd"
  double learning_rate = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};  ///< adamw
  double eps = 1e-8;                           ///< adamw
  double weight_decay = 0.01;
  double momentum = 0;  ///< sgd
};

struct ScheduleRecipe {
  std::string name = "constant";  ///< or "cosine", "linear", "step"
  int64_t warmup_steps = 0;
  int64_t total_steps =
      0;  ///< of cosine and linear; 0: the length of the run, until it is resolved
  double final_factor = 0;   ///< of cosine and linear: share of the learning rate at the end
  int64_t step_every = 1;    ///< of step
  double step_factor = 0.1;  ///< of step
};

struct ClipRecipe {
  double max_norm = 0;  ///< of the global gradient; 0: no clipping
};

struct EvalRecipe {
  int64_t every_epochs = 1;  ///< 0: only at the end
};

struct CheckpointRecipe {
  int64_t every_steps = 0;   ///< 0: not by steps
  int64_t every_epochs = 0;  ///< 0: not by epochs
  int64_t keep_latest = 3;
  int64_t keep_every_steps = 0;     ///< also keep those at multiples of it; 0: none
  std::string mode = "sync";        ///< "async": all saves but the last go on behind training
  std::string when_busy = "wait";   ///< async: "skip" leaves out a save that is due during another
  std::string io = "auto";          ///< how shards travel: BulkMethod by name
  int64_t staging_mib = 0;          ///< async: host memory for copies; 0: the rank's whole shard
  int64_t max_write_mib_per_s = 0;  ///< async, of each rank; 0: no limit
  bool read_back = false;           ///< shards are read back from the disk before the commit
  std::string
      keep_best;  ///< "max:accuracy", "min:loss": also keep the best by this metric; empty: none
  std::string keep_for;         ///< "7d", "36h": also keep those younger than that; empty: none
  std::string every = "fixed";  ///< or "auto": the interval follows from what saves cost
  double mtbf_hours = 0;        ///< auto: mean time between failures of the whole job
  double max_overhead = 0.01;   ///< auto: share of the time that saves may take
  double grace_s = 0;           ///< from a stop signal to the kill; 0: not known
  double timeout_s = 10;        ///< for a rank in a save or restore, beyond the time of its bytes
};

/// The tables of a recipe.
struct RecipeTables {
  ModelRecipe model;
  DataRecipe data;
  TrainRecipe train;
  OptimizerRecipe optimizer;
  ScheduleRecipe schedule;
  ClipRecipe clip;
  EvalRecipe eval;
  CheckpointRecipe checkpoint;
};

/// One key with its value and where that came from.
struct ResolvedKey {
  std::string table;
  KeySpec spec;
  KeyValue value;
  std::string origin;  ///< "default", "recipe.toml:12", "--set", or who filled it in at the start
                       ///< of the run
  /// "train.seed"
  std::string full_name() const { return table + "." + spec.name; }
};

class Recipe {
 public:
  /// For the loader. Requires: a value of the right type for each key of the schema, in its order.
  explicit Recipe(std::vector<ResolvedKey> keys);

  const ModelRecipe& model() const { return tables_.model; }
  const DataRecipe& data() const { return tables_.data; }
  const TrainRecipe& train() const { return tables_.train; }
  const OptimizerRecipe& optimizer() const { return tables_.optimizer; }
  const ScheduleRecipe& schedule() const { return tables_.schedule; }
  const ClipRecipe& clip() const { return tables_.clip; }
  const EvalRecipe& eval() const { return tables_.eval; }
  const CheckpointRecipe& checkpoint() const { return tables_.checkpoint; }
  const std::vector<ResolvedKey>& keys() const& { return keys_; }
  const std::vector<ResolvedKey>& keys() && = delete;  // a loop over it would outlive the recipe

  /// Samples of one step over all ranks.
  int64_t global_batch() const { return train().micro_batch_size * train().micro_batches_per_step; }
  /// train.steps, or train.epochs times `steps_per_epoch`.
  int64_t run_length_steps(int64_t steps_per_epoch) const;

  /// Fills in schedule.total_steps where it is 0 and the schedule uses it (cosine, linear), so that
  /// a run's length is in the hash only where it changes numbers. Errors: kInvalidArgument when the
  /// warm-up leaves no step after it.
  Status resolve_total_steps(int64_t run_length_steps);
  /// Fills in data.identity. Errors: kInvalidArgument when the recipe names another identity than
  /// the data has.
  Status set_data_identity(const std::string& identity);

  /// The complete resolved recipe as TOML, the origin of each value as a comment; loads back to an
  /// equal recipe.
  std::string text() const;
  /// The keys in the hash as "table.key = value" lines, sorted; what the hash is taken of.
  std::string canonical_text() const;
  /// XXH3-128 of canonical_text(), as hex.
  /// Requires: total steps resolved and data identity set, else the hash would not say what it
  /// promises.
  std::string hash() const;

 private:
  void assign(std::string_view full_name, KeyValue value, std::string origin);
  std::vector<ResolvedKey> keys_;
  RecipeTables tables_;
};

/// Names of the keys in the hash whose values differ between two texts of Recipe::text(), sorted; a
/// key that only one of them has differs. Keys that `schema` does not know (another version's)
/// count as in the hash. Errors: kInvalidArgument for text that is not TOML.
Result<std::vector<std::string>> differing_keys(const RecipeSchema& schema, std::string_view text,
                                                std::string_view other_text);

}  // namespace lockstep
