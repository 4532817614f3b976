// Trains a small network of its own on two ranks and writes below the folder given: the run, and
// probe.safetensors with inputs and the logits that the trained network, alive in this process,
// gives for them. For round_trip_test.py.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sin.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <cstdio>

#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/recipe/loader.h"
#include "lockstep/distributed/world.h"
#include "lockstep/launch/trainer.h"

namespace lockstep {
namespace {

constexpr const char* kRecipe = R"([model]
name = "net"
[data]
name = "waves"
[train]
seed = 5
steps = 6
micro_batch_size = 4
micro_batches_per_step = 4
memory_format = "channels_last"
[optimizer]
name = "adamw"
learning_rate = 0.01
)";

class Net final : public torch::nn::Module {
 public:
  Net() {
    conv1_ =
        register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
    norm_ = register_module("norm", torch::nn::BatchNorm2d(8));
    conv2_ = register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 16, 3)));
    linear_ = register_module("linear", torch::nn::Linear(16 * 6 * 6, 10));
  }
  at::Tensor forward(const at::Tensor& inputs) {
    const at::Tensor hidden = at::relu(norm_(conv1_(inputs)));
    return linear_(at::relu(conv2_(hidden)).flatten(1));
  }

 private:
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d norm_{nullptr};
  torch::nn::Conv2d conv2_{nullptr};
  torch::nn::Linear linear_{nullptr};
};

/// Shapes: [count, 3, 8, 8].
at::Tensor waves(int64_t first, int64_t count) {
  return at::sin(at::arange(first * 192, (first + count) * 192).to(at::kFloat) * 0.37)
      .reshape({count, 3, 8, 8});
}

class Waves final : public Dataset {
 public:
  int64_t num_samples() const override { return 64; }
  const SampleSpec& spec() const override { return spec_; }
  std::string identity() const override { return "waves"; }
  Result<Batch> batch(std::span<const int64_t> indices) const override {
    const auto size = static_cast<int64_t>(indices.size());
    Batch batch{.inputs = waves(0, size), .targets = at::arange(size)};
    batch.num_samples = size;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t index = indices[static_cast<size_t>(i)];
      batch.inputs[i] = waves(index, 1)[0];
      batch.targets[i] = index % 10;
    }
    return batch;
  }

 private:
  SampleSpec spec_{.input_shape = {3, 8, 8}, .num_classes = 10};
};

Status write_probe(const std::string& path, Net& net) {
  at::NoGradGuard no_grad;
  net.eval();
  const at::Tensor inputs = waves(1000, 16);
  const at::Tensor logits =
      net.forward(inputs.contiguous(at::MemoryFormat::ChannelsLast)).contiguous();
  std::string text =
      safetensors_prefix({{"inputs", Dtype::kF32, inputs.sizes().vec(), 0, inputs.nbytes()},
                          {"logits", Dtype::kF32, logits.sizes().vec(), inputs.nbytes(),
                           inputs.nbytes() + logits.nbytes()}},
                         {});
  for (const at::Tensor& tensor : {inputs, logits})
    text.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
  return write_and_sync_file(posix_file_system(), path, text, OpenMode::kTruncate);
}

Status train(World& world, const std::string& folder) {
  RecipeSchema schema;
  schema.add_model("net", {});
  schema.add_data("waves", {});
  LOCKSTEP_ASSIGN_OR_RETURN(Recipe recipe, parse_recipe(schema, kRecipe, "recipe.toml", {}));
  auto net = std::make_shared<Net>();
  TrainerParts parts{
      std::move(recipe), std::move(schema),
      DatasetSplits{std::make_unique<Waves>(), std::make_unique<Waves>()},
      [net](const SampleSpec&, const Recipe&) -> Result<std::unique_ptr<TrainableModel>> {
        return make_classifier(
            net, [net](const at::Tensor& inputs) { return net->forward(inputs); },
            LossKind::kSoftmaxCrossEntropy);
      }};
  TrainerOptions options;
  options.run_dir = path_join(folder, "run");
  options.show_progress = false;
  LOCKSTEP_ASSIGN_OR_RETURN(Trainer trainer, Trainer::make(world, std::move(parts), options));
  LOCKSTEP_RETURN_IF_ERROR(trainer.run().status());
  if (world.world_rank() != 0) return Status::ok();
  return write_probe(path_join(folder, "probe.safetensors"), *net);
}

}  // namespace
}  // namespace lockstep

int main(int, char** argv) {
  using namespace lockstep;  // NOLINT(google-build-using-namespace): a main
  const Status status = World::run_threads(
      2, [&](World& world) { return train(world, argv[1]); }, WorldOptions{Log::silent()});
  if (!status.is_ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
  return status.is_ok() ? 0 : 1;
}
