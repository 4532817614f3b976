#pragma once
// How two models differ, tensor by tensor: what a person needs to see when a checkpoint does not
// fit. Pure.

#include <optional>
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

/// How a tensor of this dtype and shape differs from `wanted`, if it does: then its values can't be
/// taken. `name` is what the difference calls it.
std::optional<ModelDifference> compare_types(const std::string& name, const TensorSpec& wanted,
                                             Dtype found_dtype,
                                             const std::vector<int64_t>& found_shape);

/// Empty exactly when a checkpoint of `found` fits a model of `wanted`.
std::vector<ModelDifference> compare_models(const StateSchema& wanted, const StateSchema& found);

/// How many of them an error lists.
inline constexpr size_t kMaxDifferenceLines = 20;
/// One line each, at most `max_lines`, then how many more. `found_in` is what lacks or has it.
std::string differences_text(const std::vector<ModelDifference>& differences,
                             size_t max_lines = kMaxDifferenceLines,
                             std::string_view found_in = "the checkpoint");

}  // namespace lockstep
