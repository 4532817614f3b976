// A stop at any moment of a whole run, with ranks as threads: before the restore, at each numbered
// step of a save in front of training and behind it, told to any rank, with too short a grace
// period. All ranks say the same, and the run goes on to the same state.
// Covers: trainer.cc training_setup.cc run_files.cc
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <atomic>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/process.h"
#include "lockstep/core/base/text.h"
#include "thread_trainer.h"

namespace lockstep {
namespace {

constexpr const char* kStopRecipe = R"([model]
name = "mlp"
hidden = [8]
dropout = 0.1
[data]
name = "ramps"
[train]
epochs = 3
micro_batch_size = 2
micro_batches_per_step = 4
[checkpoint]
every_steps = 2
keep_latest = 20
)";

class Ramps final : public Dataset {
 public:
  int64_t num_samples() const override { return 24; }
  const SampleSpec& spec() const override { return spec_; }
  std::string identity() const override { return "ramps"; }
  Result<Batch> batch(std::span<const int64_t> indices) const override {
    const auto size = static_cast<int64_t>(indices.size());
    Batch batch{.inputs = at::zeros({size, 2}), .targets = at::zeros({size}, at::kLong)};
    batch.num_samples = size;
    for (int64_t i = 0; i < size; ++i) {
      batch.inputs[i][0] = static_cast<double>(indices[static_cast<size_t>(i)]) / 24;
      batch.targets[i] = indices[static_cast<size_t>(i)] % 2;
    }
    return batch;
  }

 private:
  SampleSpec spec_{.input_shape = {2}, .num_classes = 2};
};

class TrainerStop : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = cat(::testing::TempDir(), "lockstep stop ", process_id());
    ASSERT_TRUE(remove_tree(posix_file_system(), folder_).is_ok());
    start_.recipe = kStopRecipe;
    start_.data_name = "ramps";
    start_.make_data = [] { return std::make_unique<Ramps>(); };
    start_.num_ranks = 2;
  }
  void TearDown() override { remove_tree(posix_file_system(), folder_).ignore(); }

  TrainReport train(const std::string& run) {
    start_.options.run_dir = path_join(folder_, run);
    return train_on_threads(start_);
  }
  /// Goes on without a stop; the state must be that of a run without any.
  void expect_goes_on(const std::string& run, int64_t first_step) {
    start_.options = {};
    const TrainReport resumed = train(run);
    EXPECT_EQ(resumed.first_step, first_step) << run;
    EXPECT_EQ(resumed.end, TrainEnd::kDone);
    EXPECT_EQ(resumed.state_digest, whole_digest()) << run;
    EXPECT_EQ(resumed.eval->num_steps, 9);
  }
  const std::string& whole_digest() {
    if (whole_digest_.empty()) {
      ThreadRun whole = start_;
      whole.options = {};
      whole_digest_ = train_on_threads(whole).state_digest;
    }
    return whole_digest_;
  }

  std::string folder_;
  ThreadRun start_;
  std::string whole_digest_;
};

TEST_F(TrainerStop, AtEachNumberedStepOfASaveInFrontAndBehind) {
  for (const char* mode : {"sync", "async"}) {
    for (int stop_step = 1; stop_step <= 9; ++stop_step) {
      std::atomic<int> saves = 0;
      std::atomic<bool> is_told = false;
      start_.overrides = {cat("checkpoint.mode=", mode)};
      start_.options.on_save_step = [&](int step, int world_rank) {
        if (world_rank != 0 || step != stop_step) return;
        if (++saves == 2) is_told = true;
      };
      start_.options.asked_to_stop_s_ago = [&] {
        return is_told ? std::optional<double>(0) : std::nullopt;
      };
      const std::string run = cat(mode, " ", stop_step);
      const TrainReport report = train(run);
      EXPECT_EQ(report.end, TrainEnd::kStoppedBySignal) << run;
      EXPECT_EQ(report.stop, TrainStop::kSaved) << run;
      EXPECT_EQ(report.durable_steps, report.steps) << run;
      EXPECT_EQ(report.stop_text, cat("told to stop: saved after step ", report.steps,
                                      "; the newest checkpoint is of step ", report.steps));
      // In front the next step is the one that all agree on; behind, whichever comes next.
      if (std::string_view(mode) == "sync")
        EXPECT_EQ(report.steps, 5) << run;
      else
        EXPECT_GE(report.steps, 4) << run;
      expect_goes_on(run, report.steps);
    }
  }
}

