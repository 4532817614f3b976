// A state in the memory of a device: saved, restored, digested and loaded without being touched but
// by the device's copies, and to the byte what a state of the host gives.
#include <gmock/gmock.h>

#include "lockstep/checkpoint/params_load.h"
#include "lockstep/core/base/memory_file_system.h"
#include "run_fixture.h"
#include "shadow_memory.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

TestState on_a_device(uint64_t seed) {
  TestState state(medium_schema(), seed);
  state.put_on_a_device();
  return state;
}

ShadowMemory& memory_of(const OwnedState& owned) {
  return *dynamic_cast<ShadowMemory*>(owned.slices.front().memory.get());
}

TEST(StateOnADevice, FilesAreThoseOfTheHost) {
  for (int ranks : {1, 3}) {
    for (SaveMode mode : {SaveMode::kInFront, SaveMode::kBehind}) {
      MemoryFileSystem of_host, of_device;
      TestState host(medium_schema(), 7), device = on_a_device(7);
      const auto saved = save_state(of_host, ranks, host, 100, {}, mode);
      const auto also_saved = save_state(of_device, ranks, device, 100, {}, mode);
      ASSERT_TRUE(also_saved.is_ok()) << also_saved.status().message();
      EXPECT_EQ(also_saved->state_digest, saved->state_digest);
      EXPECT_TRUE(device == host);
      for (const auto& [path, content] : all_files(of_host, kRunDir)) {
        if (path.find(".safetensors") == std::string::npos) continue;
        EXPECT_EQ(all_files(of_device, kRunDir)[path], content) << path;
      }
    }
  }
}

TEST(StateOnADevice, GoesThereAndBack) {
  MemoryFileSystem fs;
  TestState host(medium_schema(), 3);
  ASSERT_TRUE(save_state(fs, 2, host, 10).is_ok());
  TestState device = on_a_device(0);
  auto restored = restore_state(fs, 3, device);
  ASSERT_TRUE(restored.is_ok()) << restored.status().message();
  EXPECT_TRUE(device == host);
  ASSERT_TRUE(save_state(fs, 4, device, 20).is_ok());
  TestState back(medium_schema(), 0);
  restored = restore_state(fs, 1, back);
  ASSERT_TRUE(restored.is_ok()) << restored.status().message();
  EXPECT_EQ((*restored)->step, 20);
  EXPECT_TRUE(back == host);
}

TEST(StateOnADevice, ItsOwnHashesAreThoseOfTheCheckpoint) {
  MemoryFileSystem fs;
  TestState device = on_a_device(4);
  const OwnedState owned = device.owned(0, 1);
  memory_of(owned).miscount();
  const Status status = with_ranks(1, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    LOCKSTEP_RETURN_IF_ERROR(checkpointer.save(request_of(device, owned, 1)).status());
    return checkpointer.close();
  });
  ASSERT_TRUE(status.is_ok()) << status.message();
  // What crossed is not what they vouch for.
  TestState back(medium_schema(), 0);
  EXPECT_EQ(restore_state(fs, 1, back).status().code(), StatusCode::kCorruption);
}

TEST(StateOnADevice, ADamagedBlockIsNotHandedToIt) {
  MemoryFileSystem fs;
  TestState host(medium_schema(), 3);
  ASSERT_TRUE(save_state(fs, 1, host, 10).is_ok());
  for (auto& [path, content] : all_files(fs, kRunDir)) {
    if (path.find(".safetensors") == std::string::npos) continue;
    std::string damaged = content;
    damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
    overwrite_file(fs, path, damaged);
  }
  TestState device = on_a_device(0);
  const auto restored = restore_state(fs, 1, device);
  EXPECT_EQ(restored.status().code(), StatusCode::kCorruption);
  // Each of its bytes is still zero or the one that was saved.
  for (size_t kind = 0; kind < host.schema().kinds.size(); ++kind) {
    for (size_t i = 0; i < host.kind(kind).size(); ++i) {
      if (device.kind(kind)[i] == std::byte{0}) continue;
      ASSERT_EQ(device.kind(kind)[i], host.kind(kind)[i]);
    }
  }
}

