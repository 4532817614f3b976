// Covers: run_folder.cc
#include "lockstep/checkpoint/retention.h"

#include <gmock/gmock.h>

#include <cmath>
#include <random>

#include "lockstep/core/base/memory_file_system.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

std::vector<RetentionCandidate> with_losses(const std::vector<double>& losses) {
  std::vector<RetentionCandidate> candidates;
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto n = static_cast<int64_t>(i) + 1;
    candidates.push_back({{n, n * 10}, std::map<std::string, double>{{"loss", losses[i]}}});
  }
  return candidates;
}

std::vector<int64_t> doomed(const RetentionPolicy& policy,
                            const std::vector<RetentionCandidate>& candidates, int64_t durable) {
  std::vector<int64_t> generations;
  for (const GenerationName& name : plan_retention(policy, candidates, durable))
    generations.push_back(name.generation);
  return generations;
}

TEST(Retention, ZeroKeepsAll) {
  EXPECT_TRUE(doomed({}, with_losses({1, 2, 3}), 3).empty());
}

TEST(Retention, KeepsTheLatest) {
  RetentionPolicy policy;
  policy.keep_latest = 2;
  EXPECT_EQ(doomed(policy, with_losses({1, 2, 3, 4}), 4), (std::vector<int64_t>{1, 2}));
}

TEST(Retention, KeepsEveryKSteps) {
  RetentionPolicy policy;
  policy.keep_latest = 1;
  policy.keep_every_steps = 20;
  EXPECT_EQ(doomed(policy, with_losses({1, 1, 1, 1, 1}), 5), (std::vector<int64_t>{1, 3}));
}

TEST(Retention, KeepsTheBest) {
  RetentionPolicy policy;
  policy.keep_latest = 1;
  policy.keep_best = 1;
  policy.best_metric = "loss";
  EXPECT_EQ(doomed(policy, with_losses({5, 2, NAN, 4}), 4), (std::vector<int64_t>{1, 3}));
  policy.best_is_lowest = false;
  EXPECT_EQ(doomed(policy, with_losses({5, 2, NAN, 4}), 4), (std::vector<int64_t>{2, 3}));
}

TEST(Retention, KeepsWhatItCanNotJudge) {
  RetentionPolicy policy;
  policy.keep_latest = 1;
  auto candidates = with_losses({1, 2, 3});
  candidates[0].metrics.reset();
  EXPECT_EQ(doomed(policy, candidates, 3), (std::vector<int64_t>{2}));
}

TEST(Retention, NeverTouchesTheDurableOneOrANewer) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> losses(random() % 8);
    for (double& loss : losses) loss = static_cast<double>(random() % 4);
    RetentionPolicy policy;
    policy.keep_latest = static_cast<int64_t>(random() % 3);
    policy.keep_every_steps = static_cast<int64_t>(random() % 3) * 20;
    policy.keep_best = static_cast<int64_t>(random() % 3);
    policy.best_metric = "loss";
    const auto durable = static_cast<int64_t>(random() % (losses.size() + 2));
    for (int64_t generation : doomed(policy, with_losses(losses), durable))
      EXPECT_LT(generation, durable);
  }
}

TEST(Retention, AppliesAfterEachSave) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  const auto policy = [](CheckpointerOptions& options) {
    options.retention.keep_latest = 2;
    options.retention.keep_best = 1;
    options.retention.best_metric = "loss";  // 1/step in this run: the lowest is the last
    options.retention.best_is_lowest = false;
  };
  for (int64_t step : {10, 20, 30, 40, 50})
    ASSERT_TRUE(save_state(fs, 2, state, step, policy).is_ok());
  std::vector<std::string> names;
  const auto entries = fs.list("/run/checkpoints");
  for (const DirectoryEntry& entry : *entries) names.push_back(entry.name);
  EXPECT_THAT(names,
              ::testing::ElementsAre("gen-000001-step-0000000010", "gen-000004-step-0000000040",
                                     "gen-000005-step-0000000050"));
}

}  // namespace
}  // namespace lockstep
