// Power cuts at every call that changes something, with every fate that POSIX allows to what was
// not synced. The same harness runs protocols that are wrong on purpose: one that it passes would
// prove that it proves nothing.

// Covers: save_protocol.cc run_folder.cc attempt.cc
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <random>

#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

/// Thrown where a process is killed.
struct Killed : std::runtime_error {
  Killed() : std::runtime_error("killed") {}
};

/// What a protocol does to a disk, and whether it told its caller that all went well: that the new
/// state is durable.
using Protocol = std::function<void(FileSystem& fs, bool* acknowledged)>;

struct Rehearsal {
  int num_kill_points = 0;
  bool ends_well = false;  ///< when nobody kills it
  int num_crashes = 0;
  std::vector<std::string> violations;
};

using Fates = std::vector<CrashFate>;

/// All combinations when there are few, else losing all, keeping all, and 24 drawn ones.
std::vector<Fates> fates_to_try(const std::vector<UnsyncedOperation>& operations, uint64_t seed) {
  const auto choices = [](const UnsyncedOperation& operation) {
    std::vector<CrashFate> fates = {{CrashFate::Kind::kLost, 0}, {CrashFate::Kind::kKept, 0}};
    if (operation.kind == UnsyncedOperation::Kind::kData) {
      fates.push_back({CrashFate::Kind::kTorn, operation.size_bytes / 2});
      fates.push_back({CrashFate::Kind::kZeroed, 0});
    }
    return fates;
  };
  size_t num_combinations = 1;
  for (const UnsyncedOperation& operation : operations) {
    num_combinations = std::min<size_t>(num_combinations * choices(operation).size(), 1000);
  }
  const bool is_exhaustive = num_combinations <= 32;
  std::mt19937_64 random(seed);
  std::vector<Fates> all;
  for (size_t i = 0; i < (is_exhaustive ? num_combinations : 26); ++i) {
    Fates fates;
    size_t digits = i;
    for (const UnsyncedOperation& operation : operations) {
      const auto options = choices(operation);
      size_t pick = is_exhaustive ? digits % options.size() : random() % options.size();
      if (!is_exhaustive && i < 2) pick = i;  // losing all, keeping all
      digits /= options.size();
      fates.push_back(options[pick]);
    }
    all.push_back(std::move(fates));
  }
  return all;
}

/// What a new start may find besides the old state or the new one.
struct Allowed {
  bool quarantine = false;  ///< there was a bad checkpoint before the protocol began
  bool nothing = false;     ///< there was no checkpoint before it: as long as none was acknowledged
};

/// Starts anew on what the crash left. Says what is wrong: anything but the old state or the new
/// one, bit for bit, and anything but the new one when that was acknowledged.
std::string judge(FileSystem& fs, const TestState& before, const TestState& after,
                  bool acknowledged, const Allowed& allowed = {}) {
  TestState read(before.schema(), 0);
  const auto restored = restore_state(fs, 1, read);
  if (!restored.is_ok()) return cat("refused: ", restored.status().message());
  if (!restored->has_value()) {
    return allowed.nothing && !acknowledged ? "" : "started from scratch";
  }
  if (!allowed.quarantine && !(*restored)->quarantined.empty())
    return "left something bad under a final name";
  if (acknowledged && !(read == after)) return "lost what was acknowledged";
  if (!(read == before) && !(read == after))
    return "restored neither the old state nor the new one";
  return {};
}

/// Runs the protocol on copies of `disk`, killed before its 1st, 2nd, ... call that changes
/// something, until it ends by itself; after each kill crashes the disk in many ways and judges
/// what a new start makes of it.
Rehearsal rehearse(const MemoryFileSystem& disk, const Protocol& protocol, const TestState& before,
                   const TestState& after, const Allowed& allowed = {}) {
  Rehearsal rehearsal;
  for (uint64_t kill_at = 1;; ++kill_at) {
    const auto copy = disk.after_crash(Fates(disk.unsynced().size(), {CrashFate::Kind::kKept, 0}));
    FaultFileSystem faulty(*copy);
    std::atomic<bool> was_killed = false;
    faulty.set_hook([&](const FileCall& call) {
      if (call.number < kill_at) return;
      was_killed = true;
      throw Killed();
    });
    bool acknowledged = false;
    try {
      protocol(faulty, &acknowledged);
    } catch (const Killed&) {
    }
    ++rehearsal.num_kill_points;
    for (const Fates& fates : fates_to_try(copy->unsynced(), kill_at)) {
      const auto crashed = copy->after_crash(fates);
      ++rehearsal.num_crashes;
      const std::string wrong = judge(*crashed, before, after, acknowledged, allowed);
      if (!wrong.empty())
        rehearsal.violations.push_back(cat("killed before call ", kill_at, ": ", wrong));
    }
    rehearsal.ends_well = acknowledged;
    if (!was_killed) return rehearsal;
  }
}

