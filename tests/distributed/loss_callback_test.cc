// Whoever is told of lost ranks hears of each once, and of none after it was replaced.
#include "loss_callback.h"

#include <gmock/gmock.h>

#include <chrono>
#include <future>
#include <stdexcept>
#include <thread>

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int> nobody() {
  return {};
}

TEST(LossCallback, TellsOfLossesBeforeAndAfterItsInstallationOnce) {
  LossCallback losses;
  ASSERT_TRUE(losses.report(4).is_ok());
  std::vector<int> heard;
  losses.install([&](int rank) { heard.push_back(rank); }, [] { return std::vector<int>{4}; });
  ASSERT_TRUE(losses.report(4).is_ok());
  ASSERT_TRUE(losses.report(1).is_ok());
  ASSERT_TRUE(losses.report(1).is_ok());
  EXPECT_THAT(heard, ElementsAre(4, 1));
}

TEST(LossCallback, TellsANewCallbackOfAllLosses) {
  LossCallback losses;
  losses.install([](int) {}, nobody);
  ASSERT_TRUE(losses.report(2).is_ok());
  std::vector<int> heard;
  losses.install([&](int rank) { heard.push_back(rank); }, [] { return std::vector<int>{2}; });
  EXPECT_THAT(heard, ElementsAre(2));
}

TEST(LossCallback, MissesNoLossWhileItIsInstalled) {
  LossCallback losses;
  std::thread loser;
  std::vector<int> heard;
  losses.install([&](int rank) { heard.push_back(rank); },
                 [&] {
                   // Rank 2 is lost just after the list of losses was read.
                   std::promise<void> has_begun;
                   loser = std::thread([&losses, &has_begun] {
                     has_begun.set_value();
                     EXPECT_TRUE(losses.report(2).is_ok());
                   });
                   has_begun.get_future().wait();
                   std::this_thread::sleep_for(std::chrono::milliseconds(50));
                   return std::vector<int>{};
                 });
  loser.join();
  EXPECT_THAT(heard, ElementsAre(2));
}

TEST(LossCallback, IsReplacedOnlyAfterACallUnderWay) {
  LossCallback losses;
  std::promise<void> is_called;
  std::promise<void> may_return;
  losses.install(
      [&](int) {
        is_called.set_value();
        may_return.get_future().wait();
      },
      nobody);
  std::thread loser([&] { EXPECT_TRUE(losses.report(1).is_ok()); });
  is_called.get_future().wait();
  auto replaced = std::async(std::launch::async, [&] { losses.install(nullptr, nobody); });
  EXPECT_EQ(replaced.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  may_return.set_value();
  replaced.wait();
  loser.join();
}

TEST(LossCallback, ReportsWhatItThrows) {
  LossCallback losses;
  losses.install([](int) { throw std::runtime_error("no room to record"); }, nobody);
  Status status = losses.report(1);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("no room to record"));
}

}  // namespace
}  // namespace lockstep
