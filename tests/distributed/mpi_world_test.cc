// Ranks as processes under mpirun: the conformance suites, the reducer, a rank that stands still.
// Covers: mpi_world.cc mpi_bootstrap.cc world.cc peer_exchange_communicator.cc
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <limits>
#include <tuple>

#include "distributed/communicator_conformance.h"
#include "distributed/control_plane_conformance.h"
#include "distributed/mpi_test_world.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/tree_reducer.h"
#include "mpi_communicator.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using testing::mpi_world;

constexpr size_t kAllSizes = std::numeric_limits<size_t>::max();

Deadline soon() {
  return Deadline::after_s(30);
}

std::string case_name(const auto& info) {
  return info.param.name;
}

std::unique_ptr<Communicator> fresh_communicator(size_t max_ring_message_bytes) {
  auto made = make_mpi_communicator({.is_oversubscribed = true,
                                     .max_ring_message_bytes = max_ring_message_bytes,
                                     .lost_ranks = {}});
  EXPECT_TRUE(made.is_ok()) << made.status().to_string();
  return std::move(made).value();
}

/// With all messages through MPI, all through shared memory, and a mix.
class MpiCommunicatorConformance
    : public ::testing::TestWithParam<std::tuple<size_t, testing::CommunicatorCase>> {};

TEST_P(MpiCommunicatorConformance, Holds) {
  const auto& [max_ring_message_bytes, test_case] = GetParam();
  if (mpi_world().world_size() < test_case.min_ranks) return;
  test_case.body(*fresh_communicator(max_ring_message_bytes));
  ASSERT_TRUE(mpi_world().control_plane().barrier(test_case.name, soon()).is_ok());
}

std::string ring_case_name(const auto& info) {
  size_t most = std::get<0>(info.param);
  const char* way = most == 0 ? "ByMpi" : most == kAllSizes ? "ByRings" : "ByBoth";
  return std::get<1>(info.param).name + way;
}

INSTANTIATE_TEST_SUITE_P(Usable, MpiCommunicatorConformance,
                         ::testing::Combine(::testing::Values(size_t{0}, size_t{5000}, kAllSizes),
                                            ::testing::ValuesIn(testing::communicator_cases())),
                         [](const auto& info) { return ring_case_name(info); });
INSTANTIATE_TEST_SUITE_P(
    Failing, MpiCommunicatorConformance,
    ::testing::Combine(::testing::Values(size_t{0}, kAllSizes),
                       ::testing::ValuesIn(testing::failing_communicator_cases())),
    [](const auto& info) { return ring_case_name(info); });

class MpiControlPlaneConformance : public ::testing::TestWithParam<testing::ControlPlaneCase> {};

TEST_P(MpiControlPlaneConformance, Holds) {
  if (mpi_world().world_size() < GetParam().min_ranks) return;
  auto plane = mpi_world().control_plane().split(GetParam().name, soon());
  ASSERT_TRUE(plane.is_ok()) << plane.status().to_string();
  GetParam().body(**plane);
  EXPECT_TRUE(mpi_world().control_plane().barrier(GetParam().name, soon()).is_ok());
}

INSTANTIATE_TEST_SUITE_P(Usable, MpiControlPlaneConformance,
                         ::testing::ValuesIn(testing::control_plane_cases()),
                         [](const auto& info) { return case_name(info); });
INSTANTIATE_TEST_SUITE_P(Failing, MpiControlPlaneConformance,
                         ::testing::ValuesIn(testing::failing_control_plane_cases()),
                         [](const auto& info) { return case_name(info); });

TEST(MpiWorld, KnowsItsPlace) {
  World& world = mpi_world();
  EXPECT_EQ(world.communicator().world_rank(), world.world_rank());
  EXPECT_EQ(world.num_hosts(), 1);
  EXPECT_EQ(world.local_rank(), world.world_rank());
  EXPECT_EQ(world.num_local_ranks(), world.world_size());
  EXPECT_EQ(world.process_lock(), nullptr);
  EXPECT_EQ(world.communicator().backend(), world.world_size() > 1 ? "mpi" : "threads");
}

/// Integers: the total is a formula, exact in any order; the bits of real sums are compared on
/// threads.
TEST(MpiWorld, ReducesAndGathersBuckets) {
  World& world = mpi_world();
  int n = world.world_size();
  FlatSpace space;
  space.name = "trainable.F32";
  space.num_elems = 50 * kBlockElems + 64;
  ShardPlan plan = ShardPlan::plan(plan_buckets(space.num_blocks(), 20), n);
  TreeReducer reducer(world.communicator(), space, plan, n);
  std::vector<float> values(static_cast<size_t>(space.num_elems));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i % 1000) * static_cast<float>(world.world_rank() + 1);
  }
  float* root = values.data();
  for (int bucket = 0; bucket < plan.num_buckets(); ++bucket) {
    uint64_t before = world.communicator().num_bytes_sent();
    ASSERT_TRUE(reducer.reduce_bucket(bucket, std::span<float* const>(&root, 1), soon()).is_ok());
    ASSERT_TRUE(reducer.all_gather_bucket(bucket, root, soon()).is_ok());
    EXPECT_EQ(world.communicator().num_bytes_sent() - before,
              reducer.reduce_bytes_sent(bucket) + reducer.all_gather_bytes_sent(bucket));
  }
  float ranks_sum = static_cast<float>(n * (n + 1) / 2);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(values[i], static_cast<float>(i % 1000) * ranks_sum) << i;
  }
}

TEST(MpiWorld, NamesAStoppedRankAtTheDeadline) {
  World& world = mpi_world();
  if (world.world_size() < 2) return;
  int stopped = world.world_size() - 1;
  auto communicator = fresh_communicator(0);
  auto pids = world.control_plane().all_gather("process ids", cat(getpid()), soon());
  ASSERT_TRUE(pids.is_ok());
  if (world.world_rank() == stopped) {
    kill(getpid(), SIGSTOP);
  } else {
    sleep_ns(100'000'000);
    Stopwatch watch;
    Status status = communicator->barrier("the step's reduction", Deadline::after_s(0.5));
    EXPECT_EQ(status.code(), StatusCode::kTimeout);
    EXPECT_THAT(status.message(), HasSubstr(cat("with rank ", stopped, " within")));
    EXPECT_LT(watch.elapsed_s(), 1.5);
    if (world.world_rank() == 0) {
      sleep_ns(300'000'000);
      kill(static_cast<pid_t>(std::stol(pids->back())), SIGCONT);
    }
  }
  EXPECT_TRUE(world.control_plane().barrier("all run again", soon()).is_ok());
}

TEST(MpiWorld, GivesUpEarlyWhenARankIsKnownToBeLost) {
  World& world = mpi_world();
  if (world.world_size() < 2) return;
  auto made = make_mpi_communicator({.is_oversubscribed = true,
                                     .max_ring_message_bytes = 0,
                                     .lost_ranks = [] { return std::vector<int>{1}; }});
  ASSERT_TRUE(made.is_ok());
  if (world.world_rank() == 0) {
    std::byte byte{};
    RecvOp recv{1, {&byte, 1}};
    Status status = (*made)->exchange({}, {&recv, 1}, nullptr, "from the dead", soon());
    EXPECT_EQ(status.to_string(), "peer failure: from the dead: lost rank 1");
  }
  EXPECT_TRUE(world.control_plane().barrier("done", soon()).is_ok());
}

}  // namespace
}  // namespace lockstep