class Crash : public ::testing::Test {
 protected:
  Crash() : before_(small_schema(), 1), after_(small_schema(), 2) {
    LOCKSTEP_CHECK(save_state(disk_, 2, before_, 10).is_ok(), "the first save");
    disk_.crash_keeping_all();
  }

  Protocol saving(int num_ranks, const TweakOptions& tweak = {},
                  SaveMode mode = SaveMode::kInFront) {
    return [this, num_ranks, tweak, mode](FileSystem& fs, bool* acknowledged) {
      *acknowledged = save_state(fs, num_ranks, after_, 20, tweak, mode).is_ok();
    };
  }

  MemoryFileSystem disk_;
  TestState before_;
  TestState after_;
};

TEST_F(Crash, ASaveLeavesTheOldOrTheNewStateWhereverItIsCut) {
  for (int num_ranks : {1, 2, 3}) {
    const Rehearsal rehearsal = rehearse(disk_, saving(num_ranks), before_, after_);
    EXPECT_THAT(rehearsal.violations, ::testing::IsEmpty());
    EXPECT_GT(rehearsal.num_kill_points, 20);
    EXPECT_TRUE(rehearsal.ends_well);
    RecordProperty(cat("crashes_", num_ranks), rehearsal.num_crashes);
  }
}

TEST_F(Crash, ASaveBehindTrainingDoesToo) {
  const Rehearsal rehearsal = rehearse(disk_, saving(2, {}, SaveMode::kBehind), before_, after_);
  EXPECT_THAT(rehearsal.violations, ::testing::IsEmpty());
  EXPECT_GT(rehearsal.num_kill_points, 20);
  EXPECT_TRUE(rehearsal.ends_well);
}

TEST_F(Crash, RetentionNeverLeavesTheRunWithoutACheckpoint) {
  const auto keep_one = [](CheckpointerOptions& options) { options.retention.keep_latest = 1; };
  const Rehearsal rehearsal = rehearse(disk_, saving(2, keep_one), before_, after_);
  EXPECT_THAT(rehearsal.violations, ::testing::IsEmpty());
  // And it did delete: otherwise nothing was rehearsed.
  bool acknowledged = false;
  saving(1, keep_one)(disk_, &acknowledged);
  EXPECT_FALSE(exists(disk_, "/run/checkpoints/gen-000001-step-0000000010").value());
}

TEST_F(Crash, AStartThatIsCutInTheMiddleOfCleaningUpCanBeRepeated) {
  {
    FaultFileSystem faulty(disk_);
    faulty.set_hook([](const FileCall& call) {
      if (call.operation == FileOperation::kRename) throw Killed();
    });
    EXPECT_THROW(save_state(faulty, 2, after_, 20).is_ok(), Killed);
    disk_.crash_keeping_all();  // a whole partial folder is left
  }
  const Protocol starting = [this](FileSystem& fs, bool* acknowledged) {
    TestState read(before_.schema(), 0);
    *acknowledged = restore_state(fs, 2, read).is_ok();
  };
  const Rehearsal rehearsal = rehearse(disk_, starting, before_, before_);
  EXPECT_THAT(rehearsal.violations, ::testing::IsEmpty());
  EXPECT_TRUE(rehearsal.ends_well);
}

TEST_F(Crash, TheVeryFirstSaveSurvivesOnceAcknowledged) {
  const auto deep = [](CheckpointerOptions& options) { options.run_dir = "/a/b/run"; };
  for (uint64_t seed = 0; seed < 40; ++seed) {
    MemoryFileSystem fs;  // not even the run folder's parents are there
    ASSERT_TRUE(save_state(fs, 2, after_, 20, deep).is_ok());
    fs.crash_at_random(seed);
    TestState read(after_.schema(), 0);
    const auto restored = restore_state(fs, 1, read, {}, deep);
    ASSERT_TRUE(restored.is_ok() && restored->has_value());
    EXPECT_TRUE(read == after_);
  }
}