TEST_F(TrainerStop, ToldToAnyOneRankIsAgreedOnByAll) {
  for (int told_rank = 0; told_rank < 3; ++told_rank) {
    start_.num_ranks = 3;
    std::atomic<int> questions = 0;
    start_.make_options = [&](int world_rank) {
      TrainerOptions options;
      if (world_rank != told_rank) {
        options.asked_to_stop_s_ago = [] { return std::optional<double>(); };
        return options;
      }
      options.asked_to_stop_s_ago = [&] {
        // Two questions come before the first step.
        return ++questions > 2 + 3 ? std::optional<double>(0) : std::nullopt;
      };
      return options;
    };
    questions = 0;
    const std::string run = cat("rank ", told_rank);
    const TrainReport report = train(run);
    EXPECT_EQ(report.stop, TrainStop::kSaved) << run;
    start_.make_options = nullptr;
    expect_goes_on(run, report.steps);
  }
}

TEST_F(TrainerStop, BeforeTheRestoreThereIsNothingNewToSave) {
  start_.options.asked_to_stop_s_ago = [] { return std::optional<double>(0); };
  TrainReport report = train("early");
  EXPECT_EQ(report.end, TrainEnd::kStoppedBySignal);
  EXPECT_EQ(report.stop, TrainStop::kNothingNew);
  EXPECT_EQ(report.stop_text, "told to stop: nothing new to save; there is no checkpoint yet");
  EXPECT_EQ(report.steps, 0);
  start_.options = {};
  start_.options.stop_after_steps = 4;
  train("early");
  start_.options.asked_to_stop_s_ago = [] { return std::optional<double>(0); };
  report = train("early");
  EXPECT_EQ(report.stop_text,
            "told to stop: nothing new to save; the newest checkpoint is of step 4");
  EXPECT_EQ(report.durable_steps, 4);
  expect_goes_on("early", 4);
}

TEST_F(TrainerStop, DuringTheRestoreThereIsNothingNewToSave) {
  start_.options.stop_after_steps = 3;
  train("restore");
  std::atomic<int> questions = 0;
  start_.num_ranks = 1;
  start_.options = {};
  start_.options.asked_to_stop_s_ago = [&] {
    return ++questions > 1 ? std::optional<double>(0) : std::nullopt;
  };
  const TrainReport report = train("restore");
  EXPECT_EQ(report.stop, TrainStop::kNothingNew);
  EXPECT_EQ(report.steps, 3);
  EXPECT_EQ(report.first_step, 3);
  EXPECT_EQ(report.durable_steps, 3);
  EXPECT_EQ(report.saves.num_saves(), 0);
  start_.num_ranks = 2;
  expect_goes_on("restore", 3);
}

TEST_F(TrainerStop, InAnEvaluationWhichTheNextStartMakesUpFor) {
  start_.num_ranks = 1;
  std::atomic<int> questions = 0;
  start_.options.asked_to_stop_s_ago = [&] {
    // Two before the first step, three steps, and the first batch of the evaluation after them.
    return ++questions > 2 + 3 ? std::optional<double>(0) : std::nullopt;
  };
  const TrainReport report = train("evaluation");
  EXPECT_EQ(report.steps, 3) << "an epoch, and not a step more";
  EXPECT_EQ(report.stop, TrainStop::kSaved);
  EXPECT_FALSE(report.eval.has_value());
  start_.num_ranks = 2;
  expect_goes_on("evaluation", 3);
  const auto lines = read_whole_file(
      posix_file_system(), path_join(path_join(folder_, "evaluation"), "metrics.jsonl"), 1 << 20);
  ASSERT_TRUE(lines.is_ok());
  size_t at = lines->find("\"event\":\"evaluation\",\"num_steps\":3");
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(lines->find("\"event\":\"evaluation\",\"num_steps\":3", at + 1), std::string::npos);
}

TEST_F(TrainerStop, TooShortAGracePeriodLeavesWithTheCheckpointBefore) {
  // The disk is slow: every save takes a tenth of a second.
  start_.overrides = {"checkpoint.grace_s=10", "checkpoint.every_steps=4"};
  std::atomic<int> saves = 0;
  start_.options.on_save_step = [&](int step, int world_rank) {
    if (world_rank == 0 && step == 5) sleep_ns(100'000'000);
    if (world_rank == 0 && step == 8) ++saves;
  };
  start_.options.asked_to_stop_s_ago = [&] {
    return saves > 0 ? std::optional<double>(9.95) : std::nullopt;
  };
  const TrainReport report = train("grace");
  EXPECT_EQ(report.end, TrainEnd::kStoppedBySignal);
  EXPECT_EQ(report.stop, TrainStop::kPrevious);
  EXPECT_EQ(report.durable_steps, 4);
  EXPECT_EQ(report.steps, 5);
  EXPECT_FALSE(report.is_saved);
  EXPECT_NE(report.stop_text.find("is too short for a save"), std::string::npos)
      << report.stop_text;
  EXPECT_NE(report.stop_text.find("of step 4, and 1 steps will be done again"), std::string::npos)
      << report.stop_text;
  start_.overrides.clear();
  expect_goes_on("grace", 4);
}

}  // namespace
}  // namespace lockstep
