#pragma once
// Parameters and buffers out of a checkpoint, by name, into a model that may be another one: how
// fine-tuning starts. Where restore() asks for the same state and brings all of it back, this asks
// for the same tensors: registration order, storage order, tied names, frozen or trainable and the
// number of ranks may differ. Thread-safety: as the ControlPlane's.

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/model_difference.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/flat/state.h"
#include "lockstep/distributed/control_plane.h"

namespace lockstep {

/// Names of tensors that may differ; '*' stands for any run of letters.
struct AllowedDifferences {
  std::vector<std::string> missing;     ///< the model's, that the checkpoint may lack
  std::vector<std::string> unexpected;  ///< the checkpoint's, that the model may lack
};

/// Whether a name is one of the patterns' ("head.*").
bool matches_any(const std::string& name, const std::vector<std::string>& patterns);

/// Where a tensor of the model comes from.
struct TensorSource {
  const FlatSpace* space = nullptr;  ///< of the checkpoint; null: the tensor keeps its values
  const TensorPlace* place = nullptr;
};

struct ParamsPlan {
  /// For each space of the model and each of its tensors, in their order.
  std::vector<std::vector<TensorSource>> sources;
  std::vector<ModelDifference> refused;   ///< empty: the load can be done
  std::vector<ModelDifference> left_out;  ///< allowed: fresh in the model, or not taken
};

/// Finds each tensor of `wanted` in `found` by its name or one of its tied names. One of another
/// shape or dtype counts as missing and unexpected at once: it is left out when both are allowed.
/// Pure. Lifetime: `found` must outlive the plan.
ParamsPlan plan_params_load(const StateSchema& wanted, const StateSchema& found,
                            const AllowedDifferences& allowed);

struct ParamsLoadRequest {
  std::string path;                     ///< folder of the checkpoint, of any run and world size
  const StateSchema* schema = nullptr;  ///< of the model
  const OwnedState* into = nullptr;  ///< this rank's part; slots of the optimizer stay as they are
  AllowedDifferences allowed;
  double control_timeout_s = 60;
  double data_timeout_s = 1800;
};

struct ParamsLoaded {
  int64_t generation = 0;
  int64_t step = 0;
  Hash128 state_digest;                   ///< of the checkpoint
  int64_t num_tensors = 0;                ///< taken
  std::vector<ModelDifference> left_out;  ///< as the request allowed
  uint64_t own_bytes_read = 0;            ///< this rank's: blocks of the tensors taken, no others
};

/// Fills the values of `into`, each block verified before a tensor sees it. On an error `into`
/// holds anything. Collective: all ranks, equal requests but for `into`. Errors, the same on every
/// rank: kInvalidArgument with the list of differences that are not allowed; kCorruption or
/// kNotFound for a bad or absent checkpoint; kUnsupported; kIoError, kTimeout, kPeerFailure.
/// Nothing is ever moved. Cost: the blocks of this rank's parts; where the storage order
/// differs, at most those of whole tensors.
Result<ParamsLoaded> load_params(FileSystem& fs, ControlPlane& plane,
                                 const ParamsLoadRequest& request);

}  // namespace lockstep
