// The promise for the shipped models, with ranks as threads: every number of ranks to 16 at 16
// micro-batches, with dropout, BatchNorm, clipping, and either optimizer.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/core/base/text.h"
#include "thread_trainer.h"

namespace lockstep {
namespace {

constexpr const char* kTrain = R"([data]
name = "waves"
[train]
steps = 2
micro_batch_size = 2
micro_batches_per_step = 16
bucket_mib = 0.3
[clip]
max_norm = 0.5
)";

// Sample i is an image of a wave of its own.
class Waves final : public Dataset {
 public:
  int64_t num_samples() const override { return 64; }
  const SampleSpec& spec() const override { return spec_; }
  std::string identity() const override { return "waves"; }
  Result<Batch> batch(std::span<const int64_t> indices) const override {
    auto size = static_cast<int64_t>(indices.size());
    Batch batch{.inputs = at::empty({size, 1, 28, 28}), .targets = at::empty({size}, at::kLong)};
    batch.num_samples = size;
    auto* pixels = batch.inputs.mutable_data_ptr<float>();
    auto* targets = batch.targets.mutable_data_ptr<int64_t>();
    for (int64_t index : indices) {
      for (int i = 0; i < 28 * 28; ++i)
        *pixels++ = static_cast<float>(std::sin(0.01 * static_cast<double>((index + 1) * i)));
      *targets++ = index % 10;
    }
    return batch;
  }

 private:
  SampleSpec spec_{.input_shape = {1, 28, 28}, .num_classes = 10};
};

void expect_same_bits_on_1_to_16(const std::string& model, const std::string& optimizer) {
  ThreadRun run{.recipe = cat(model, kTrain),
                .overrides = {optimizer},
                .data_name = "waves",
                .make_data = [] { return std::make_unique<Waves>(); }};
  std::string expected = train_on_threads(run).state_digest;
  ASSERT_FALSE(expected.empty());
  for (run.num_ranks = 2; run.num_ranks <= 16; ++run.num_ranks)
    EXPECT_EQ(train_on_threads(run).state_digest, expected) << run.num_ranks << " ranks";
}

constexpr const char* kConvNet = "[model]\nname = \"convnet\"\ndropout = 0.3\nbatch_norm = true\n";
constexpr const char* kMlp = "[model]\nname = \"mlp\"\nhidden = [160, 96]\ndropout = 0.2\n";

TEST(ThreadRanks, ConvNetWithAdamW) {
  expect_same_bits_on_1_to_16(kConvNet, "optimizer.name=adamw");
}

TEST(ThreadRanks, ConvNetWithSgd) {
  expect_same_bits_on_1_to_16(kConvNet, "optimizer.name=sgd");
}

TEST(ThreadRanks, MlpWithAdamW) {
  expect_same_bits_on_1_to_16(kMlp, "optimizer.name=adamw");
}

TEST(ThreadRanks, MlpWithSgd) {
  expect_same_bits_on_1_to_16(kMlp, "optimizer.name=sgd");
}

}  // namespace
}  // namespace lockstep
