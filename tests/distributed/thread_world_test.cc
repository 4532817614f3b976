// Ranks as threads: both conformance suites, and what is particular to threads.
// Covers: thread_hub.cc thread_communicator.cc thread_control_plane.cc
#include <gmock/gmock.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <tuple>

#include "distributed/communicator_conformance.h"
#include "distributed/control_plane_conformance.h"
#include "distributed/test_settings.h"
#include "lockstep/distributed/world.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

using lockstep::testing::kLongBeforeSoonS;
using lockstep::testing::quiet;

std::string case_name(const auto& info) {
  return std::get<1>(info.param).name + "On" + std::to_string(std::get<0>(info.param));
}

class ThreadCommunicatorConformance
    : public ::testing::TestWithParam<std::tuple<int, testing::CommunicatorCase>> {};
class ThreadControlPlaneConformance
    : public ::testing::TestWithParam<std::tuple<int, testing::ControlPlaneCase>> {};

TEST_P(ThreadCommunicatorConformance, Holds) {
  const auto& [num_ranks, test_case] = GetParam();
  if (num_ranks < test_case.min_ranks) return;
  Status status = World::run_threads(
      num_ranks,
      [&](World& world) {
        test_case.body(world.communicator());
        return Status::ok();
      },
      quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
}

TEST_P(ThreadControlPlaneConformance, Holds) {
  const auto& [num_ranks, test_case] = GetParam();
  if (num_ranks < test_case.min_ranks) return;
  Status status = World::run_threads(
      num_ranks,
      [&](World& world) {
        test_case.body(world.control_plane());
        return Status::ok();
      },
      quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
}

const auto kWorldSizes = ::testing::Values(1, 2, 3, 4, 5, 8, 16);
INSTANTIATE_TEST_SUITE_P(Usable, ThreadCommunicatorConformance,
                         ::testing::Combine(kWorldSizes,
                                            ::testing::ValuesIn(testing::communicator_cases())),
                         [](const auto& info) { return case_name(info); });
INSTANTIATE_TEST_SUITE_P(
    Failing, ThreadCommunicatorConformance,
    ::testing::Combine(::testing::Values(2, 5),
                       ::testing::ValuesIn(testing::failing_communicator_cases())),
    [](const auto& info) { return case_name(info); });
INSTANTIATE_TEST_SUITE_P(
    Mismatched, ThreadCommunicatorConformance,
    ::testing::Combine(::testing::Values(2, 5),
                       ::testing::ValuesIn(testing::mismatched_communicator_cases())),
    [](const auto& info) { return case_name(info); });
INSTANTIATE_TEST_SUITE_P(Usable, ThreadControlPlaneConformance,
                         ::testing::Combine(kWorldSizes,
                                            ::testing::ValuesIn(testing::control_plane_cases())),
                         [](const auto& info) { return case_name(info); });
INSTANTIATE_TEST_SUITE_P(
    Failing, ThreadControlPlaneConformance,
    ::testing::Combine(::testing::Values(2, 5),
                       ::testing::ValuesIn(testing::failing_control_plane_cases())),
    [](const auto& info) { return case_name(info); });

TEST(ThreadWorld, KnowsItsPlace) {
  std::atomic<int> rank_sum = 0;
  Status status = World::run_threads(
      5,
      [&](World& world) {
        rank_sum += world.world_rank();
        EXPECT_EQ(world.world_size(), 5);
        EXPECT_EQ(world.local_rank(), world.world_rank());
        EXPECT_EQ(world.num_local_ranks(), 5);
        EXPECT_EQ(world.num_hosts(), 1);
        EXPECT_NE(world.process_lock(), nullptr);
        EXPECT_EQ(world.communicator().backend(), "threads");
        return world.shutdown();
      },
      quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  EXPECT_EQ(rank_sum, 10);
}

TEST(ThreadWorld, ReturnsTheLowestFailingRanksStatus) {
  Status status = World::run_threads(
      4,
      [](World& world) {
        if (world.world_rank() < 2) return Status::ok();
        return io_error(cat("of rank ", world.world_rank()));
      },
      quiet());
  EXPECT_EQ(status.to_string(), "i/o error: of rank 2");
}

TEST(ThreadWorld, ThrowsARanksExceptionAgain) {
  auto throws = [](World& world) {
    if (world.world_rank() == 1) throw std::runtime_error("defect in rank 1");
    Status status = world.communicator().barrier("never complete", Deadline::after_s(30));
    EXPECT_FALSE(status.is_ok());
    return status;
  };
  EXPECT_THROW(World::run_threads(3, throws, quiet()).ignore(), std::runtime_error);
}

TEST(ThreadWorld, ExceptionOfOnReceivedLeavesNoMessageBehind) {
  auto throws = [](World& world) {
    std::vector<std::byte> out(1000);
    std::vector<std::byte> in(1000);
    SendOp send{1 - world.world_rank(), out};
    RecvOp recv{1 - world.world_rank(), in};
    return world.communicator().exchange(
        {&send, 1}, {&recv, 1}, [](size_t) { throw std::runtime_error("in the add"); }, "throwing",
        Deadline::after_s(30));
  };
  EXPECT_THROW(World::run_threads(2, throws, quiet()).ignore(), std::runtime_error);
}

TEST(ThreadWorld, NamesARankThatLeft) {
  std::atomic<int> lost_by_callback = -1;
  Status status = World::run_threads(
      4,
      [&](World& world) {
        if (world.world_rank() == 2) return Status::ok();  // leaves without shutdown()
        if (world.world_rank() == 0) {
          world.on_peer_lost([&](int rank) {
            int expected = -1;
            lost_by_callback.compare_exchange_strong(expected, rank);
          });
        }
        Stopwatch watch;
        Status data = world.communicator().barrier("data barrier", Deadline::after_s(30));
        EXPECT_EQ(data.code(), StatusCode::kPeerFailure) << data.to_string();
        Status control = world.control_plane().barrier("control barrier", Deadline::after_s(30));
        EXPECT_EQ(control.code(), StatusCode::kPeerFailure) << control.to_string();
        EXPECT_THAT(control.message(), HasSubstr("2"));
        EXPECT_LT(watch.elapsed_s(), kLongBeforeSoonS);
        EXPECT_THAT(world.control_plane().lost_ranks(), ::testing::Contains(2));
        // The callback goes with its rank: that of rank 0 must have been called before it leaves.
        while (world.world_rank() == 0 && lost_by_callback == -1 && watch.elapsed_s() < kLongBeforeSoonS)
          sleep_ns(1'000'000);
        return Status::ok();
      },
      quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  EXPECT_NE(lost_by_callback, -1);
}

TEST(ThreadWorld, ShutdownLosesNobody) {
  std::atomic<int> num_lost = 0;
  Status status = World::run_threads(
      4,
      [&](World& world) {
        world.on_peer_lost([&](int) { ++num_lost; });
        return world.shutdown();
      },
      quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  EXPECT_EQ(num_lost, 0);
}

TEST(ThreadWorld, AbortsARankWhoseCallbackThrows) {
  Status status = World::run_threads(
      2,
      [&](World& world) {
        if (world.world_rank() == 0) {
          world.on_peer_lost([](int) { throw std::runtime_error("no room to record"); });
        }
        Status met = world.control_plane().barrier("meet", Deadline::after_s(30));
        EXPECT_TRUE(met.is_ok()) << met.to_string();
        if (world.world_rank() == 1) return Status::ok();  // leaves without shutdown()
        sleep_ns(300'000'000);
        Status later = world.communicator().barrier("later", Deadline::after_s(30));
        EXPECT_EQ(later.code(), StatusCode::kAborted) << later.to_string();
        EXPECT_THAT(later.message(), HasSubstr("no room to record"));
        return Status::ok();
      },
      quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
}

TEST(ThreadWorld, RefusesCallsAfterItsShutdown) {
  Status status = World::run_threads(
      3,
      [&](World& world) {
        Status end = world.shutdown();
        EXPECT_TRUE(end.is_ok()) << end.to_string();
        Status later = world.communicator().barrier("later", Deadline::after_s(30));
        EXPECT_EQ(later.code(), StatusCode::kAborted) << later.to_string();
        EXPECT_THAT(later.message(), HasSubstr("the world was shut down"));
        float value = 1;
        EXPECT_EQ(
            world.communicator().native_all_reduce_sum(&value, 1, Deadline::after_s(30)).code(),
            StatusCode::kAborted);
        EXPECT_EQ(world.control_plane().barrier("later", Deadline::after_s(30)).code(),
                  StatusCode::kAborted);
        return Status::ok();
      },
      quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
}

TEST(ThreadWorld, AbortJobEndsAllRanksAndSaysWhy) {
  auto aborts = [](World& world) -> Status {
    if (world.world_rank() == 1) world.abort_job(75, "peer lost");
    Status status = world.communicator().barrier("never complete", Deadline::after_s(30));
    EXPECT_FALSE(status.is_ok());
    return status;
  };
  try {
    World::run_threads(3, aborts, quiet()).ignore();
    FAIL() << "expected the abort to come through";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("75"));
    EXPECT_THAT(error.what(), HasSubstr("peer lost"));
  }
}

TEST(ThreadWorld, SoloIsAWorldOfOne) {
  World world = World::solo(quiet());
  EXPECT_EQ(world.world_size(), 1);
  EXPECT_EQ(world.world_rank(), 0);
  EXPECT_EQ(world.process_lock(), nullptr);
  EXPECT_TRUE(world.communicator().barrier("alone", Deadline::after_s(1)).is_ok());
  EXPECT_TRUE(world.shutdown().is_ok());
}

}  // namespace
}  // namespace lockstep
