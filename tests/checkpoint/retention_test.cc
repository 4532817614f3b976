#include "lockstep/checkpoint/retention.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "forwarding_file_system.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/memory_file_system.h"
#include "run_fixture.h"
#include "run_folder.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kNowS = 1'000'000;

/// Generation n at step 10 n with the n-th loss, saved 100 s after the one before it; the last one
/// now.
std::vector<RetentionCandidate> with_losses(const std::vector<double>& losses) {
  std::vector<RetentionCandidate> candidates;
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto n = static_cast<int64_t>(i) + 1;
    const int64_t age_s = 100 * (std::ssize(losses) - n);
    candidates.push_back(
        {{n, n * 10}, RetentionFacts{{{"loss", losses[i]}}, (kNowS - age_s) * 1'000'000'000}});
  }
  return candidates;
}

std::vector<int64_t> doomed(const RetentionPolicy& policy,
                            const std::vector<RetentionCandidate>& candidates, int64_t durable) {
  std::vector<int64_t> generations;
  for (const RetentionVerdict& verdict :
       plan_retention(policy, candidates, durable, kNowS * 1'000'000'000)) {
    if (verdict.is_doomed()) generations.push_back(verdict.name.generation);
  }
  std::reverse(generations.begin(), generations.end());
  return generations;
}

TEST(Retention, NoRuleKeepsAll) {
  EXPECT_THAT(doomed({}, with_losses({1, 2, 3}), 3), IsEmpty());
}

TEST(Retention, KeepsTheLatest) {
  EXPECT_THAT(doomed({{keep_latest(2)}}, with_losses({1, 2, 3, 4}), 4), ElementsAre(1, 2));
  EXPECT_THAT(doomed({{keep_latest(9)}}, with_losses({1, 2, 3, 4}), 4), IsEmpty());
}

TEST(Retention, KeepsEveryKSteps) {
  EXPECT_THAT(doomed({{keep_every_steps(20)}}, with_losses({1, 1, 1, 1, 1}), 5), ElementsAre(1, 3));
}

TEST(Retention, KeepsTheBest) {
  const auto candidates = with_losses({5, 2, NAN, 4});
  EXPECT_THAT(doomed({{keep_best("loss", BestIs::kLowest, 1)}}, candidates, 4), ElementsAre(1, 3));
  EXPECT_THAT(doomed({{keep_best("loss", BestIs::kHighest, 1)}}, candidates, 4), ElementsAre(2, 3));
  EXPECT_THAT(doomed({{keep_best("loss", BestIs::kHighest, 3)}}, candidates, 4), ElementsAre(3));
  EXPECT_THAT(doomed({{keep_best("accuracy", BestIs::kHighest, 3)}}, candidates, 4),
              ElementsAre(1, 2, 3));
  EXPECT_THAT(doomed({{keep_best("loss", BestIs::kLowest, 1)}}, with_losses({1, 1, 2}), 3),
              ElementsAre(1))
      << "of equal ones the newer";
}

TEST(Retention, KeepsForATime) {
  auto candidates = with_losses({1, 1, 1, 1});  // 300, 200, 100 and 0 seconds old
  EXPECT_THAT(doomed({{keep_for(200)}}, candidates, 4), ElementsAre(1, 2));
  EXPECT_THAT(doomed({{keep_for(201)}}, candidates, 4), ElementsAre(1));
  candidates[0].facts->saved_ns = (kNowS + 50) * 1'000'000'000;  // by a clock that is ahead
  candidates[1].facts->saved_ns.reset();
  EXPECT_THAT(doomed({{keep_for(50)}}, candidates, 4), ElementsAre(3));
}

TEST(Retention, KeepsWhatAnyRuleWantsAndSaysWhich) {
  const RetentionPolicy policy{{keep_latest(1), keep_every_steps(20), keep_for(101)}};
  const auto verdicts = plan_retention(policy, with_losses({1, 1, 1, 1}), 4, kNowS * 1'000'000'000);
  ASSERT_EQ(verdicts.size(), 4U);
  EXPECT_THAT(verdicts[0].kept_because, ElementsAre("the newest durable one", "latest 1",
                                                    "every 20 steps", "younger than 101 s"));
  EXPECT_THAT(verdicts[1].kept_because, ElementsAre("younger than 101 s"));
  EXPECT_THAT(verdicts[2].kept_because, ElementsAre("every 20 steps"));
  EXPECT_TRUE(verdicts[3].is_doomed());
}

TEST(Retention, KeepsWhatItCanNotJudge) {
  auto candidates = with_losses({1, 2, 3});
  candidates[0].facts.reset();
  candidates[0].problem = "no manifest";
  const RetentionPolicy best{{keep_best("loss", BestIs::kHighest, 1)}};
  EXPECT_THAT(doomed(best, candidates, 3), ElementsAre(2));
  EXPECT_THAT(plan_retention(best, candidates, 3, 0)[2].kept_because,
              ElementsAre(HasSubstr("no manifest")));
  EXPECT_THAT(doomed({{keep_latest(1)}}, candidates, 3), ElementsAre(1, 2))
      << "names are enough for this rule";
}

TEST(Retention, NeverTouchesTheDurableOneOrANewer) {
  std::mt19937_64 random(1);
  int num_doomed = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> losses(random() % 8);
    for (double& loss : losses) loss = static_cast<double>(random() % 4);
    const auto draw = [&](uint64_t most) { return 1 + static_cast<int64_t>(random() % most); };
    const std::vector<RetentionRule> rules = {
        keep_latest(draw(3)), keep_every_steps(20 * draw(2)),
        keep_best("loss", random() % 2 == 0 ? BestIs::kLowest : BestIs::kHighest, draw(3)),
        keep_for(100 * draw(4))};
    RetentionPolicy policy;
    for (const RetentionRule& rule : rules) {
      if (random() % 2 == 0) policy.keep_any.push_back(rule);
    }
    const auto durable = static_cast<int64_t>(random() % (losses.size() + 2));
    auto candidates = with_losses(losses);
    std::shuffle(candidates.begin(), candidates.end(), random);
    for (int64_t generation : doomed(policy, candidates, durable)) {
      ++num_doomed;
      EXPECT_LT(generation, durable);
    }
  }
  EXPECT_GT(num_doomed, 1000);
}

TEST(Retention, AMoreGenerousPolicyNeverDeletesMore) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 500; ++round) {
    std::vector<double> losses(1 + random() % 8);
    for (double& loss : losses) loss = static_cast<double>(random() % 4);
    RetentionPolicy policy{{keep_latest(1 + static_cast<int64_t>(random() % 3))}};
    const auto before = doomed(policy, with_losses(losses), std::ssize(losses));
    policy.keep_any.push_back(keep_best("loss", BestIs::kLowest, 2));
    policy.keep_any.push_back(keep_for(150));
    for (int64_t generation : doomed(policy, with_losses(losses), std::ssize(losses)))
      EXPECT_THAT(before, ::testing::Contains(generation));
  }
}

TEST(Retention, BestIsReadFromText) {
  EXPECT_EQ(parse_keep_best("max:accuracy")->text, "best by max:accuracy");
  EXPECT_EQ(parse_keep_best("min:eval.loss:3")->text, "best 3 by min:eval.loss");
  for (const char* bad : {"", "accuracy", "max:", "best:loss", "min:loss:0", "min:loss:x",
                          "min:loss:3:4", "min:loss:99999999999999999999"}) {
    EXPECT_EQ(parse_keep_best(bad).status().code(), StatusCode::kInvalidArgument) << bad;
  }
}

/// Counts the manifests that are opened.
class ManifestCounter final : public ForwardingFileSystem {
 public:
  using ForwardingFileSystem::ForwardingFileSystem;
  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
    if (path.ends_with("manifest.json")) ++num_read;
    return base_.open_read(path);
  }
  int num_read = 0;
};

