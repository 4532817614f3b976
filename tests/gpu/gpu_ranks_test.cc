// Ranks with GPUs: NCCL passes the suite of communicators, the tree gives the bits of the host, and
// training the same digest whatever the number of ranks.
// Covers: nccl_communicator.cc
#include <cstdio>
#include <cstring>
#include <vector>

#include "distributed/communicator_conformance.h"
#include "distributed/engine/odd_run.h"
#include "distributed/test_settings.h"
#include "gpu_of_test.h"
#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/distributed/bucketer.h"
#include "lockstep/distributed/tree_reducer.h"
#include "staged_communicator.h"

namespace lockstep {
namespace {

using testing::gpu_of_test;
using testing::mpi_world;
using testing::settle;
using testing::soon;

std::unique_ptr<Communicator> connect() {
  auto connected = gpu_of_test()->connect(mpi_world(), Deadline::after_s(60));
  LOCKSTEP_CHECK(connected.is_ok(), connected.status().message());
  return std::move(connected).value();
}

class NcclConformance : public ::testing::TestWithParam<testing::CommunicatorCase> {};

TEST_P(NcclConformance, Holds) {
  if (mpi_world().world_size() < std::max(2, GetParam().min_ranks)) return;
  testing::StagedCommunicator communicator(gpu_of_test(), connect());
  EXPECT_EQ(communicator.backend(), "nccl");
  GetParam().body(communicator);
}

INSTANTIATE_TEST_SUITE_P(Usable, NcclConformance,
                         ::testing::ValuesIn(testing::communicator_cases()),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(Failing, NcclConformance,
                         ::testing::ValuesIn(testing::failing_communicator_cases()),
                         [](const auto& info) { return info.param.name; });

// Rank 1 does not come to an exchange that rank 0 has handed over. Rank 0 then waits for its GPU in
// calls that know no deadline.
TEST(GpuWatchdog, EndsAHostCallBehindAnExchangeThatIsStuck) {
  World& world = mpi_world();
  if (world.world_size() < 2) return;
  Accelerator& gpu = *gpu_of_test();
  {
    const auto communicator = connect();
    DeviceMemory memory = gpu.allocate(2 << 20);
    const auto half = [&](size_t i) { return memory.bytes().subspan(i << 20, 1 << 20); };
    const int peer = world.world_rank() ^ 1;
    const auto swap = [&] {
      const SendOp send{peer, half(0)};
      const RecvOp recv{peer, half(1)};
      return communicator->exchange({&send, 1}, {&recv, 1}, nullptr, "a swap",
                                    Deadline::after_s(3));
    };
    if (world.world_rank() < 2) {
      // The first one connects the two; the next is handed over at once.
      ASSERT_TRUE(swap().is_ok());
      ASSERT_TRUE(communicator->settle("the first swap", soon()).is_ok());
    }
    if (world.world_rank() == 0) {
      const Stopwatch watch;
      ASSERT_TRUE(swap().is_ok());
      gpu.compute().wait_for(gpu.communication().mark());
      std::vector<std::byte> back(1 << 20);
      gpu.compute().copy(back.data(), half(1).data(), back.size());  // not pinned: waits
      ASSERT_TRUE(settle(gpu.compute()).is_ok());
      EXPECT_LT(watch.elapsed_s(), 20);
      const Status found = communicator->settle("after", soon());
      EXPECT_EQ(found.code(), StatusCode::kTimeout) << found.to_string();
      EXPECT_NE(found.message().find("rank 1"), std::string::npos) << found.to_string();
    }
    ASSERT_TRUE(
        world.control_plane().barrier("rank 0 has given up", Deadline::after_s(60)).is_ok());
  }
}

TEST(GpuWorld, OfOneHasNoCommunicator) {
  if (mpi_world().world_size() > 1) return;
  EXPECT_EQ(connect(), nullptr);
}

// Values whose sums round, so that another order of additions would show.
float value_at(int rank, size_t i) {
  return 1.0F / static_cast<float>(1 + (i * 7 + static_cast<size_t>(rank) * 13) % 1000);
}

TEST(GpuTree, GivesTheBitsOfTheHost) {
  World& world = mpi_world();
  const int n = world.world_size();
  if (n == 1) return;
  FlatSpace space;
  space.name = "trainable.F32";
  space.num_elems = 50 * kBlockElems + 64;
  const ShardPlan plan = ShardPlan::plan(plan_buckets(space.num_blocks(), 20), n);
  // One leaf a rank: a rank's only root is its own values.
  std::vector<float> values(static_cast<size_t>(space.num_elems));
  for (size_t i = 0; i < values.size(); ++i) values[i] = value_at(world.world_rank(), i);
  Accelerator& gpu = *gpu_of_test();
  const size_t num_bytes = values.size() * sizeof(float);
  DeviceMemory memory = gpu.allocate(num_bytes);
  gpu.communication().copy(memory.data(), values.data(), num_bytes);
  const auto communicator = connect();
  for (int64_t chunk_bytes : {int64_t{1} << 30, int64_t{100} << 10}) {
    gpu.communication().copy(memory.data(), values.data(), num_bytes);
    TreeReducer on_gpu(*communicator, space, plan, n,
                       {.chunk_bytes = chunk_bytes, .chunks_in_flight = 2}, gpu);
    TreeReducer on_host(world.communicator(), space, plan, n);
    std::vector<float> expected = values, found(values.size());
    void* gpu_root = memory.data();
    void* host_root = expected.data();
    for (int b = 0; b < plan.num_buckets(); ++b) {
      ASSERT_TRUE(on_gpu.reduce_bucket(b, std::span<void* const>(&gpu_root, 1), soon()).is_ok());
      ASSERT_TRUE(on_gpu.all_gather_bucket(b, gpu_root, soon()).is_ok());
      ASSERT_TRUE(on_host.reduce_bucket(b, std::span<void* const>(&host_root, 1), soon()).is_ok());
      ASSERT_TRUE(on_host.all_gather_bucket(b, host_root, soon()).is_ok());
    }
    gpu.communication().copy(found.data(), memory.data(), num_bytes);
    ASSERT_TRUE(communicator->settle("the tree", soon()).is_ok());
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), num_bytes), 0);
  }
}

std::string digest_on(World& world, const std::string& optimizer) {
  RunSpec spec;
  spec.optimizer = optimizer;
  spec.steps = 5;
  spec.bucket_mib = 1e-3;  // a block
  spec.accelerator = [](int) { return gpu_of_test(); };
  Hash128 digest;
  spec.at_end = [&](DataParallel& parallel, ShardedOptimizer& adam) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(
        digest, live_state_digest(world.control_plane(), state_schema(parallel, adam),
                                  owned_state(parallel, adam), adam.scalars(), soon()));
    return Status::ok();
  };
  DigestOfRanks unused;
  const Status trained = train_odd_net(world, spec, &unused);
  EXPECT_TRUE(trained.is_ok()) << trained.to_string();
  return digest.hex();
}

// Each rank alone, and all together. What is printed is for comparing numbers of ranks.
TEST(GpuTraining, DigestOfOddNet) {
  gpu_of_test();  // before anything is asked of LibTorch's generators
  for (const char* optimizer : {"adamw", "sgd"}) {
    World alone = World::solo(WorldOptions{});
    const std::string digest = digest_on(mpi_world(), optimizer);
    EXPECT_EQ(digest, digest_on(alone, optimizer));
    if (mpi_world().world_rank() == 0) std::printf("digest %s %s\n", optimizer, digest.c_str());
  }
}

}  // namespace
}  // namespace lockstep
