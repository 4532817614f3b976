#pragma once
// Metrics: a metrics.jsonl in memory that a test writes, damages and reads back.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/train/metrics_file.h"

namespace lockstep {

class Metrics : public ::testing::Test {
 protected:
  using Json = nlohmann::json;
  static constexpr const char* kPath = "/metrics.jsonl";

  static StepRecord step_record(int64_t step) {
    StepRecord record;
    record.step = step;
    record.loss = 1.0 / static_cast<double>(3 + step);
    return record;
  }
  static Status sync(MetricsFile& metrics) {
    LOCKSTEP_RETURN_IF_ERROR(metrics.flush());
    return metrics.sync_flushed();
  }
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
    EXPECT_THAT(metrics.status().message(), ::testing::HasSubstr(kPath));
    for (const char c : metrics.status().message()) EXPECT_TRUE(c >= ' ' && c <= '~');
    EXPECT_EQ(text(), content);
  }

  MemoryFileSystem fs_;
};

}  // namespace lockstep
