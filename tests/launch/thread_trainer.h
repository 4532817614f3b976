#pragma once
// A whole run of Trainer with ranks that are threads of this process, on a data set that a test
// makes up.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/model/registry.h"
#include "lockstep/core/recipe/loader.h"
#include "lockstep/distributed/agreement.h"
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
  /// Where ranks differ in what no rank must agree on; the run directory is that of `options`.
  std::function<TrainerOptions(int world_rank)> make_options = {};
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
        TrainerOptions options =
            run.make_options ? run.make_options(world.world_rank()) : run.options;
        options.run_dir = run.options.run_dir;
        options.show_progress = false;
        LOCKSTEP_ASSIGN_OR_RETURN(Trainer trainer, Trainer::make(world, std::move(parts), options));
        LOCKSTEP_ASSIGN_OR_RETURN(TrainReport mine, trainer.run());
        // What a stop came to is the same on every rank.
        LOCKSTEP_RETURN_IF_ERROR(
            check_same_on_all_ranks(world.control_plane(), "what the stop came to",
                                    {cat(static_cast<int>(mine.stop)), cat(mine.steps),
                                     cat(mine.durable_steps.value_or(-1))},
                                    Deadline::after_s(60)));
        if (world.world_rank() == 0) report = mine;
        return Status::ok();
      },
      WorldOptions{Log::silent()});
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  return report;
}

}  // namespace lockstep
