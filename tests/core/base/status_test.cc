#include "lockstep/core/base/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/exit_code.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

TEST(Status, OkIsEmptyAndContextLeavesItOk) {
  EXPECT_TRUE(Status().is_ok());
  EXPECT_TRUE(Status().with_context("x").is_ok());
  EXPECT_EQ(Status().to_string(), "ok");
  EXPECT_EQ(Status().message(), "");
}

TEST(Status, ContextGoesInFrontAndKeepsTheCode) {
  const Status status = corruption_error("bad hash").with_context("shard 3");
  EXPECT_EQ(status.code(), StatusCode::kCorruption);
  EXPECT_EQ(status.to_string(), "corruption: shard 3: bad hash");
}

Result<int> half(int value) {
  if (value % 2 != 0) return invalid_argument_error("odd");
  return value / 2;
}

Result<int> quarter(int value) {
  LOCKSTEP_ASSIGN_OR_RETURN(const int once, half(value));
  LOCKSTEP_ASSIGN_OR_RETURN(const int twice, half(once));
  return twice;
}

TEST(Result, MacrosPassValuesAndErrorsOn) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).status().message(), "odd");
  EXPECT_EQ(half(3).status().code(), StatusCode::kInvalidArgument);
}

TEST(Result, TheValueOfAnErrorIsTheCallersMistake) {
  EXPECT_THROW(half(3).value(), UsageError);
  EXPECT_THROW(Result<int>(Status::ok()), UsageError);
}

TEST(Check, SaysConditionOperandsAndPlace) {
  const int found = 3;
  try {
    LOCKSTEP_CHECK(found == 4, "expected 4, found ", found);
    FAIL() << "did not throw";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("expected 4, found 3 (status_test.cc:"));
    EXPECT_THAT(e.what(), HasSubstr("found == 4"));
  }
}

TEST(ExitCode, TellsTheScriptWhatToDo) {
  EXPECT_EQ(exit_code_for(Status()), ExitCode::kDone);
  EXPECT_EQ(exit_code_for(invalid_argument_error("")), ExitCode::kUsage);
  EXPECT_EQ(exit_code_for(corruption_error("")), ExitCode::kData);
  EXPECT_EQ(exit_code_for(unsupported_error("")), ExitCode::kData);
  EXPECT_EQ(exit_code_for(internal_error("")), ExitCode::kInternal);
  EXPECT_EQ(exit_code_for(io_error("")), ExitCode::kIo);
  EXPECT_EQ(exit_code_for(resource_exhausted_error("")), ExitCode::kIo);
  EXPECT_EQ(exit_code_for(peer_failure_error("")), ExitCode::kTryAgain);
  EXPECT_EQ(exit_code_for(timeout_error("")), ExitCode::kTryAgain);
  EXPECT_EQ(exit_code_for(aborted_error("")), ExitCode::kTryAgain);
}

TEST(Deadline, PassesAndNeverGoesNegative) {
  const Deadline past = Deadline::after_s(-1);
  EXPECT_TRUE(past.has_passed());
  EXPECT_EQ(past.remaining_s(), 0);
  const Deadline future = Deadline::after_s(100);
  EXPECT_FALSE(future.has_passed());
  EXPECT_GT(future.remaining_s(), 99);
  EXPECT_LE(future.remaining_s(), 100);
  EXPECT_EQ(future.length_s(), 100);
  EXPECT_FALSE(Deadline::after_s(1e300).has_passed());
}

TEST(Clock, WritesUtc) {
  EXPECT_EQ(utc_text(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(utc_text(1763816709'500000000), "2025-11-22T13:05:09Z");
}

TEST(Caught, TellsWhatAnExceptionMeans) {
  auto code_of = [](auto error) { return caught([&]() -> Status { throw error; }).code(); };
  EXPECT_EQ(code_of(std::bad_alloc()), StatusCode::kResourceExhausted);
  EXPECT_EQ(code_of(std::runtime_error("DefaultCPUAllocator: can't allocate memory: you tried to "
                                       "allocate 8 bytes.\nException raised from f")),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(code_of(std::runtime_error("CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has")),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(code_of(std::runtime_error("other")), StatusCode::kInternal);
  EXPECT_EQ(code_of(UsageError("mine")), StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(3), StatusCode::kInternal);
  Status status = status_of(std::runtime_error("what\nException raised from f\nframe #0: g"));
  EXPECT_EQ(status.message(), "what");
}

}  // namespace
}  // namespace lockstep
