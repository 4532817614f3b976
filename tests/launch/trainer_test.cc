// Trainer on a data set with one sample that is not a number: roll backs, over a resume, and after
// a start from the path of an older checkpoint.
#include "lockstep/launch/trainer.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "thread_trainer.h"

namespace lockstep {
namespace {

constexpr int64_t kNumSamples = 16;
constexpr int64_t kBadSample = 3;
constexpr const char* kRecipe = R"([model]
name = "mlp"
hidden = [8]
[data]
name = "points"
[train]
epochs = 3
micro_batch_size = 2
micro_batches_per_step = 4
on_nonfinite = "rollback"
[checkpoint]
keep_latest = 20
)";

class Points final : public Dataset {
 public:
  int64_t num_samples() const override { return kNumSamples; }
  const SampleSpec& spec() const override { return spec_; }
  std::string identity() const override { return "points"; }
  Result<Batch> batch(std::span<const int64_t> indices) const override {
    auto size = static_cast<int64_t>(indices.size());
    Batch batch{.inputs = at::zeros({size, 2}), .targets = at::zeros({size}, at::kLong)};
    batch.num_samples = size;
    for (int64_t i = 0; i < size; ++i) {
      int64_t index = indices[static_cast<size_t>(i)];
      batch.inputs[i][0] = index == kBadSample ? std::nan("") : static_cast<double>(index) / 16;
      batch.targets[i] = index % 2;
    }
    return batch;
  }

 private:
  SampleSpec spec_{.input_shape = {2}, .num_classes = 2};
};

class TrainerRollBack : public ::testing::Test {
 protected:
  void SetUp() override {
    run_dir_ = cat(::testing::TempDir(), "lockstep trainer ", process_id());
    ASSERT_TRUE(remove_tree(posix_file_system(), run_dir_).is_ok());
  }
  void TearDown() override { remove_tree(posix_file_system(), run_dir_).ignore(); }

  // A start of the run on `num_ranks` ranks; what it came to.
  TrainReport train(int num_ranks, const std::string& run, const TrainerOptions& with,
                    const std::string& override_key) {
    return train(num_ranks, run, with, std::vector<std::string>{override_key});
  }
  TrainReport train(int num_ranks, const std::string& run, const TrainerOptions& with,
                    const std::vector<std::string>& overrides) {
    ThreadRun start{
        num_ranks, kRecipe,    overrides, "points", [] { return std::make_unique<Points>(); },
        with,      user_state_};
    start.options.run_dir = path_join(run_dir_, run);
    return train_on_threads(start);
  }

  std::string metrics(const std::string& run) {
    auto text = read_whole_file(posix_file_system(),
                                path_join(path_join(run_dir_, run), "metrics.jsonl"), 1 << 20);
    return text.value();
  }

  // Steps in metrics.jsonl, in order.
  std::vector<int64_t> steps(const std::string& run) {
    std::vector<int64_t> found;
    for (const std::string& line : split(metrics(run), '\n')) {
      constexpr std::string_view kStep = "{\"event\":\"step\",\"num_steps\":";
      if (line.starts_with(kStep)) found.push_back(std::stoll(line.substr(kStep.size())));
    }
    return found;
  }

  std::string path_of_step(const std::string& run, int64_t step) {
    auto found = list_checkpoints(posix_file_system(), path_join(run_dir_, run));
    for (const CheckpointSummary& each : found.value()) {
      if (each.step == step) return each.path;
    }
    ADD_FAILURE() << "no checkpoint of step " << step;
    return "";
  }

