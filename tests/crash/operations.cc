#include "operations.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep::crash {
namespace {

constexpr uint64_t kOld = 1;
constexpr uint64_t kNew = 2;
constexpr uint64_t kNewest = 3;
constexpr int64_t kOldStep = 10;

TensorSpec tensor(std::string name, Dtype dtype, std::vector<int64_t> shape, SpaceRole role) {
  std::vector<int64_t> order;
  for (size_t i = 0; i < shape.size(); ++i) order.push_back(static_cast<int64_t>(i));
  return {std::move(name), {}, dtype, std::move(shape), std::move(order), role};
}

/// Saves `seed` as `step` with two ranks as threads.
std::string save_before(FileSystem& fs, const std::string& run_dir, uint64_t seed, int64_t step) {
  const auto saved = save_state(fs, 2, state_of(seed), step,
                                [&](CheckpointerOptions& options) { options.run_dir = run_dir; });
  LOCKSTEP_CHECK(saved.is_ok(), "preparing a run: ", saved.status().message());
  return saved->path;
}

struct Cut : std::runtime_error {
  Cut() : std::runtime_error("cut") {}
};

/// A save that ended with its process, just before its rename.
void leave_partial(FileSystem& fs, const std::string& run_dir, uint64_t seed, int64_t step) {
  FaultFileSystem faulty(fs);
  faulty.set_hook([](const FileCall& call) {
    if (call.operation == FileOperation::kRename) throw Cut();
  });
  try {
    save_before(faulty, run_dir, seed, step);
  } catch (const Cut&) {
  }
}

void flip_last_byte(FileSystem& fs, const std::string& path) {
  std::string content = read_whole_file(fs, path, uint64_t{1} << 26).value();
  content.back() = static_cast<char>(content.back() ^ 1);
  overwrite_file(fs, path, content);
}

Status start_run(const RankContext& context) {
  LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options_of(context)));
  TestState read(campaign_schema(), 0);
  const OwnedState into =
      owned_by_turns(read, context.plane.world_rank(), context.plane.world_size());
  LOCKSTEP_ASSIGN_OR_RETURN(const auto found, checkpointer.restore(restore_request_of(read, into)));
  if (!found) return internal_error("the run started from scratch");
  context.acknowledged = 1;
  return checkpointer.close();
}

Operation save_operation(std::string name, const SaveRun& run) {
  Operation operation;
  operation.name = std::move(name);
  operation.states = {kOld};
  operation.states.insert(operation.states.end(), run.seeds.begin(), run.seeds.end());
  operation.prepare = [](FileSystem& fs, const std::string& run_dir) {
    save_before(fs, run_dir, kOld, kOldStep);
  };
  operation.run = [run](const RankContext& context) { return save_run(context, run); };
  return operation;
}

Operation start_operation(std::string name,
                          std::function<void(FileSystem&, const std::string&)> spoil) {
  Operation operation;
  operation.name = std::move(name);
  operation.states = {kOld, kOld};
  operation.prepare = [spoil = std::move(spoil)](FileSystem& fs, const std::string& run_dir) {
    save_before(fs, run_dir, kOld, kOldStep);
    spoil(fs, run_dir);
  };
  operation.run = start_run;
  return operation;
}

Operation bad_one_operation(std::string name, const std::string& file) {
  Operation operation =
      start_operation(std::move(name), [file](FileSystem& fs, const std::string& run_dir) {
        flip_last_byte(fs, path_join(save_before(fs, run_dir, kNew, 20), file));
      });
  operation.has_bad = true;
  return operation;
}

Operation retention_operation(std::string name, const RetentionPolicy& policy) {
  SaveRun run{.seeds = {kNew}, .first_step = 40};
  run.tweak = [policy](CheckpointerOptions& options) { options.retention = policy; };
  Operation operation = save_operation(std::move(name), run);
  operation.prepare = [](FileSystem& fs, const std::string& run_dir) {
    save_before(fs, run_dir, 5, 10);
    save_before(fs, run_dir, 6, 20);
    save_before(fs, run_dir, kOld, 30);
  };
  return operation;
}

/// Two saves behind training, each of which deletes an older checkpoint.
Operation keep_behind_operation() {
  const RetentionPolicy policy{{keep_latest(2)}};
  Operation operation = retention_operation("keep-behind", policy);
  SaveRun run{.seeds = {kNew, kNewest}, .first_step = 40, .mode = SaveMode::kBehind};
  run.restores_first = true;
  run.tweak = [policy](CheckpointerOptions& options) { options.retention = policy; };
  operation.states = {kOld, kNew, kNewest};
  operation.run = [run](const RankContext& context) { return save_run(context, run); };
  return operation;
}

