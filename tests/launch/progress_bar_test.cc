#include "progress_bar.h"

#include <gmock/gmock.h>

#include "lockstep/core/base/deadline.h"

namespace lockstep {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

TEST(ProgressLine, SaysShareRateAndTimeLeft) {
  EXPECT_EQ(progress_line("verify", kGiB, 4 * kGiB, 1),
            "verify  [#####...............]  25%  1.0 GiB of 4.0 GiB  1.07 GB/s  left 00:03");
  EXPECT_EQ(progress_line("diff", 4 * kGiB, 4 * kGiB, 2),
            "diff  [####################]  100%  4.0 GiB of 4.0 GiB  2.15 GB/s  left 00:00");
  EXPECT_THAT(progress_line("diff", kGiB, 10'000 * kGiB, 2), ::testing::EndsWith("left 5:33:18"));
}

TEST(ProgressLine, NeedsNeitherTimeNorBytes) {
  EXPECT_EQ(progress_line("diff", 0, 0, 0), "diff  [....................]  0%  0 B of 0 B");
  EXPECT_THAT(progress_line("diff", 7, 0, 1), ::testing::HasSubstr("100%"));
}

TEST(ProgressBar, IsShownAndTakenAwayAgain) {
  ProgressBar bar("verify", /*is_shown=*/true);
  const OnProgress on_progress = bar.on_progress();
  testing::internal::CaptureStderr();
  on_progress(1, 100);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "short work needs no bar";
  const Deadline deadline = Deadline::after_s(0.35);
  while (!deadline.has_passed()) sleep_ns(1'000'000);
  testing::internal::CaptureStderr();
  on_progress(50, 100);
  on_progress(51, 100);
  bar.finish();
  bar.finish();
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, ::testing::StartsWith("\r\033[Kverify  [##########.."));
  EXPECT_THAT(text, ::testing::EndsWith("\r\033[K"));
  EXPECT_THAT(text, ::testing::Not(::testing::HasSubstr("51%"))) << "not more often than it helps";
}

TEST(ProgressBar, IsNotMadeWhereNobodyWatches) {
  ProgressBar bar("verify", /*is_shown=*/false);
  EXPECT_FALSE(bar.on_progress());
}

}  // namespace
}  // namespace lockstep