/// A start that is killed at each of its calls leaves the run folder half made; a later one saves,
/// and what that one acknowledged survives the power cut.
TEST_F(Crash, AKilledStartTakesNothingFromTheNextOnesSave) {
  const auto deep = [](CheckpointerOptions& options) { options.run_dir = "/a/b/run"; };
  int num_killed = 0;
  for (uint64_t kill_at = 1;; ++kill_at) {
    MemoryFileSystem fs;
    FaultFileSystem faulty(fs);
    bool was_killed = false;
    faulty.set_hook([&](const FileCall& call) {
      if (call.number < kill_at) return;
      was_killed = true;
      throw Killed();
    });
    TestState read(after_.schema(), 0);
    try {
      restore_state(faulty, 1, read, {}, deep).status().ignore();
    } catch (const Killed&) {
    }
    if (!was_killed) break;
    ++num_killed;
    ASSERT_TRUE(save_state(fs, 2, after_, 20, deep).is_ok());
    for (const Fates& fates : fates_to_try(fs.unsynced(), kill_at)) {
      const auto crashed = fs.after_crash(fates);
      const auto restored = restore_state(*crashed, 1, read, {}, deep);
      ASSERT_TRUE(restored.is_ok()) << restored.status().message();
      ASSERT_TRUE(restored->has_value()) << "killed before call " << kill_at;
      EXPECT_TRUE(read == after_);
    }
  }
  EXPECT_GT(num_killed, 8);
}

TEST_F(Crash, QuarantineKeepsTheOlderOneWhereverItIsCut) {
  ASSERT_TRUE(save_state(disk_, 2, after_, 20).is_ok());
  const std::string bad = "/run/checkpoints/gen-000002-step-0000000020/manifest.json";
  overwrite_file(disk_, bad, "");
  disk_.crash_keeping_all();
  const Protocol starting = [this](FileSystem& fs, bool* acknowledged) {
    TestState read(before_.schema(), 0);
    const auto restored = restore_state(fs, 1, read);
    *acknowledged = restored.is_ok() && (*restored)->quarantined.size() == 1U;
  };
  const Rehearsal rehearsal = rehearse(disk_, starting, before_, before_, {.quarantine = true});
  EXPECT_THAT(rehearsal.violations, ::testing::IsEmpty());
  EXPECT_TRUE(rehearsal.ends_well);
}

/// The only checkpoint is bad: however the start is cut, no later one may begin from scratch.
TEST_F(Crash, QuarantineOfTheOnlyOneNeverEndsInAStartFromScratch) {
  overwrite_file(disk_, "/run/checkpoints/gen-000001-step-0000000010/manifest.json", "");
  disk_.crash_keeping_all();
  for (uint64_t kill_at = 1;; ++kill_at) {
    const auto copy = disk_.after_crash({});
    FaultFileSystem faulty(*copy);
    bool was_killed = false;
    faulty.set_hook([&](const FileCall& call) {
      if (call.number < kill_at) return;
      was_killed = true;
      throw Killed();
    });
    TestState read(before_.schema(), 0);
    try {
      EXPECT_FALSE(restore_state(faulty, 1, read).is_ok());
    } catch (const Killed&) {
    }
    for (const Fates& fates : fates_to_try(copy->unsynced(), kill_at)) {
      EXPECT_EQ(restore_state(*copy->after_crash(fates), 1, read).status().code(),
                StatusCode::kCorruption)
          << "killed before call " << kill_at;
    }
    if (!was_killed) break;
  }
}

TEST_F(Crash, EachNumberedStepCanBeTheLast) {
  for (int last_step = 1; last_step <= 9; ++last_step) {
    for (int culprit : {0, 1}) {
      const auto copy = disk_.after_crash({});
      std::vector<std::vector<int>> seen(2);
      std::vector<SaveOutcome> outcomes(2, SaveOutcome::kNone);
      EXPECT_THROW(with_ranks(2,
                              [&](World& world) -> Status {
                                CheckpointerOptions options =
                                    quiet_options(*copy, world.control_plane());
                                options.on_save_step = [&](int step, int world_rank) {
                                  seen[static_cast<size_t>(world_rank)].push_back(step);
                                  // Only rank 0 runs 5 to 7 and 9.
                                  const bool is_shared = step <= 4 || step == 8;
                                  if (step >= last_step && world_rank == (is_shared ? culprit : 0))
                                    throw Killed();
                                };
                                auto checkpointer = Checkpointer::open(options);
                                const OwnedState owned = after_.owned(world.world_rank(), 2);
                                SaveRequest request;
                                request.schema = &after_.schema();
                                request.owned = &owned;
                                request.step = 20;
                                const auto saved = checkpointer->save(request);
                                outcomes[static_cast<size_t>(world.world_rank())] =
                                    checkpointer->last_outcome();
                                return saved.status();
                              })
                       .is_ok(),
                   Killed);
      EXPECT_TRUE(std::is_sorted(seen[0].begin(), seen[0].end()));
      if (culprit == 0 && last_step >= 5 && last_step <= 8) {
        EXPECT_EQ(outcomes[1], SaveOutcome::kUnknown);
      }
      if (culprit == 0 && last_step <= 4) {
        EXPECT_EQ(outcomes[1], SaveOutcome::kFailed);
      }
      copy->crash_losing_all();
      EXPECT_EQ(judge(*copy, before_, after_, last_step == 9), "")
          << "step " << last_step << " of rank " << culprit;
    }
  }
}

