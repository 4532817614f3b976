#pragma once
// ModelRegistry: the models that a recipe can name in [model], with the keys of their own. A value:
// a program adds its own with add() before it loads a recipe. Thread-safety: a value.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/data/dataset.h"
#include "lockstep/core/model/model.h"
#include "lockstep/core/recipe/key.h"

namespace lockstep {

struct ModelEntry {
  std::string name;
  std::vector<KeySpec> own_keys;
  /// Makes the model for samples of `spec`; `own` has a value for each own key. Initial weights
  /// come from the library's generator, which the caller has seeded.
  std::function<Result<std::unique_ptr<TrainableModel>>(const KeyValues& own,
                                                        const SampleSpec& spec)>
      make;
};

class ModelRegistry {
 public:
  /// "mlp" and "convnet".
  static ModelRegistry with_builtins();
  /// Requires: a name that is not taken.
  void add(ModelEntry entry);
  const std::vector<ModelEntry>& entries() const& { return entries_; }
  const std::vector<ModelEntry>& entries() && = delete;
  /// Errors: kInvalidArgument for an unknown name, with the nearest known one; those of the entry's
  /// make.
  Result<std::unique_ptr<TrainableModel>> make(std::string_view name, const KeyValues& own,
                                               const SampleSpec& spec) const;

 private:
  std::vector<ModelEntry> entries_;
};

}  // namespace lockstep
