// metrics.jsonl over starts, crashes and roll backs: no step twice, none lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "metrics_fixture.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(Metrics, ResumeCutsBackToTheRestoredStep) {
  put_run(10);
  auto metrics = open(6);
  EXPECT_THAT(numbers("step"), ElementsAre(1, 2, 3, 4, 5, 6));
  write_steps(*metrics, 6, 8);
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_THAT(numbers("step"), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
}

TEST_F(Metrics, ResumeKeepsWhatBelongsToTheRestoredStep) {
  {
    auto metrics = open(0);
    write_steps(*metrics, 0, 2);
    EvalRecord eval;
    eval.num_steps = 2;
    ASSERT_TRUE(metrics->on_evaluation(eval).is_ok());
    SaveRecord save;
    save.num_steps = save.told_after_steps = 2;
    ASSERT_TRUE(metrics->on_save(save).is_ok());
    write_steps(*metrics, 2, 3);
    ASSERT_TRUE(metrics->close().is_ok());
  }
  open(2);
  EXPECT_THAT(numbers("evaluation"), ElementsAre(2));
  EXPECT_THAT(numbers("save"), ElementsAre(2));
  EXPECT_THAT(numbers("step"), ElementsAre(1, 2));
}

// A start that was taken over learns of it at its next save only; until then it goes on writing.
TEST_F(Metrics, AnOlderStartWritesIntoNoFileOfTheNewerOne) {
  auto older = open(0);
  write_steps(*older, 0, 6);
  ASSERT_TRUE(sync(*older).is_ok());
  auto newer = open(4);
  write_steps(*older, 6, 9);
  ASSERT_TRUE(sync(*older).is_ok());
  write_steps(*newer, 4, 7);
  ASSERT_TRUE(sync(*newer).is_ok());
  write_steps(*older, 9, 12);
  ASSERT_TRUE(older->close().is_ok());
  ASSERT_TRUE(newer->close().is_ok());
  EXPECT_THAT(numbers("step"), ElementsAre(1, 2, 3, 4, 5, 6, 7));
}

TEST_F(Metrics, AGapBeforeTheRestoredStepIsRefusedAndUntouched) {
  put_run(4);
  std::string whole = text();
  expect_refused(whole, 5);
  std::string without_third = whole;
  size_t third = whole.find("{\"event\":\"step\",\"num_steps\":3");
  without_third.erase(third, whole.find('\n', third) + 1 - third);
  expect_refused(without_third, 4);
  put(without_third);
  open(2);
  EXPECT_THAT(numbers("step"), ElementsAre(1, 2)) << "the gap lies behind the restored step";
  expect_refused(whole.substr(whole.find('\n') + 1), 4);
}

TEST_F(Metrics, AFileThatBeginsLaterSaysSo) {
  auto metrics = open(3);
  write_steps(*metrics, 3, 5);
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_THAT(numbers("begin"), ElementsAre(3));
  expect_refused(text(), 6);
  open(4);
  EXPECT_THAT(numbers("begin"), ElementsAre(3));
  EXPECT_THAT(numbers("step"), ElementsAre(4));
  open(2);
  EXPECT_THAT(numbers("begin"), ElementsAre(2));
  EXPECT_THAT(numbers("step"), IsEmpty());
}

TEST_F(Metrics, StartFromNothingEmptiesIt) {
  put_run(3);
  open(0);
  EXPECT_EQ(text(), "");
}

TEST_F(Metrics, EveryTornLastLineIsCut) {
  put_run(4);
  std::string whole = text();
  size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t size = last; size < whole.size(); ++size) {
    put(whole.substr(0, size));
    open(3);
    EXPECT_EQ(text(), whole.substr(0, last)) << size;
  }
}

TEST_F(Metrics, DamageBehindTheRestoredStepIsCut) {
  put_run(4);
  std::string whole = text();
  put(whole + std::string(300, '\0') + "\n" + whole);
  open(4);
  EXPECT_EQ(text(), whole);
  put(whole + R"({"event":"step","num_st)" + std::string(90, '\0') + "\n" + whole);
  open(4);
  EXPECT_EQ(text(), whole);
}

TEST_F(Metrics, AForeignFileIsRefusedAndUntouched) {
  for (int64_t num_steps : {0, 5}) {
    expect_refused("time,loss\n1,2\n", num_steps);
    expect_refused("one line of notes\n", num_steps);
    expect_refused("notes without an end", num_steps);
    expect_refused("\x1b[31mnot for a terminal\xff\n", num_steps);
    expect_refused("{\"loss\": 1}\n{\"loss\": 2}\n", num_steps);
    expect_refused("[1, 2]\n", num_steps);
    expect_refused("\nan empty line first\n", num_steps);
    expect_refused("{\"num_steps\": 3}\n", num_steps);
  }
}

TEST_F(Metrics, DamageBeforeTheRestoredStepIsRefusedAndUntouched) {
  put_run(4);
  std::string damaged = text();
  damaged[damaged.find('\n') + 20] = '\0';
  expect_refused(damaged, 4);
}

TEST_F(Metrics, RollBackTakesBackItsSteps) {
  auto metrics = open(0);
  write_steps(*metrics, 0, 5);
  ASSERT_TRUE(metrics->on_roll_back(2, "step 4 is bad").is_ok());
  write_steps(*metrics, 2, 6);
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_THAT(numbers("step"), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(numbers("roll_back"), ElementsAre(2));
  EXPECT_EQ(lines()[2]["reason"], "step 4 is bad");
}

// The checkpoint of step n is committed after a sync: whatever the crash does to the rest, a resume
// at n finds every step up to n once.
TEST_F(Metrics, NoCrashLosesOrRepeatsAStep) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 50; ++round) {
    MemoryFileSystem fs;
    std::unique_ptr<MetricsFile> metrics;
    int64_t durable = 0;
    for (int start = 0; start < 4; ++start) {
      auto opened = MetricsFile::open(fs, kPath, durable);
      ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
      metrics = std::move(opened).value();
      int64_t step = durable;
      for (int part = 0; part < 3; ++part) {
        auto count = static_cast<int64_t>(random() % 40);
        for (int64_t end = step + count; step < end; ++step)
          ASSERT_TRUE(metrics->on_step(step_record(step)).is_ok());
        if (random() % 2 == 0) {
          ASSERT_TRUE(sync(*metrics).is_ok());
          durable = step;
          SaveRecord save;
          save.num_steps = save.told_after_steps = step;
          ASSERT_TRUE(metrics->on_save(save).is_ok());
        } else if (random() % 2 == 0) {
          EvalRecord eval;
          eval.num_steps = step;
          ASSERT_TRUE(metrics->on_evaluation(eval).is_ok());
        }
      }
      fs.crash_at_random(random());
    }
    auto last = MetricsFile::open(fs, kPath, durable);
    ASSERT_TRUE(last.is_ok()) << last.status().to_string();
    auto found = read_whole_file(fs, kPath, 1 << 30);
    ASSERT_TRUE(found.is_ok());
    int64_t next = 1;
    for (const std::string& line : split(*found, '\n')) {
      if (line.empty()) continue;
      Json json = Json::parse(line);
      if (json["event"] != "step") continue;
      EXPECT_EQ(json["num_steps"], next++);
    }
    EXPECT_EQ(next, durable + 1) << "round " << round;
  }
}

}  // namespace
}  // namespace lockstep