/// A save by one rank as many write it. All flags set: correct.
struct NaiveProtocol {
  bool sync_files = true;
  bool sync_partial = true;
  bool sync_parent = true;
  bool data_before_commit = true;
  bool fresh_partial = true;
  bool delete_old_last = true;
  GenerationName name = {2, 20};
  GenerationName old = {1, 10};
};

class WrongProtocol : public Crash {
 protected:
  using Files = std::map<std::string, std::string>;

  /// A true save under a generation of choice: the one after that of a folder being deleted.
  static std::string save_as(FileSystem& fs, TestState& state, const GenerationName& name) {
    const std::string doomed =
        path_join("/run/checkpoints", doomed_folder({{name.generation - 1, 1}, 1}));
    const auto saved = save_state(fs, 1, state, name.step, [&](CheckpointerOptions& options) {
      options.on_save_step = [&](int step, int) {
        if (step == 1) {
          EXPECT_TRUE(fs.make_dir(doomed).is_ok());
        }
      };
    });
    EXPECT_EQ(saved->generation, name.generation);
    EXPECT_TRUE(remove_tree(fs, doomed).is_ok());
    return saved->path;
  }

  /// The files of a true save of `after_`, by name.
  Files true_files(const GenerationName& name = {2, 20}) {
    MemoryFileSystem fs;
    const std::string folder = save_as(fs, after_, name);
    Files files;
    for (const auto& [path, content] : all_files(fs, folder))
      files[path.substr(folder.size() + 1)] = content;
    return files;
  }

  static void write(FileSystem& fs, const std::string& folder, const std::string& name,
                    const std::string& content, const NaiveProtocol& how) {
    auto opened = fs.open_write(path_join(folder, name), OpenMode::kCreateExclusive);
    // One that thinks that what is there is what it wrote before.
    if (!how.fresh_partial && opened.status().code() == StatusCode::kAlreadyExists) return;
    auto file = std::move(opened).value();
    EXPECT_TRUE(file->write(std::as_bytes(std::span(content))).is_ok());
    if (how.sync_files) {
      EXPECT_TRUE(file->sync().is_ok());
    }
  }

  static void write_shards(FileSystem& fs, const std::string& folder, const Files& files,
                           const NaiveProtocol& how) {
    for (const auto& [name, content] : files) {
      if (name != kManifestFile) write(fs, folder, name, content, how);
    }
  }

  Protocol naive(const NaiveProtocol& how) {
    return [files = true_files(how.name), how](FileSystem& fs, bool* acknowledged) {
      const std::string root = "/run/checkpoints";
      const std::string target = path_join(root, generation_folder(how.name));
      const std::string old = path_join(root, generation_folder(how.old));
      const std::string partial = path_join(root, partial_folder({how.name, 1}));
      if (!how.delete_old_last) {
        EXPECT_TRUE(remove_tree(fs, old).is_ok());
      }
      const Status made = fs.make_dir(partial);
      EXPECT_TRUE(made.is_ok() || !how.fresh_partial);
      if (how.data_before_commit) write_shards(fs, partial, files, how);
      write(fs, partial, std::string(kManifestFile), files.at(std::string(kManifestFile)), how);
      if (how.sync_partial) {
        EXPECT_TRUE(fs.sync_dir(partial).is_ok());
      }
      EXPECT_TRUE(fs.rename(partial, target).is_ok());
      if (!how.data_before_commit) {
        write_shards(fs, target, files, how);
        EXPECT_TRUE(fs.sync_dir(target).is_ok());
      }
      if (how.sync_parent) {
        EXPECT_TRUE(fs.sync_dir(root).is_ok());
      }
      *acknowledged = true;
      if (how.delete_old_last) {
        EXPECT_TRUE(remove_tree(fs, old).is_ok());
      }
    };
  }

