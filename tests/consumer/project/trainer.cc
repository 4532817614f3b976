// The second way in: a Trainer with a module and a data set of one's own.
//   mpirun -n N trainer RECIPE.toml RUN_DIR REPORT.json [STOP_AFTER_STEPS]
#include <torch/torch.h>

#include <cstdlib>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/recipe/loader.h"
#include "lockstep/launch/lifecycle.h"
#include "lockstep/launch/trainer.h"
#include "quadrants.h"

namespace {

struct TwoLayers : torch::nn::Module {
  torch::nn::Linear hidden{nullptr}, out{nullptr};
  TwoLayers() {
    hidden = register_module("hidden", torch::nn::Linear(2, 32));
    out = register_module("out", torch::nn::Linear(32, 4));
  }
  at::Tensor forward(const at::Tensor& points) { return out(torch::relu(hidden(points))); }
};

lockstep::Result<std::unique_ptr<lockstep::TrainableModel>> make_model(
    const lockstep::SampleSpec& /*spec*/, const lockstep::Recipe& /*recipe*/) {
  auto net = std::make_shared<TwoLayers>();
  return lockstep::make_classifier(
      net, [net](const at::Tensor& points) { return net->forward(points); },
      lockstep::LossKind::kSoftmaxCrossEntropy);
}

lockstep::Result<lockstep::ExitCode> train(lockstep::World& world, int argc, char** argv) {
  lockstep::RecipeSchema schema;
  schema.add_model("two_layers", {});
  schema.add_data("quadrants", {});
  LOCKSTEP_ASSIGN_OR_RETURN(
      lockstep::Recipe recipe,
      lockstep::load_recipe(schema, lockstep::posix_file_system(), argv[1], {}));
  lockstep::TrainerParts parts = {
      recipe,
      schema,
      {std::make_unique<Quadrants>(1, 3000), std::make_unique<Quadrants>(2, 500)},
      make_model};
  lockstep::TrainerOptions options;
  options.run_dir = argv[2];
  options.report_path = argv[3];
  if (argc > 4) options.stop_after_steps = std::atoll(argv[4]);
  LOCKSTEP_ASSIGN_OR_RETURN(lockstep::Trainer trainer,
                            lockstep::Trainer::make(world, std::move(parts), options));
  LOCKSTEP_RETURN_IF_ERROR(trainer.run().status());
  return lockstep::ExitCode::kDone;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return static_cast<int>(lockstep::ExitCode::kUsage);
  return lockstep::run_ranks(argc, argv,
                             [&](lockstep::World& world) { return train(world, argc, argv); });
}