/// The last attempt is alive, in the middle of a save.
Operation take_over_operation() {
  SaveRun run{.seeds = {kNew}, .restores_first = true};
  run.tweak = [](CheckpointerOptions& options) {
    options.take_over = true;
    options.is_running = [](const ProcessIdentity&) { return true; };
  };
  Operation operation = save_operation("take-over", run);
  operation.prepare = [](FileSystem& fs, const std::string& run_dir) {
    save_before(fs, run_dir, kOld, kOldStep);
    leave_partial(fs, run_dir, 9, 20);
  };
  return operation;
}

Operation first_save_operation() {
  Operation operation = save_operation("first-save", {.seeds = {kNew}});
  operation.states = {0, kNew};
  operation.prepare = [](FileSystem&, const std::string&) {};
  return operation;
}

/// Told not to resume, over a run that has a checkpoint.
Operation move_aside_operation() {
  Operation operation = save_operation("move-aside", {.seeds = {kNew}});
  operation.moves_aside = true;
  operation.run = [](const RankContext& context) -> Status {
    CheckpointerOptions options = options_of(context);
    options.overwrite = true;
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    TestState read(campaign_schema(), 0);
    const int world_rank = context.plane.world_rank();
    const int world_size = context.plane.world_size();
    const OwnedState into = owned_by_turns(read, world_rank, world_size);
    RestoreRequest request = restore_request_of(read, into);
    request.mode = ResumeMode::kNever;
    LOCKSTEP_RETURN_IF_ERROR(checkpointer.restore(request).status());
    TestState& state = state_of(kNew);
    const OwnedState owned = owned_by_turns(state, world_rank, world_size);
    LOCKSTEP_RETURN_IF_ERROR(checkpointer.save(request_of(state, owned, 20)).status());
    context.acknowledged = 1;
    return checkpointer.close();
  };
  return operation;
}

std::vector<Operation> make_operations() {
  const RetentionPolicy latest{{keep_latest(1)}};
  const RetentionPolicy best{{keep_latest(1), keep_best("loss", BestIs::kLowest, 1)}};
  return {
      save_operation("save", {.seeds = {kNew}}),
      save_operation("save-again",
                     {.seeds = {kNew}, .first_step = kOldStep, .restores_first = true}),
      save_operation("save-twice", {.seeds = {kNew, kNewest}, .goes_on_after_error = true}),
      save_operation("save-behind", {.seeds = {kNew, kNewest}, .mode = SaveMode::kBehind}),
      first_save_operation(),
      start_operation("start", [](FileSystem&, const std::string&) {}),
      start_operation(
          "start-after-cut-save",
          [](FileSystem& fs, const std::string& run_dir) { leave_partial(fs, run_dir, kNew, 20); }),
      bad_one_operation("bad-manifest", std::string(kManifestFile)),
      bad_one_operation("bad-shard", shard_file({1, 2})),
      retention_operation("keep-latest", latest),
      retention_operation("keep-best", best),
      keep_behind_operation(),
      take_over_operation(),
      move_aside_operation(),
  };
}

/// Whether an aside folder of the run holds the state, whole.
bool stands_aside(FileSystem& fs, const std::string& run_dir, uint64_t seed) {
  const auto entries = fs.list(run_dir);
  for (const DirectoryEntry& entry : entries.is_ok() ? *entries : std::vector<DirectoryEntry>()) {
    if (!parse_aside_folder(entry.name)) continue;
    TestState read(campaign_schema(), 0);
    const auto restored = start_alone(fs, run_dir, read, [&](RestoreRequest& request) {
      request.mode = ResumeMode::kPath;
      request.path = path_join(path_join(run_dir, entry.name), generation_folder({1, kOldStep}));
    });
    if (restored.is_ok() && restored->has_value() && read == state_of(seed)) return true;
  }
  return false;
}

}  // namespace

StateSchema campaign_schema() {
  static const StateSchema kSchema = [] {
    StateSchema schema{
        FlatLayout::plan({tensor("weight", Dtype::kF32, {16, 17}, SpaceRole::kTrainable),
                          tensor("half", Dtype::kBF16, {300}, SpaceRole::kTrainable),
                          tensor("mean", Dtype::kF32, {70}, SpaceRole::kBuffer),
                          tensor("count", Dtype::kI64, {}, SpaceRole::kBuffer)})
            .value(),
        {}};
    for (const FlatSpace& space : schema.layout.spaces()) {
      schema.kinds.push_back({space.name, std::string(value_kind(space.role))});
      if (space.role == SpaceRole::kTrainable) schema.kinds.push_back({space.name, "sgd.momentum"});
    }
    return schema;
  }();
  return kSchema;
}

TestState& state_of(uint64_t seed) {
  static std::mutex mutex;
  static std::map<uint64_t, TestState> states;
  std::lock_guard lock(mutex);
  return states.try_emplace(seed, campaign_schema(), seed).first->second;
}

OwnedState owned_by_turns(TestState& state, int world_rank, int world_size) {
  OwnedState owned;
  const StateSchema& schema = state.schema();
  for (size_t k = 0; k < schema.kinds.size(); ++k) {
    if (static_cast<int>(k) % world_size != world_rank) continue;
    const FlatSpace& space = *schema.layout.find(schema.kinds[k].space);
    owned.slices.push_back({schema.kinds[k], {0, space.num_blocks()}, std::span(state.kind(k))});
  }
  return owned;
}

