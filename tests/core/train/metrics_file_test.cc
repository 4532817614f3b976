// metrics.jsonl over starts, crashes and roll backs: no step twice, none lost.
#include "lockstep/core/train/metrics_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "lockstep/core/base/memory_file_system.h"

namespace lockstep {
namespace {

Status sync(MetricsFile& metrics) {
  LOCKSTEP_RETURN_IF_ERROR(metrics.flush());
  return metrics.sync_flushed();
}

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

constexpr const char* kPath = "/metrics.jsonl";

StepRecord step_record(int64_t step) {
  StepRecord record;
  record.step = step;
  record.loss = 1.0 / static_cast<double>(3 + step);
  return record;
}

class Metrics : public ::testing::Test {
 protected:
  std::string text() {
    auto text = read_whole_file(fs_, kPath, 1 << 30);
    EXPECT_TRUE(text.is_ok()) << text.status().to_string();
    return text.is_ok() ? *text : "";
  }
  std::vector<Json> lines() {
    std::vector<Json> lines;
    std::string all = text();
    EXPECT_TRUE(all.empty() || all.back() == '\n') << all;
    for (const std::string& line : split(all, '\n')) {
      if (!line.empty()) lines.push_back(Json::parse(line));
    }
    return lines;
  }
  /// num_steps of every line of one event.
  std::vector<int64_t> numbers(const std::string& event) {
    std::vector<int64_t> found;
    for (const Json& line : lines()) {
      if (line["event"] == event) found.push_back(line["num_steps"].get<int64_t>());
    }
    return found;
  }
  std::unique_ptr<MetricsFile> open(int64_t num_steps) {
    auto metrics = MetricsFile::open(fs_, kPath, num_steps);
    EXPECT_TRUE(metrics.is_ok()) << metrics.status().to_string();
    return std::move(metrics).value();
  }
  void write_steps(MetricsFile& metrics, int64_t first, int64_t end) {
    for (int64_t step = first; step < end; ++step)
      ASSERT_TRUE(metrics.on_step(step_record(step)).is_ok());
  }
  void put(const std::string& content) {
    ASSERT_TRUE(write_and_sync_file(fs_, kPath, content, OpenMode::kTruncate).is_ok());
    ASSERT_TRUE(fs_.sync_dir("/").is_ok());
  }
  /// Steps 0 .. n - 1, synced, and closed.
  void put_run(int64_t n) {
    auto metrics = open(0);
    write_steps(*metrics, 0, n);
    ASSERT_TRUE(metrics->close().is_ok());
  }
  void expect_refused(const std::string& content, int64_t num_steps) {
    put(content);
    auto metrics = MetricsFile::open(fs_, kPath, num_steps);
    ASSERT_FALSE(metrics.is_ok()) << content;
    EXPECT_EQ(metrics.status().code(), StatusCode::kCorruption);
    EXPECT_THAT(metrics.status().message(), HasSubstr(kPath));
    EXPECT_EQ(text(), content);
  }

