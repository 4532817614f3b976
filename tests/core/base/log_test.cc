#include "lockstep/core/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class LogLines : public ::testing::Test {
 protected:
  LogLines() { testing::internal::CaptureStderr(); }
  ~LogLines() override { std::filesystem::remove(file_); }
  static std::string standard_error() { return testing::internal::GetCapturedStderr(); }
  std::vector<std::string> file_lines() const {
    std::ifstream in(file_);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  std::string file_ =
      (std::filesystem::temp_directory_path() / cat("lockstep-log-", getpid())).string();
};

TEST_F(LogLines, CarryTimeLevelRankAndAttempt) {
  Log log(LogOptions{.level = LogLevel::kInfo, .world_rank = 2, .attempt = 3, .file_path = file_});
  log.warn("disk is slow");
  const std::string err = standard_error();
  EXPECT_THAT(
      err,
      MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}\\.[0-9]{3} warn r2 a3 disk is slow\n"));
  EXPECT_EQ(file_lines().at(0) + "\n", err);
}

TEST_F(LogLines, AppearInTheFileAtOnceAndAreAppended) {
  std::filesystem::remove(file_);
  Log(LogOptions{.level = LogLevel::kInfo, .world_rank = 0, .attempt = 1, .file_path = file_})
      .info("first");
  Log(LogOptions{.level = LogLevel::kInfo, .world_rank = 0, .attempt = 2, .file_path = file_})
      .info("second");
  standard_error();
  ASSERT_EQ(file_lines().size(), 2u);
  EXPECT_THAT(file_lines()[0], HasSubstr("info r0 a1 first"));
  EXPECT_THAT(file_lines()[1], HasSubstr("info r0 a2 second"));
}

TEST_F(LogLines, BelowTheLevelAreDropped) {
  Log log;
  log.debug("no");
  log.info("no");
  log.warn("yes");
  log.with_level(LogLevel::kOff).error("no");
  log.with_level(LogLevel::kDebug).debug("yes, debug");
  log.write(LogLevel::kOff, "no");
  Log::silent().error("no");
  const std::string err = standard_error();
  EXPECT_THAT(err, HasSubstr("warn yes\n"));
  EXPECT_THAT(err, HasSubstr("debug yes, debug\n"));
  EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 2);
}

TEST_F(LogLines, OfOneMessageAllCarryTheRank) {
  Log().with(5, -1).error("one\ntwo {} %s");
  const std::string err = standard_error();
  EXPECT_THAT(err, HasSubstr("error r5 one\n"));
  EXPECT_THAT(err, HasSubstr("error r5 two {} %s\n"));
}

TEST_F(LogLines, AFileThatCannotBeOpenedIsToldAndTheLogGoesOn) {
  Log log(LogOptions{
      .level = LogLevel::kInfo, .world_rank = 1, .attempt = 1, .file_path = "/proc/no/such/log"});
  log.info("still here");
  const std::string err = standard_error();
  EXPECT_THAT(err, HasSubstr("/proc/no/such/log"));
  EXPECT_THAT(err, HasSubstr("info r1 a1 still here"));
}

}  // namespace
}  // namespace lockstep
