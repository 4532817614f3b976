#include "run_fixture.h"

#include <algorithm>
#include <mutex>
#include <random>

#include "lockstep/core/flat/digest.h"
#include "shadow_memory.h"

namespace lockstep {
namespace {

TensorSpec tensor(std::string name, Dtype dtype, std::vector<int64_t> shape, SpaceRole role) {
  std::vector<int64_t> order;
  for (size_t i = 0; i < shape.size(); ++i) order.push_back(static_cast<int64_t>(i));
  return {std::move(name), {}, dtype, std::move(shape), std::move(order), role};
}

StateSchema schema_of(const std::vector<TensorSpec>& tensors,
                      const std::vector<std::string>& slots) {
  StateSchema schema{FlatLayout::plan(tensors).value(), {}};
  for (const FlatSpace& space : schema.layout.spaces()) {
    schema.kinds.push_back({space.name, std::string(value_kind(space.role))});
    if (space.role != SpaceRole::kTrainable) continue;
    for (const std::string& slot : slots) schema.kinds.push_back({space.name, slot});
  }
  return schema;
}

}  // namespace

StateSchema medium_schema() {
  TensorSpec conv = tensor("conv.weight", Dtype::kF32, {32, 16, 3, 3}, SpaceRole::kTrainable);
  conv.order = {0, 2, 3, 1};
  TensorSpec tied = tensor("embed.weight", Dtype::kF32, {300, 200}, SpaceRole::kTrainable);
  tied.aliases = {"head.weight"};
  return schema_of({conv, tensor("conv.bias", Dtype::kF32, {32}, SpaceRole::kTrainable), tied,
                    tensor("base.weight", Dtype::kBF16, {77, 501}, SpaceRole::kFrozen),
                    tensor("norm.running_mean", Dtype::kF32, {20000}, SpaceRole::kBuffer),
                    tensor("norm.num_batches", Dtype::kI64, {}, SpaceRole::kBuffer)},
                   {"adamw.exp_avg", "adamw.exp_avg_sq"});
}

StateSchema small_schema() {
  return schema_of({tensor("weight", Dtype::kF32, {16, 17}, SpaceRole::kTrainable),
                    tensor("mean", Dtype::kF32, {70}, SpaceRole::kBuffer)},
                   {"sgd.momentum"});
}

StateSchema large_schema() {
  return schema_of({tensor("weight", Dtype::kF32, {2000, 1001}, SpaceRole::kTrainable),
                    tensor("bias", Dtype::kF32, {77}, SpaceRole::kTrainable)},
                   {"adamw.exp_avg", "adamw.exp_avg_sq"});
}

TestState::TestState(StateSchema schema, uint64_t seed) : schema_(std::move(schema)) {
  std::mt19937_64 random(seed);
  for (const StateKind& kind : schema_.kinds) {
    std::vector<std::byte> bytes(static_cast<size_t>(schema_.layout.find(kind.space)->num_bytes()));
    if (seed != 0) {
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    }
    memory_.push_back(std::move(bytes));
  }
}

uint64_t TestState::num_bytes() const {
  uint64_t bytes = 0;
  for (const std::vector<std::byte>& kind : memory_) bytes += kind.size();
  return bytes;
}

OwnedState TestState::owned(int world_rank, int world_size) {
  constexpr int64_t kBucketBlocks = 3;
  OwnedState owned;
  std::shared_ptr<ShadowMemory> shadow;
  if (is_on_a_device_)
    shadow = std::make_shared<ShadowMemory>(
        std::vector<std::span<std::byte>>(memory_.begin(), memory_.end()));
  for (size_t k = 0; k < schema_.kinds.size(); ++k) {
    const FlatSpace& space = *schema_.layout.find(schema_.kinds[k].space);
    for (int64_t begin = 0, bucket = 0; begin < space.num_blocks();
         begin += kBucketBlocks, ++bucket) {
      const int64_t size = std::min(kBucketBlocks, space.num_blocks() - begin);
      const int64_t piece = (world_rank + bucket) % world_size;
      const BlockRun run{begin + piece * size / world_size,
                         begin + (piece + 1) * size / world_size};
      if (run.num_blocks() == 0) continue;
      const ElemRun elems = space.elems_of(run);
      const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(space.dtype));
      const size_t offset = static_cast<size_t>(elems.first) * elem_bytes;
      const size_t num_bytes = static_cast<size_t>(elems.num_elems()) * elem_bytes;
      owned.slices.push_back({schema_.kinds[k], run,
                              shadow != nullptr ? shadow->shadow(k, offset, num_bytes)
                                                : std::span(memory_[k]).subspan(offset, num_bytes),
                              shadow});
    }
  }
  std::reverse(owned.slices.begin(), owned.slices.end());  // nobody promised an order
  return owned;
}

Hash128 TestState::digest(const Scalars& scalars) const {
  std::vector<std::vector<uint64_t>> hashes;
  for (size_t k = 0; k < schema_.kinds.size(); ++k) {
    const FlatSpace& space = *schema_.layout.find(schema_.kinds[k].space);
    hashes.emplace_back(static_cast<size_t>(space.num_blocks()));
    hash_blocks(space, {0, space.num_blocks()}, memory_[k], hashes.back());
  }
  return state_digest(schema_, hashes, scalars);
}

