// Ranks as processes under mpirun: the conformance suites, the reducer, a rank that stands still.
// Covers: mpi_world.cc mpi_bootstrap.cc world.cc peer_exchange_communicator.cc
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <limits>
#include <tuple>
#include <utility>

#include "distributed/communicator_conformance.h"
#include "distributed/control_plane_conformance.h"
#include "distributed/mpi_test_world.h"
#include "distributed/test_settings.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/tree_reducer.h"
#include "mpi_communicator.h"

/// The next MPI_Win_shared_query of this process fails.
static bool fails_next_shared_query = false;

// MPI's profiling interface: its functions are weak names of PMPI_ ones, so this takes the place of
// the one that the library under test calls. Handles are passed on as they come.
extern "C" int PMPI_Win_shared_query(void* window, int rank, ptrdiff_t* size, int* unit,
                                     void* base);
extern "C" int MPI_Win_shared_query(void* window, int rank, ptrdiff_t* size, int* unit,
                                    void* base) {
  if (std::exchange(fails_next_shared_query, false)) return 1;
  return PMPI_Win_shared_query(window, rank, size, unit, base);
}

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::mpi_world;

constexpr size_t kAllSizes = std::numeric_limits<size_t>::max();

using lockstep::testing::kLongBeforeSoonS;
using lockstep::testing::soon;

std::string case_name(const auto& info) {
  return info.param.name;
}

std::unique_ptr<Communicator> fresh_communicator(
    size_t max_ring_message_bytes,
    size_t max_part_bytes = MpiCommunicatorOptions().max_part_bytes) {
  auto made = make_mpi_communicator({.is_oversubscribed = true,
                                     .max_ring_message_bytes = max_ring_message_bytes,
                                     .max_part_bytes = max_part_bytes,
                                     .lost_ranks = {}});
  EXPECT_TRUE(made.is_ok()) << made.status().to_string();
  return std::move(made).value();
}

/// Which messages go through shared memory, and the parts of those that go through MPI.
struct Way {
  std::string name;
  size_t max_ring_message_bytes = 0;
  size_t max_part_bytes = MpiCommunicatorOptions().max_part_bytes;
};
void PrintTo(const Way& way, std::ostream* os) {
  *os << way.name;
}

class MpiCommunicatorConformance
    : public ::testing::TestWithParam<std::tuple<Way, testing::CommunicatorCase>> {};

TEST_P(MpiCommunicatorConformance, Holds) {
  const auto& [way, test_case] = GetParam();
  if (mpi_world().world_size() < test_case.min_ranks) return;
  test_case.body(*fresh_communicator(way.max_ring_message_bytes, way.max_part_bytes));
  ASSERT_TRUE(mpi_world().control_plane().barrier(test_case.name, soon()).is_ok());
}

std::string way_case_name(const auto& info) {
  return std::get<1>(info.param).name + std::get<0>(info.param).name;
}

/// The parts divide none of the suite's sizes; a message's last part is shorter.
INSTANTIATE_TEST_SUITE_P(Usable, MpiCommunicatorConformance,
                         ::testing::Combine(::testing::Values(Way{"ByMpi"}, Way{"ByBoth", 5000},
                                                              Way{"ByRings", kAllSizes},
                                                              Way{"ByMpiInParts", 0, 30'011}),
                                            ::testing::ValuesIn(testing::communicator_cases())),
                         [](const auto& info) { return way_case_name(info); });
INSTANTIATE_TEST_SUITE_P(
    Failing, MpiCommunicatorConformance,
    ::testing::Combine(::testing::Values(Way{"ByMpi"}, Way{"ByRings", kAllSizes}),
                       ::testing::ValuesIn(testing::failing_communicator_cases())),
    [](const auto& info) { return way_case_name(info); });
INSTANTIATE_TEST_SUITE_P(
    Mismatched, MpiCommunicatorConformance,
    ::testing::Combine(::testing::Values(Way{"ByMpi"}, Way{"ByRings", kAllSizes}),
                       ::testing::ValuesIn(testing::mismatched_communicator_cases())),
    [](const auto& info) { return way_case_name(info); });

TEST(MpiCommunicator, DoesWithoutRingsWhenOneRankCannotMapThem) {
  World& world = mpi_world();
  if (world.world_size() < 2) return;
  fails_next_shared_query = world.world_rank() == world.world_size() - 1;
  auto communicator = fresh_communicator(kAllSizes);
  EXPECT_FALSE(fails_next_shared_query) << "no query was made";
  Status status = communicator->barrier("through MPI", Deadline::after_s(5));
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  EXPECT_TRUE(world.control_plane().barrier("done", soon()).is_ok());
}

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
  void* root = values.data();
  for (int bucket = 0; bucket < plan.num_buckets(); ++bucket) {
    uint64_t before = world.communicator().num_bytes_sent();
    ASSERT_TRUE(reducer.reduce_bucket(bucket, std::span<void* const>(&root, 1), soon()).is_ok());
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
    EXPECT_LT(watch.elapsed_s(), kLongBeforeSoonS);
    if (world.world_rank() == 0) {
      sleep_ns(300'000'000);
      kill(static_cast<pid_t>(std::stol(pids->back())), SIGCONT);
    }
  }
  EXPECT_TRUE(world.control_plane().barrier("all run again", soon()).is_ok());
}

TEST(MpiWorld, TellsASlowWaitLongBeforeItsDeadline) {
  World& world = mpi_world();
  if (world.world_size() < 2) return;
  std::vector<std::string> told;
  auto made =
      make_mpi_communicator({.is_oversubscribed = true,
                             .on_slow_wait = [&](const std::string& text) { told.push_back(text); },
                             .slow_wait_s = 0.1});
  ASSERT_TRUE(made.is_ok());
  if (world.world_rank() == 1) sleep_ns(500'000'000);
  EXPECT_TRUE((*made)->barrier("the step's reduction", soon()).is_ok());
  if (world.world_rank() == 1) {
    EXPECT_TRUE(told.empty() || world.world_size() > 2);
  } else if (world.world_size() == 2) {
    ASSERT_GE(told.size(), 2u);  // after 0.1 s and 0.2 s, perhaps 0.4 s
    EXPECT_LE(told.size(), 3u);
    EXPECT_THAT(told[0], AllOf(HasSubstr("the step's reduction: waiting for rank 1 since"),
                               HasSubstr("giving up in")));
  }
  EXPECT_TRUE(world.control_plane().barrier("done", soon()).is_ok());
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
