#pragma once
// A run without training: a state with known bytes, cut for any number of ranks as threads, saved
// and restored through whatever FileSystem a test wants to hurt.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

/// Three spaces, two optimizer slots, odd block counts, short last blocks; about 1.3 MB.
StateSchema medium_schema();
/// One trainable and one buffer space of one short block each, one slot; 3 KB.
StateSchema small_schema();

/// One space with a short last block, two slots; 24 MB.
StateSchema large_schema();

/// Memory for every kind of a schema, whole: what all ranks together own.
class TestState {
 public:
  /// Bytes drawn from `seed`; 0 leaves zeros.
  TestState(StateSchema schema, uint64_t seed);

  const StateSchema& schema() const { return schema_; }
  uint64_t num_bytes() const;
  std::vector<std::byte>& kind(size_t index) { return memory_[index]; }
  /// From here on owned() gives slices of a device's memory (shadow_memory.h), one for each call.
  void put_on_a_device() { is_on_a_device_ = true; }
  /// What `world_rank` of `world_size` owns: a piece of every run of three blocks, several runs a
  /// kind.
  OwnedState owned(int world_rank, int world_size);
  Hash128 digest(const Scalars& scalars) const;
  bool operator==(const TestState& other) const { return memory_ == other.memory_; }

 private:
  StateSchema schema_;
  std::vector<std::vector<std::byte>> memory_;
  bool is_on_a_device_ = false;
};

/// Options for a test: nothing of an earlier attempt is ever alive, no heartbeat, no log.
CheckpointerOptions quiet_options(FileSystem& fs, ControlPlane& plane);
/// The same for an attempt alone; `is_running` says whether an earlier one of this host is alive.
AttemptOptions quiet_attempt(FileSystem& fs, bool is_running = false);
inline constexpr const char* kRunDir = "/run";
Scalars some_scalars(int64_t step);

using TweakOptions = std::function<void(CheckpointerOptions&)>;
using TweakRestore = std::function<void(RestoreRequest&)>;

/// Runs `rank_main` on each of `num_ranks` threads. The Status of the lowest failing rank.
Status with_ranks(int num_ranks, const std::function<Status(World&)>& rank_main);

enum class SaveMode : uint8_t { kInFront, kBehind };
/// What tests save: all of it is a function of `step`. `state` and `owned` must outlive it.
SaveRequest request_of(const TestState& state, const OwnedState& owned, int64_t step);
/// Whatever the run has, into `state` as `into` cuts it; both must outlive it.
RestoreRequest restore_request_of(const TestState& state, const OwnedState& into);
/// Opens, saves `state` as `step`, closes. What rank 0 reports.
Result<SaveReport> save_state(FileSystem& fs, int num_ranks, TestState& state, int64_t step,
                              const TweakOptions& tweak = {}, SaveMode mode = SaveMode::kInFront);
/// Opens, restores into `state` (cut for `num_ranks`), closes. What rank 0 got back.
Result<std::optional<Restored>> restore_state(FileSystem& fs, int num_ranks, TestState& state,
                                              const TweakRestore& tweak = {},
                                              const TweakOptions& tweak_options = {});

/// Every file below `folder` with its bytes, by path.
std::map<std::string, std::string> all_files(FileSystem& fs, const std::string& folder);
/// Names in the run's checkpoints folder, sorted.
std::vector<std::string> checkpoints_of(FileSystem& fs, const std::string& run_dir = kRunDir);
/// Replaces a file's bytes, durably.
void overwrite_file(FileSystem& fs, const std::string& path, const std::string& content);

}  // namespace lockstep