  std::vector<std::string> violations(const NaiveProtocol& how) {
    return rehearse(disk_, naive(how), before_, after_).violations;
  }
};

TEST_F(WrongProtocol, TheHarnessPassesTheRightOrder) {
  NaiveProtocol how;
  EXPECT_THAT(violations(how), ::testing::IsEmpty());
}

TEST_F(WrongProtocol, RenameWithoutSyncFails) {
  NaiveProtocol how;
  how.sync_files = false;
  how.sync_partial = false;
  EXPECT_THAT(violations(how), ::testing::Not(::testing::IsEmpty()));
}

TEST_F(WrongProtocol, DataThatIsNeverSyncedFails) {
  NaiveProtocol how;
  how.sync_files = false;
  EXPECT_THAT(violations(how), ::testing::Not(::testing::IsEmpty()));
}

TEST_F(WrongProtocol, AnUnsyncedFolderFails) {
  NaiveProtocol how;
  how.sync_partial = false;
  EXPECT_THAT(violations(how), ::testing::Not(::testing::IsEmpty()));
}

TEST_F(WrongProtocol, AnUnsyncedRenameFails) {
  NaiveProtocol how;
  how.sync_parent = false;
  EXPECT_THAT(violations(how), ::testing::Not(::testing::IsEmpty()));
}

TEST_F(WrongProtocol, DeletingTheOldFirstFails) {
  NaiveProtocol how;
  how.delete_old_last = false;
  EXPECT_THAT(violations(how), ::testing::Not(::testing::IsEmpty()));
}

TEST_F(WrongProtocol, AMarkerBeforeTheDataFails) {
  NaiveProtocol how;
  how.data_before_commit = false;
  EXPECT_THAT(violations(how), ::testing::Not(::testing::IsEmpty()));
}

/// An earlier writer left its folder with a torn shard; the next one goes on in it.
TEST_F(WrongProtocol, AReusedPartialFolderFails) {
  NaiveProtocol how;
  const std::string partial = path_join("/run/checkpoints", partial_folder({how.name, 1}));
  ASSERT_TRUE(make_dirs_durable(disk_, partial).is_ok());
  overwrite_file(disk_, path_join(partial, shard_file({0, 1})), "torn");
  disk_.crash_keeping_all();
  how.fresh_partial = false;
  EXPECT_THAT(violations(how), ::testing::Not(::testing::IsEmpty()));
}

/// The run went back from step 10 to step 5, and its generations are its steps.
TEST_F(WrongProtocol, NewestByStepFails) {
  for (int64_t generation : {5, 12}) {
    MemoryFileSystem disk;
    save_as(disk, before_, {10, 10});
    disk.crash_keeping_all();
    NaiveProtocol how;
    how.old = {10, 10};
    how.name = {generation, 5};
    const Rehearsal rehearsal = rehearse(disk, naive(how), before_, after_);
    EXPECT_EQ(rehearsal.violations.empty(), generation > 10);
  }
}

TEST_F(WrongProtocol, AnUnsyncedChainOfFoldersFails) {
  for (bool sync_chain : {true, false}) {
    const Protocol first_save = [&, save = naive({})](FileSystem& fs, bool* acknowledged) {
      for (const char* folder : {"/run", "/run/checkpoints"}) {
        EXPECT_TRUE(fs.make_dir(folder).is_ok());
        if (sync_chain) {
          EXPECT_TRUE(fs.sync_dir(path_parent(folder)).is_ok());
        }
      }
      save(fs, acknowledged);
    };
    const Rehearsal rehearsal =
        rehearse(MemoryFileSystem(), first_save, before_, after_, {.nothing = true});
    EXPECT_EQ(rehearsal.violations.empty(), sync_chain);
  }
}

TEST_F(WrongProtocol, OverwritingInPlaceFails) {
  const Protocol in_place = [this](FileSystem& fs, bool* acknowledged) {
    for (const auto& [name, content] : true_files()) {
      const std::string path = path_join("/run/checkpoints/gen-000001-step-0000000010", name);
      EXPECT_TRUE(write_and_sync_file(fs, path, content, OpenMode::kTruncate).is_ok());
    }
    *acknowledged = true;
  };
  EXPECT_THAT(rehearse(disk_, in_place, before_, after_).violations,
              ::testing::Not(::testing::IsEmpty()));
}

}  // namespace
}  // namespace lockstep
