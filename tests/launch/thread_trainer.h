#pragma once
// A whole run of Trainer with ranks that are threads of this process, on a data set that a test
// makes up.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/model/registry.h"
#include "lockstep/core/recipe/loader.h"
#include "lockstep/launch/trainer.h"

namespace lockstep {

struct ThreadRun {
  int num_ranks = 1;
  std::string recipe;
  std::vector<std::string> overrides;
  std::string data_name;
  std::function<std::unique_ptr<Dataset>()> make_data;  ///< also the test part
  TrainerOptions options = {};
  UserState user_state = {};
};

/// Rank 0's report.
inline TrainReport train_on_threads(const ThreadRun& run) {
  TrainReport report;
  Status status = World::run_threads(
      run.num_ranks,
      [&](World& world) -> Status {
        auto models = std::make_shared<ModelRegistry>(ModelRegistry::with_builtins());
        RecipeSchema schema;
        for (const ModelEntry& entry : models->entries())
          schema.add_model(entry.name, entry.own_keys);
        schema.add_data(run.data_name, {});
        LOCKSTEP_ASSIGN_OR_RETURN(Recipe recipe,
                                  parse_recipe(schema, run.recipe, "recipe.toml", run.overrides));
        TrainerParts parts{std::move(recipe), std::move(schema),
                           DatasetSplits{run.make_data(), run.make_data()},
                           [models](const SampleSpec& spec, const Recipe& of) {
                             return models->make(of.model().name, of.model().own, spec);
                           },
                           run.user_state};
        TrainerOptions options = run.options;
        options.show_progress = false;
        LOCKSTEP_ASSIGN_OR_RETURN(Trainer trainer, Trainer::make(world, std::move(parts), options));
        LOCKSTEP_ASSIGN_OR_RETURN(TrainReport mine, trainer.run());
        if (world.world_rank() == 0) report = mine;
        return Status::ok();
      },
      WorldOptions{Log::silent()});
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  return report;
}

}  // namespace lockstep
