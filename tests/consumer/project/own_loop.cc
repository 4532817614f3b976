// The third way in: a training loop of one's own, with a model that has everything which makes data
// parallelism hard: tied weights, a frozen layer, BatchNorm, dropout, and a layer that some
// micro-batches do not use.
//   mpirun -n N own_loop RUN_DIR STEPS
// Trains up to STEPS steps, from the newest checkpoint if there is one, saves, and prints the state
// digest.
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>

#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/sharded_optimizer.h"
#include "lockstep/launch/lifecycle.h"

namespace {

namespace nn = torch::nn;
using lockstep::Result;

constexpr int64_t kFeatures = 24;
constexpr int64_t kHidden = 96;
constexpr int64_t kMicroBatches = 6;

// Shapes: input and output [n, kFeatures].
struct Autoencoder : nn::Module {
  nn::Linear encoder{nullptr}, frozen{nullptr}, sometimes{nullptr};
  nn::BatchNorm1d norm{nullptr};
  nn::Dropout dropout{nullptr};
  at::Tensor decoder_weight;

  Autoencoder() {
    encoder = register_module("encoder", nn::Linear(kFeatures, kHidden));
    frozen = register_module("frozen", nn::Linear(kHidden, kHidden));
    norm = register_module("norm", nn::BatchNorm1d(kHidden));
    dropout = register_module("dropout", nn::Dropout(0.2));
    sometimes = register_module("sometimes", nn::Linear(kHidden, kHidden));
    // Tied: one tensor under two names.
    decoder_weight = register_parameter("decoder_weight", encoder->weight);
    for (at::Tensor& parameter : frozen->parameters()) parameter.set_requires_grad(false);
  }

  at::Tensor forward(const at::Tensor& input, bool is_deep) {
    at::Tensor hidden = dropout(torch::relu(norm(frozen(encoder(input)))));
    if (is_deep) hidden = hidden + sometimes(hidden);
    return torch::matmul(hidden, decoder_weight);
  }
};

// Micro-batches differ in size and content, by their place in the run alone.
at::Tensor make_input(const lockstep::MicroBatch& at) {
  const int64_t n = 8 + at.index % 3;
  const double phase = 1.7 * static_cast<double>(at.step * kMicroBatches + at.index);
  return torch::sin(0.37 * torch::arange(n * kFeatures, torch::kFloat) + phase)
      .view({n, kFeatures});
}

Result<lockstep::Checkpointer> open_checkpoints(lockstep::ControlPlane& plane, const char* run_dir,
                                                const lockstep::World& world) {
  lockstep::CheckpointerOptions options;
  options.fs = &lockstep::posix_file_system();
  options.plane = &plane;
  options.run_dir = run_dir;
  options.log = world.log();
  return lockstep::Checkpointer::open(options);
}

Result<lockstep::ExitCode> train(lockstep::World& world, const char* run_dir, int64_t num_steps) {
  // Before torch::manual_seed(), which asks LibTorch about GPUs. Null: on the processor.
  LOCKSTEP_ASSIGN_OR_RETURN(auto gpu, lockstep::open_accelerator(world, {}));
  const at::Device device(gpu != nullptr ? std::string(gpu->name()) : "cpu");
  torch::manual_seed(11 + world.world_rank());  // different on purpose: rank 0's weights are sent
  Autoencoder net;
  net.to(device);
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto model,
      lockstep::DataParallel::make(
          world, net, {.seed = 7, .micro_batches_per_step = kMicroBatches, .accelerator = gpu}));
  lockstep::ShardedOptimizerOptions settings;
  settings.optimizer.learning_rate = 5e-3;
  settings.clip_max_norm = 0.5;
  LOCKSTEP_ASSIGN_OR_RETURN(auto adamw, lockstep::ShardedOptimizer::make(model, settings));

  LOCKSTEP_ASSIGN_OR_RETURN(
      auto plane, world.control_plane().split("checkpoints", lockstep::Deadline::after_s(60)));
  LOCKSTEP_ASSIGN_OR_RETURN(auto checkpoints, open_checkpoints(*plane, run_dir, world));
  lockstep::StateSchema schema = lockstep::state_schema(model, adamw);
  lockstep::OwnedState owned = lockstep::owned_state(model, adamw);
  lockstep::RestoreRequest request;
  request.schema = &schema;
  request.into = &owned;
  LOCKSTEP_ASSIGN_OR_RETURN(auto restored, checkpoints.restore(request));
  int64_t step = 0;
  if (restored) {
    LOCKSTEP_RETURN_IF_ERROR(model.publish_restored_state());
    LOCKSTEP_RETURN_IF_ERROR(adamw.restore_scalars(restored->scalars));
    step = restored->step;
  }

  for (; step < num_steps; ++step) {
    for (lockstep::MicroBatch at : model.micro_batches(step)) {
      at::Tensor input = make_input(at).to(device);
      at::Tensor output = net.forward(input, /*is_deep=*/at.index % 2 == 1);
      model.backward(at, torch::mse_loss(output, input), static_cast<double>(input.size(0)));
    }
    LOCKSTEP_ASSIGN_OR_RETURN(auto gradients, model.reduce(step));
    LOCKSTEP_RETURN_IF_ERROR(adamw.step(gradients).status());
    if (world.world_rank() == 0) std::printf("step %ld loss %.9g\n", step, gradients.mean_loss);
  }

  lockstep::SaveRequest save;
  save.schema = &schema;
  save.owned = &owned;
  save.scalars = adamw.scalars();
  save.step = step;
  LOCKSTEP_ASSIGN_OR_RETURN(auto saved, checkpoints.save(save));
  LOCKSTEP_RETURN_IF_ERROR(checkpoints.close());
  if (world.world_rank() == 0) std::printf("state_digest %s\n", saved.state_digest.hex().c_str());
  return lockstep::ExitCode::kDone;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return static_cast<int>(lockstep::ExitCode::kUsage);
  return lockstep::run_ranks(argc, argv, [&](lockstep::World& world) {
    return train(world, argv[1], std::atoll(argv[2]));
  });
}
