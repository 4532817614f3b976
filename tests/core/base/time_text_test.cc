#include "lockstep/core/base/time_text.h"

#include <gtest/gtest.h>

#include "lockstep/core/base/deadline.h"

namespace lockstep {
namespace {

TEST(TimeText, DurationsHaveOneUnit) {
  EXPECT_EQ(parse_duration_s("45s"), 45);
  EXPECT_EQ(parse_duration_s("90m"), 5'400);
  EXPECT_EQ(parse_duration_s("36h"), 129'600);
  EXPECT_EQ(parse_duration_s("7d"), 604'800);
  for (const char* bad : {"", "d", "7", "0s", "-1s", "+1s", " 1s", "1 s", "1.5h", "7days", "1D",
                          "99999999999999999999s", "36601d", "9223372036854775807d"}) {
    EXPECT_EQ(parse_duration_s(bad), std::nullopt) << bad;
  }
  EXPECT_EQ(parse_duration_s("36600d"), int64_t{36'600} * 86'400);
}

TEST(TimeText, UtcReadsBackExactly) {
  EXPECT_EQ(parse_utc_text("2025-11-22T13:05:09Z"), 1763816709'000000000);
  for (int64_t day = 0; day < 40'000; day += 37) {
    const int64_t ns = (day * 86'400 + day) * 1'000'000'000;
    ASSERT_EQ(parse_utc_text(utc_text(ns)), ns);
  }
  for (const char* bad :
       {"", "2025-11-22", "2025-11-22T13:05:09", "2025-11-22T13:05:09Z ", "2025-11-22 13:05:09Z",
        "2025-1-22T13:05:09Z", "2025-02-30T13:05:09Z", "2025-11-22T13:05:60Z"}) {
    EXPECT_EQ(parse_utc_text(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace lockstep