const std::vector<Operation>& operations() {
  static const std::vector<Operation> kAll = make_operations();
  return kAll;
}

const Operation& operation(const std::string& name) {
  for (const Operation& each : operations()) {
    if (each.name == name) return each;
  }
  LOCKSTEP_CHECK(false, "no operation ", name);
  return operations().front();
}

CheckpointerOptions options_of(const RankContext& context) {
  CheckpointerOptions options = quiet_options(context.fs, context.plane);
  options.run_dir = context.run_dir;
  if (context.on_step) {
    options.on_save_step = [on_step = context.on_step](int step, int) { on_step(step); };
  }
  return options;
}

Status save_run(const RankContext& context, const SaveRun& run) {
  CheckpointerOptions options = options_of(context);
  if (run.tweak) run.tweak(options);
  LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
  const int world_rank = context.plane.world_rank();
  const int world_size = context.plane.world_size();
  if (run.restores_first) {
    TestState read(campaign_schema(), 0);
    const OwnedState into = owned_by_turns(read, world_rank, world_size);
    LOCKSTEP_ASSIGN_OR_RETURN(const auto found,
                              checkpointer.restore(restore_request_of(read, into)));
    if (!found) return internal_error("the run started from scratch");
  }
  Status first_error;
  for (size_t i = 0; i < run.seeds.size(); ++i) {
    TestState& state = state_of(run.seeds[i]);
    const OwnedState owned = owned_by_turns(state, world_rank, world_size);
    const SaveRequest request =
        request_of(state, owned, run.first_step + static_cast<int64_t>(i) * run.step_between);
    if (run.mode == SaveMode::kBehind) checkpointer.start_save(request);
    const auto saved =
        run.mode == SaveMode::kBehind ? checkpointer.finish_save() : checkpointer.save(request);
    if (saved.is_ok()) context.acknowledged = static_cast<int>(i) + 1;
    if (first_error.is_ok()) first_error = saved.status();
    if (!first_error.is_ok() && !run.goes_on_after_error) break;
  }
  LOCKSTEP_RETURN_IF_ERROR(first_error);
  return checkpointer.close();
}

Result<std::optional<Restored>> start_alone(FileSystem& fs, const std::string& run_dir,
                                            TestState& read, const TweakRestore& tweak) {
  WorldOptions world_options;
  world_options.log = Log::silent();
  World world = World::solo(world_options);
  CheckpointerOptions options = quiet_options(fs, world.control_plane());
  options.run_dir = run_dir;
  LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
  const OwnedState into = owned_by_turns(read, 0, 1);
  RestoreRequest request = restore_request_of(read, into);
  if (tweak) tweak(request);
  LOCKSTEP_ASSIGN_OR_RETURN(auto found, checkpointer.restore(request));
  LOCKSTEP_RETURN_IF_ERROR(checkpointer.close());
  return found;
}

std::string judge(FileSystem& fs, const std::string& run_dir, const Operation& operation,
                  int acknowledged) {
  TestState read(campaign_schema(), 0);
  const auto restored = start_alone(fs, run_dir, read);
  if (!restored.is_ok()) return cat("refused: ", restored.status().message());
  const uint64_t first = operation.states.front();
  if (!restored->has_value()) {
    if (acknowledged > 0) return "started from scratch after an acknowledged save";
    if (first == 0) return {};
    if (operation.moves_aside && stands_aside(fs, run_dir, first)) return {};
    return "started from scratch";
  }
  if (!operation.has_bad && !(*restored)->quarantined.empty())
    return "left something bad under a final name";
  std::string wrong = "restored a state that was never saved";
  for (size_t i = 0; i < operation.states.size(); ++i) {
    if (operation.states[i] == 0 || !(read == state_of(operation.states[i]))) continue;
    if (static_cast<int>(i) >= acknowledged) return {};
    wrong = "lost what was acknowledged";
  }
  return wrong;
}

std::string judge_going_on(FileSystem& fs, const std::string& run_dir) {
  constexpr uint64_t kNext = 8;
  WorldOptions world_options;
  world_options.log = Log::silent();
  World world = World::solo(world_options);
  std::atomic<int> acknowledged = 0;
  const Status saved = save_run({fs, world.control_plane(), run_dir, acknowledged, {}},
                                {.seeds = {kNext}, .first_step = 90});
  if (!saved.is_ok()) return cat("can't save after it: ", saved.message());
  TestState read(campaign_schema(), 0);
  const auto restored = start_alone(fs, run_dir, read);
  if (!restored.is_ok()) return cat("can't start after it: ", restored.status().message());
  return restored->has_value() && read == state_of(kNext) ? ""
                                                          : "the next save is not what returns";
}

}  // namespace lockstep::crash