  MemoryFileSystem fs_;
};

TEST_F(Metrics, LinesSayWhatHappened) {
  auto metrics = open(0);
  StepRecord step = step_record(4);
  step.epoch = 1;
  step.is_applied = false;
  ASSERT_TRUE(metrics->on_step(step).is_ok());
  EvalRecord eval;
  eval.num_steps = 5;
  eval.accuracy = 0.75;
  ASSERT_TRUE(metrics->on_evaluation(eval).is_ok());
  SaveRecord save;
  save.num_steps = 4;  // behind training
  save.told_after_steps = 5;
  save.generation = 7;
  save.state_digest = "abc";
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.status = io_error("no luck");
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  std::vector<Json> found = lines();
  ASSERT_EQ(found.size(), 4u);
  for (const Json& line : found) EXPECT_GT(line["unix_s"].get<double>(), 1.7e9);
  EXPECT_EQ(found[0]["event"], "step");
  EXPECT_EQ(found[0]["num_steps"], 5);
  EXPECT_EQ(found[0]["epoch"], 1);
  EXPECT_EQ(found[0]["loss"].get<double>(), step.loss) << "the same bits";
  EXPECT_EQ(found[0]["is_applied"], false);
  EXPECT_EQ(found[1]["accuracy"], 0.75);
  EXPECT_EQ(found[2]["status"], "durable");
  EXPECT_EQ(found[2]["generation"], 7);
  EXPECT_EQ(found[2]["num_steps"], 5);
  EXPECT_EQ(found[2]["saved_num_steps"], 4);
  EXPECT_EQ(found[3]["status"], "failed");
  EXPECT_THAT(found[3]["error"].get<std::string>(), HasSubstr("no luck"));
}

TEST_F(Metrics, ASavesLineSaysWhatItCostAndHowFarItCame) {
  auto metrics = open(0);
  SaveRecord save;
  save.is_behind = true;
  save.reached = SaveWord::kDurable;
  save.stall_ms = 2;
  save.figures = {.plan_ms = 1,
                  .stage_ms = 2,
                  .write_ms = 3,
                  .sync_ms = 4,
                  .vote_ms = 5,
                  .commit_ms = 6,
                  .own_bytes = 2000,
                  .total_bytes = 5000,
                  .unique_bytes = 4000,
                  .io = "buffered",
                  .ranks = {{2000, 1, 0.5, 0.5}, {3000, 1, 1, 2}}};
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.status = io_error("no luck");
  save.reached = SaveWord::kStaged;
  save.figures.ranks.clear();
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.is_unknown = true;
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  save.is_skipped = true;
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  ASSERT_TRUE(metrics->on_interval({7, 30, 10, "because"}).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  const std::vector<Json> found = lines();
  ASSERT_EQ(found.size(), 5u);
  const Json& line = found[0];
  EXPECT_EQ(line["status"], "durable");
  EXPECT_EQ(line["reached"], "durable");
  EXPECT_EQ(line["mode"], "async");
  EXPECT_EQ(line["stall_ms"], 2);
  const char* phases[] = {"plan_ms", "stage_ms", "write_ms", "sync_ms", "vote_ms", "commit_ms"};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(line[phases[i]], i + 1) << phases[i];
  EXPECT_EQ(line["bytes"], (Json{{"own", 2000}, {"total", 5000}, {"unique", 4000}}));
  EXPECT_EQ(line["io"], "buffered");
  EXPECT_EQ(line["gb_per_s"], (Json{{"min", 0.001}, {"median", 0.0015}, {"max", 0.002}}));
  EXPECT_EQ(line["slowest_rank"], (Json{{"rank", 1}, {"ms", 3.0}, {"gb_per_s", 0.001}}));
  EXPECT_EQ(line["written_per_unique"], 1.25);
  EXPECT_EQ(line["largest_per_mean"], 1.2);
  EXPECT_EQ(found[1]["status"], "failed");
  EXPECT_EQ(found[1]["reached"], "staged");
  EXPECT_FALSE(found[1].contains("gb_per_s"));
  EXPECT_EQ(found[2]["status"], "unknown");
  EXPECT_EQ(found[3]["status"], "skipped");
  EXPECT_FALSE(found[3].contains("stall_ms"));
  EXPECT_EQ(found[4]["event"], "save_interval");
  EXPECT_EQ(found[4]["steps"], 30);
  EXPECT_EQ(found[4]["was"], 10);
  EXPECT_EQ(found[4]["why"], "because");
}

TEST_F(Metrics, NumbersThatAreNotFiniteAreNull) {
  auto metrics = open(0);
  StepRecord step = step_record(0);
  step.loss = std::numeric_limits<double>::quiet_NaN();
  step.gradient_norm = std::numeric_limits<double>::infinity();
  ASSERT_TRUE(metrics->on_step(step).is_ok());
  EvalRecord eval;
  eval.loss = -std::numeric_limits<double>::infinity();
  ASSERT_TRUE(metrics->on_evaluation(eval).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_TRUE(lines()[0]["loss"].is_null());
  EXPECT_TRUE(lines()[0]["gradient_norm"].is_null());
  EXPECT_TRUE(lines()[1]["loss"].is_null());
}

TEST_F(Metrics, TextThatIsNotUtf8IsStillALine) {
  auto metrics = open(0);
  ASSERT_TRUE(metrics->on_roll_back(0, "path \xff\xfe").is_ok());
  SaveRecord save;
  save.status = io_error("/data/\xff");
  ASSERT_TRUE(metrics->on_save(save).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_EQ(lines().size(), 2u);
}

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

TEST_F(Metrics, AStepThatWasLeftOutSaysWhy) {
  auto metrics = open(0);
  StepRecord record = step_record(0);
  record.is_applied = false;
  record.bad_numbers = "step 0, micro-batch 2 (samples 5, 7): the loss is nan";
  ASSERT_TRUE(metrics->on_step(record).is_ok());
  ASSERT_TRUE(metrics->on_step(step_record(1)).is_ok());
  ASSERT_TRUE(metrics->close().is_ok());
  EXPECT_EQ(lines()[0]["reason"], record.bad_numbers);
  EXPECT_FALSE(lines()[1].contains("reason"));
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

TEST_F(Metrics, ManyLinesAreWrittenBeforeTheyAreSynced) {
  auto metrics = open(0);
  write_steps(*metrics, 0, 2000);
  EXPECT_THAT(text(), ::testing::Not(IsEmpty()));
  ASSERT_TRUE(sync(*metrics).is_ok());
  EXPECT_EQ(numbers("step").size(), 2000u);
}

TEST_F(Metrics, AFullDiskIsAnError) {
  auto metrics = open(0);
  fs_.set_capacity_bytes(100);
  write_steps(*metrics, 0, 2);
  EXPECT_EQ(sync(*metrics).code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace lockstep