TEST(Retention, ReadsManifestsOnlyForRulesThatNeedThem) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  for (int64_t step : {10, 20, 30}) ASSERT_TRUE(save_state(fs, 1, state, step).is_ok());
  ManifestCounter counting(fs);
  const RunPaths paths{kRunDir};
  const auto folder = list_run_folder(counting, paths);
  retention_candidates(counting, paths, folder->committed, {{keep_latest(1), keep_every_steps(7)}});
  EXPECT_EQ(counting.num_read, 0);
  const auto candidates = retention_candidates(counting, paths, folder->committed, {{keep_for(7)}});
  EXPECT_EQ(counting.num_read, 3);
  const int64_t saved_s = *candidates[0].facts->saved_ns / 1'000'000'000;
  EXPECT_NEAR(static_cast<double>(saved_s), static_cast<double>(wall_clock_ns()) * 1e-9, 60);
}

TEST(Retention, AppliesAfterEachSave) {
  MemoryFileSystem fs;
  TestState state(small_schema(), 1);
  const auto policy = [](CheckpointerOptions& options) {
    // The loss is 1/step in this run: the highest is the first.
    options.retention.keep_any = {keep_latest(2), keep_best("loss", BestIs::kHighest, 1)};
  };
  for (int64_t step : {10, 20, 30, 40, 50})
    ASSERT_TRUE(save_state(fs, 2, state, step, policy).is_ok());
  EXPECT_THAT(checkpoints_of(fs),
              ElementsAre("gen-000001-step-0000000010", "gen-000004-step-0000000040",
                          "gen-000005-step-0000000050"));
}

}  // namespace
}  // namespace lockstep