  std::string run_dir_;
  UserState user_state_;
};

const std::vector<int64_t> kAllSteps = {1, 2, 3, 4, 5, 6};

TEST_F(TrainerRollBack, UserStateComesBackWithTheModels) {
  const Scalars saved = {{"lesson", int64_t{7}}, {"note", std::string("half way")}};
  user_state_.scalars = [&] { return saved; };
  TrainerOptions stop;
  stop.stop_after_steps = 2;
  train(1, "user", stop, "train.on_nonfinite=skip");
  std::vector<Scalars> restored;
  user_state_.restore = [&](const Scalars& scalars) {
    restored.push_back(scalars);
    return Status::ok();
  };
  TrainReport resumed = train(1, "user", {}, "train.on_nonfinite=skip");
  EXPECT_EQ(resumed.first_step, 2);
  ASSERT_EQ(restored.size(), 1u);
  EXPECT_TRUE(restored[0] == saved);
}

TEST_F(TrainerRollBack, LeavesTheBadStepOutAndRemembersItOverAResume) {
  TrainReport whole = train(1, "whole", {}, "checkpoint.every_steps=1");
  EXPECT_EQ(whole.steps, 6);
  EXPECT_EQ(whole.skipped_steps.size(), 3u) << "the bad sample comes once an epoch";
  EXPECT_TRUE(whole.is_saved);
  EXPECT_EQ(steps("whole"), kAllSteps);

  TrainerOptions stop;
  stop.stop_after_steps = 3;
  TrainReport stopped = train(1, "parts", stop, "checkpoint.every_steps=1");
  EXPECT_EQ(stopped.steps, 3);
  EXPECT_FALSE(stopped.skipped_steps.empty());
  TrainReport resumed = train(2, "parts", {}, "checkpoint.every_steps=1");
  EXPECT_EQ(resumed.first_step, 3);
  EXPECT_EQ(resumed.skipped_steps, whole.skipped_steps);
  EXPECT_EQ(resumed.state_digest, whole.state_digest);
  EXPECT_EQ(resumed.memory.size(), 2u);
  EXPECT_EQ(steps("parts"), kAllSteps);
}

TEST_F(TrainerRollBack, AfterAPathGoesBackToThatCheckpointAndNotToANewerOne) {
  TrainReport whole = train(1, "run", {}, "checkpoint.every_steps=1");
  TrainerOptions older;
  older.resume = path_of_step("run", 4);
  // No save but that at the end: the roll back of the third epoch's bad step goes to the start.
  older.allow_recipe_change = {"train.seed"};
  TrainReport again = train(2, "run", older, "train.seed=5");
  EXPECT_EQ(again.first_step, 4);
  EXPECT_EQ(again.steps, 6);
  EXPECT_NE(again.state_digest, whole.state_digest) << "steps 5 and 6 are those of another seed";
  EXPECT_EQ(steps("run"), kAllSteps);
}

TEST_F(TrainerRollBack, AnIntervalThatIsMeasuredChangesNoBit) {
  std::vector<std::string> keys = {"train.epochs=15", "train.on_nonfinite=skip",
                                   "checkpoint.every_steps=2"};
  const TrainReport fixed = train(2, "fixed", {}, keys);
  EXPECT_EQ(fixed.save_interval_steps, 0);
  EXPECT_EQ(fixed.saves.num_durable, 15);
  EXPECT_EQ(fixed.saves.at_risk_steps_now, 0);
  EXPECT_EQ(fixed.saves.at_risk_steps_most, 2);
  EXPECT_GT(fixed.saves.stall_ms_median, 0);
  EXPECT_GT(fixed.saves.stall_share, 0);
  // A failure a day: more steps than there are. Every tenth of a second: about every save's length.
  for (const char* mtbf_hours : {"24", "3e-5"}) {
    for (const char* mode : {"sync", "async"}) {
      const int num_ranks = std::string_view(mode) == "sync" ? 1 : 3;
      keys.resize(2);
      keys.push_back("checkpoint.every=auto");
      keys.push_back("checkpoint.max_overhead=0.5");
      keys.push_back(cat("checkpoint.mtbf_hours=", mtbf_hours));
      keys.push_back(cat("checkpoint.mode=", mode));
      const std::string run = cat(mode, " ", mtbf_hours);
      const TrainReport chosen = train(num_ranks, run, {}, keys);
      EXPECT_EQ(chosen.state_digest, fixed.state_digest) << run;
      EXPECT_EQ(chosen.recipe_hash, fixed.recipe_hash);
      EXPECT_TRUE(metrics(run).find("\"slowest_rank\":{\"rank\":") != std::string::npos) << run;
      // Behind training the first one may take longer than all the steps.
      if (std::string_view(mtbf_hours) != "24" || num_ranks != 1) continue;
      EXPECT_GT(chosen.save_interval_steps, 30) << run;
      EXPECT_EQ(chosen.saves.num_durable, 2) << "after the first interval, and at the end";
      EXPECT_TRUE(metrics(run).find("\"event\":\"save_interval\"") != std::string::npos) << run;
    }
  }
}

}  // namespace
}  // namespace lockstep