CheckpointerOptions quiet_options(FileSystem& fs, ControlPlane& plane) {
  CheckpointerOptions options;
  options.fs = &fs;
  options.plane = &plane;
  options.run_dir = kRunDir;
  options.log = Log::silent();
  options.build = {"avx2", {{"torch", "2.11.0"}}};
  options.heartbeat_s = 0;
  options.watch_s = 0.01;
  options.control_timeout_s = 20;
  options.data_timeout_s = 20;
  options.staging_piece_bytes = uint64_t{100} << 10;  // blocks lie across pieces
  options.process = {"host", "boot", 1, 1};
  options.is_running = [](const ProcessIdentity&) { return false; };
  return options;
}

AttemptOptions quiet_attempt(FileSystem& fs, bool is_running) {
  AttemptOptions options;
  options.fs = &fs;
  options.run_dir = kRunDir;
  options.log = Log::silent();
  options.heartbeat_s = 0;
  options.watch_s = 0.3;
  options.process = {"host", "boot", 7, 9};
  options.is_running = [is_running](const ProcessIdentity&) { return is_running; };
  return options;
}

Scalars some_scalars(int64_t step) {
  return {{"adamw.step", step},
          {"loss_scale", 0.1 * static_cast<double>(step)},
          {"user.note", "step \"x\"\n"}};
}

Status with_ranks(int num_ranks, const std::function<Status(World&)>& rank_main) {
  WorldOptions options;
  options.log = Log::silent();
  return World::run_threads(num_ranks, rank_main, options);
}

RestoreRequest restore_request_of(const TestState& state, const OwnedState& into) {
  RestoreRequest request;
  request.schema = &state.schema();
  request.into = &into;
  return request;
}

SaveRequest request_of(const TestState& state, const OwnedState& owned, int64_t step) {
  SaveRequest request;
  request.schema = &state.schema();
  request.owned = &owned;
  request.step = step;
  request.epoch = step / 10;
  request.seed = 0xfeedfacecafebeefULL;
  request.scalars = some_scalars(step);
  request.metrics = {{"loss", 1.0 / static_cast<double>(step)}};
  request.recipe_text = "[train]\nseed = 1\n";
  request.recipe_hash = "0123";
  return request;
}

Result<SaveReport> save_state(FileSystem& fs, int num_ranks, TestState& state, int64_t step,
                              const TweakOptions& tweak, SaveMode mode) {
  std::optional<SaveReport> report;
  const Status status = with_ranks(num_ranks, [&](World& world) -> Status {
    CheckpointerOptions options = quiet_options(fs, world.control_plane());
    if (tweak) tweak(options);
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    const OwnedState owned = state.owned(world.world_rank(), num_ranks);
    const SaveRequest request = request_of(state, owned, step);
    if (mode == SaveMode::kBehind) checkpointer.start_save(request);
    auto saved =
        mode == SaveMode::kBehind ? checkpointer.finish_save() : checkpointer.save(request);
    LOCKSTEP_RETURN_IF_ERROR(saved.status());
    if (world.world_rank() == 0) report = *saved;
    return checkpointer.close();
  });
  if (!status.is_ok()) return status;
  return *report;
}

Result<std::optional<Restored>> restore_state(FileSystem& fs, int num_ranks, TestState& state,
                                              const TweakRestore& tweak,
                                              const TweakOptions& tweak_options) {
  std::optional<Restored> restored;
  const Status status = with_ranks(num_ranks, [&](World& world) -> Status {
    CheckpointerOptions options = quiet_options(fs, world.control_plane());
    if (tweak_options) tweak_options(options);
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    const OwnedState into = state.owned(world.world_rank(), num_ranks);
    RestoreRequest request = restore_request_of(state, into);
    request.recipe_text = "[train]\nseed = 1\n";
    if (tweak) tweak(request);
    auto found = checkpointer.restore(request);
    LOCKSTEP_RETURN_IF_ERROR(found.status());
    if (world.world_rank() == 0) restored = *found;
    return checkpointer.close();
  });
  if (!status.is_ok()) return status;
  return restored;
}

std::map<std::string, std::string> all_files(FileSystem& fs, const std::string& folder) {
  std::map<std::string, std::string> files;
  const auto entries = fs.list(folder);
  if (!entries.is_ok()) return files;
  for (const DirectoryEntry& entry : *entries) {
    const std::string path = path_join(folder, entry.name);
    if (entry.type == FileType::kDirectory) {
      files.merge(all_files(fs, path));
    } else {
      files[path] = read_whole_file(fs, path, uint64_t{1} << 30).value();
    }
  }
  return files;
}

std::vector<std::string> checkpoints_of(FileSystem& fs, const std::string& run_dir) {
  std::vector<std::string> names;
  const auto entries = fs.list(RunPaths{run_dir}.checkpoints());
  for (const DirectoryEntry& entry : *entries) names.push_back(entry.name);
  return names;
}

void overwrite_file(FileSystem& fs, const std::string& path, const std::string& content) {
  const Status status = write_and_sync_file(fs, path, content, OpenMode::kTruncate);
  LOCKSTEP_CHECK(status.is_ok(), status.message());
}

}  // namespace lockstep