TEST(StateOnADevice, DigestsOfTheLiveStateAreThoseOfTheHost) {
  TestState host(medium_schema(), 5), device = on_a_device(5);
  const Status status = with_ranks(2, [&](World& world) -> Status {
    const OwnedState owned = device.owned(world.world_rank(), 2);
    LOCKSTEP_ASSIGN_OR_RETURN(
        const Hash128 digest,
        live_state_digest(world.control_plane(), device.schema(), owned, some_scalars(1),
                          Deadline::after_s(20)));
    EXPECT_EQ(digest, host.digest(some_scalars(1)));
    return Status::ok();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

TEST(StateOnADevice, ParametersAreLoadedIntoIt) {
  MemoryFileSystem fs;
  TestState host(medium_schema(), 3);
  const auto saved = save_state(fs, 2, host, 10);
  ASSERT_TRUE(saved.is_ok());
  const std::string path = path_join(RunPaths{kRunDir}.checkpoints(), checkpoints_of(fs).at(0));
  TestState plain(medium_schema(), 9), device = on_a_device(9);
  for (TestState* state : {&plain, &device}) {
    const Status status = with_ranks(3, [&](World& world) -> Status {
      const OwnedState owned = state->owned(world.world_rank(), 3);
      ParamsLoadRequest request;
      request.path = path;
      request.schema = &state->schema();
      request.into = &owned;
      return load_params(fs, world.control_plane(), request).status();
    });
    ASSERT_TRUE(status.is_ok()) << status.message();
  }
  EXPECT_TRUE(device == plain);
  EXPECT_FALSE(device == TestState(medium_schema(), 9));
}

TEST(StateOnADevice, BuffersArePinnedWhileTheyAreHeld) {
  MemoryFileSystem fs;
  TestState device = on_a_device(4);
  const OwnedState owned = device.owned(0, 1);
  const Status status = with_ranks(1, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    LOCKSTEP_RETURN_IF_ERROR(checkpointer.save(request_of(device, owned, 1)).status());
    const int pinned = memory_of(owned).num_pinned();
    EXPECT_GT(pinned, 0);
    LOCKSTEP_RETURN_IF_ERROR(checkpointer.save(request_of(device, owned, 2)).status());
    EXPECT_EQ(memory_of(owned).num_pinned(), pinned);
    return checkpointer.close();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(memory_of(owned).num_pinned(), 0);
}

TEST(StateOnADevice, APieceCrossesWhileTheOneBeforeIsHandedOn) {
  MemoryFileSystem fs;
  TestState device = on_a_device(4);
  const OwnedState owned = device.owned(0, 1);
  const Status status = with_ranks(1, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    LOCKSTEP_RETURN_IF_ERROR(checkpointer.save(request_of(device, owned, 1)).status());
    return checkpointer.close();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
  EXPECT_GT(memory_of(owned).num_settled_with_more_behind(), 2);
}

TEST(StateOnADevice, ALostDeviceFailsTheSaveOnEveryRank) {
  MemoryFileSystem fs;
  TestState device = on_a_device(4);
  const Status status = with_ranks(2, [&](World& world) -> Status {
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer,
                              Checkpointer::open(quiet_options(fs, world.control_plane())));
    const OwnedState owned = device.owned(world.world_rank(), 2);
    if (world.world_rank() == 1) memory_of(owned).lose();
    const Status saved = checkpointer.save(request_of(device, owned, 1)).status();
    EXPECT_THAT(saved.message(), HasSubstr("rank 1"));
    EXPECT_THAT(saved.message(), HasSubstr("the device is lost"));
    return checkpointer.close();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
  EXPECT_TRUE(checkpoints_of(fs).empty());
}

}  // namespace
}  // namespace lockstep
