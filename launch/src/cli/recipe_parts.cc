#include "recipe_parts.h"

#include <memory>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/data/registry.h"
#include "lockstep/core/model/registry.h"
#include "lockstep/core/recipe/loader.h"

namespace lockstep {

Result<TrainerParts> load_parts(const std::string& recipe_path,
                                const std::vector<std::string>& overrides) {
  auto models = std::make_shared<ModelRegistry>(ModelRegistry::with_builtins());
  DatasetRegistry datasets = DatasetRegistry::with_builtins();
  RecipeSchema schema;
  for (const ModelEntry& entry : models->entries()) schema.add_model(entry.name, entry.own_keys);
  for (const DatasetEntry& entry : datasets.entries()) schema.add_data(entry.name, entry.own_keys);
  FileSystem& fs = posix_file_system();
  LOCKSTEP_ASSIGN_OR_RETURN(Recipe recipe, load_recipe(schema, fs, recipe_path, overrides));
  LOCKSTEP_ASSIGN_OR_RETURN(
      DatasetSplits data,
      datasets.open(recipe.data().name, fs, recipe.data().path, recipe.data().own));
  return TrainerParts{std::move(recipe), std::move(schema), std::move(data),
                      [models](const SampleSpec& spec, const Recipe& with) {
                        return models->make(with.model().name, with.model().own, spec);
                      }};
}

}  // namespace lockstep
