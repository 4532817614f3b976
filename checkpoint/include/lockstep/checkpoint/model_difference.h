#pragma once
// How two models differ, tensor by tensor: what a person needs to see when a checkpoint does not
// fit. Pure.

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/flat/state.h"

namespace lockstep {

struct ModelDifference {
  enum class Kind : uint8_t {
    kMissing,     ///< the model has it, the checkpoint does not
    kUnexpected,  ///< the checkpoint has it, the model does not
    kShape,
    kDtype,
    kOrder,    ///< another storage order (e.g. channels-last)
    kRole,     ///< trainable, frozen or buffer
    kAliases,  ///< tied differently
    kOffset,   ///< registered in another order
    kState,    ///< a kind of optimizer state is missing or unexpected
  };
  Kind kind = Kind::kMissing;
  std::string name;    ///< of the tensor, or of the kind of state
  std::string wanted;  ///< by the model
  std::string found;   ///< in the checkpoint
};

/// Empty exactly when a checkpoint of `found` fits a model of `wanted`.
std::vector<ModelDifference> compare_models(const StateSchema& wanted, const StateSchema& found);

/// One line each, at most `max_lines`, then how many more. `found_in` is what lacks or has it.
std::string differences_text(const std::vector<ModelDifference>& differences, size_t max_lines,
                             std::string_view found_in = "the checkpoint");

}  // namespace lockstep
