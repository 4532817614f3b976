// Fencing and take-over: a whole attempt is frozen (SIGSTOP to each of its processes) when it
// enters a numbered step, or before any call of the file system; another one takes over, restores
// and saves; then the first goes on. There must be one lineage of generations, nothing durable may
// be lost, and the first one's commit is refused with an error that says why.
#include <signal.h>
#include <unistd.h>

#include "checkpoint/forwarding_file_system.h"
#include "forked_ranks.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/text.h"
#include "operations.h"
#include "parts.h"
#include "run_folder.h"

namespace lockstep::crash {
namespace {

constexpr int kMostRanks = 3;
constexpr int kNumSteps = 9;
constexpr double kMostSeconds = 30;
constexpr uint64_t kOfNewer = 4;
constexpr int64_t kStepOfNewer = 50;

/// Where the older attempt stands still: at a numbered step, or at a call.
struct FreezePoint {
  int world_rank = 0;
  int step = 0;
  uint64_t call = 0;
};

/// Hides attempts beyond `last` from whoever looks for one that has taken over: as a fence that is
/// not there, or a file system that lists an old state for ever.
class BlindToNewer final : public ForwardingFileSystem {
 public:
  BlindToNewer(FileSystem& base, int64_t last) : ForwardingFileSystem(base), last_(last) {}

  Result<std::vector<DirectoryEntry>> list(const std::string& path) override {
    LOCKSTEP_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries,
                              ForwardingFileSystem::list(path));
    std::erase_if(entries, [this](const DirectoryEntry& entry) {
      return parse_attempt_file(entry.name).value_or(0) > last_;
    });
    return entries;
  }

 private:
  int64_t last_;
};

/// When the newer one saves: before the older one goes on, or after that one has ended.
enum class Order : uint8_t { kNewerSavesFirst, kOlderEndsFirst };

class FreezePart {
 public:
  explicit FreezePart(const PartOptions& options)
      : share_(options),
        is_control_(options.number("control", 0) != 0),
        folder_(options, "freezes") {}

  PartResult run() {
    std::vector<std::string> names = {"save-again", "keep-latest", "keep-behind",
                                      "take-over",  "bad-shard",   "move-aside"};
    if (is_control_) names.resize(1);
    int64_t done = 0;
    for (const std::string& name : names) {
      folder_.renew();
      operation(name).prepare(fs_, folder_.base());
      for (int num_ranks = 1; num_ranks <= kMostRanks; ++num_ranks) {
        freeze_each(operation(name), num_ranks);
        tell_progress(++done, static_cast<int64_t>(names.size()) * kMostRanks);
      }
    }
    folder_.remove();
    return std::move(result_);
  }

 private:
  static void freeze(RankReport& report) {
    report.was_hit = 1;
    ::kill(0, SIGSTOP);
  }

  void start_older(ForkedRanks& ranks, const Operation& operation, const FreezePoint& point) {
    copy_folder(folder_.base(), folder_.run_dir());
    const int64_t own_attempt = newest_attempt(fs_, {folder_.base()}).value() + 1;
    ranks.start([&](RankSeat& seat) {
      BlindToNewer blind(fs_, own_attempt);
      FaultFileSystem faulty(is_control_ ? static_cast<FileSystem&>(blind) : fs_);
      const bool is_mine = seat.world_rank == point.world_rank;
      faulty.set_call_hook([&](const FileCall& call) {
        seat.report.num_calls = call.number;
        seat.report.last_operation = static_cast<int>(call.operation);
        if (is_mine && call.number == point.call) freeze(seat.report);
      });
      const auto on_step = [&](int step) {
        seat.report.step = step;
        if (is_mine && step == point.step && seat.report.was_hit == 0) freeze(seat.report);
      };
      seat.report.set_status(operation.run(
          {faulty, seat.plane, folder_.run_dir(), seat.report.acknowledged, on_step}));
    });
  }

  void start_newer(ForkedRanks& ranks, Order order) {
    ranks.start([&, order](RankSeat& seat) {
      RankContext context{fs_, seat.plane, folder_.run_dir(), seat.report.acknowledged, {}};
      seat.report.set_status(run_newer(context, seat.report, order));
    });
  }

  static Status run_newer(const RankContext& context, RankReport& report, Order order) {
    CheckpointerOptions options = options_of(context);
    options.take_over = true;
    options.is_running = [](const ProcessIdentity&) { return true; };
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    const int world_rank = context.plane.world_rank();
    const int world_size = context.plane.world_size();
    TestState read(campaign_schema(), 0);
    const OwnedState into = owned_by_turns(read, world_rank, world_size);
    LOCKSTEP_ASSIGN_OR_RETURN(const auto found,
                              checkpointer.restore(restore_request_of(read, into)));
    report.restored = found ? static_cast<int>(found->generation) : 0;
    if (order == Order::kOlderEndsFirst) {
      LOCKSTEP_RETURN_IF_ERROR(
          context.plane.barrier("all have restored", Deadline::after_s(kMostSeconds)));
      ::raise(SIGSTOP);
    }
    TestState& state = state_of(kOfNewer);
    const OwnedState owned = owned_by_turns(state, world_rank, world_size);
    LOCKSTEP_RETURN_IF_ERROR(checkpointer.save(request_of(state, owned, kStepOfNewer)).status());
    context.acknowledged = 1;
    return checkpointer.close();
  }

  void freeze_each(const Operation& operation, int num_ranks) {
    std::vector<FreezePoint> points;
    {
      ForkedRanks ranks(num_ranks);
      start_older(ranks, operation, {.world_rank = -1});
      if (!ranks.wait(kMostSeconds)) result_.violate(cat(operation.name, ": does not end"));
      for (int rank = 0; rank < num_ranks; ++rank) {
        for (int step = 1; step <= kNumSteps; ++step) points.push_back({rank, step, 0});
        for (uint64_t call = 1; call <= ranks.report(rank).num_calls; ++call)
          points.push_back({rank, 0, call});
      }
    }
    for (const FreezePoint& point : points) {
      for (const Order order : {Order::kNewerSavesFirst, Order::kOlderEndsFirst}) {
        if (share_.has(num_cases_++)) freeze_one(operation, num_ranks, point, order);
      }
    }
  }

  void freeze_one(const Operation& operation, int num_ranks, const FreezePoint& point,
                  Order order) {
    ForkedRanks older(num_ranks);
    start_older(older, operation, point);
    if (!older.wait_until_frozen(kMostSeconds)) {
      std::string how =
          cat(operation.name, " on ", num_ranks, ", step ", point.step, " or call ", point.call,
              " of rank ", point.world_rank, ": neither ends nor freezes:");
      for (int rank = 0; rank < num_ranks; ++rank) {
        const RankReport& report = older.report(rank);
        how +=
            cat(" rank ", rank, " hit ", report.was_hit.load(), " calls ", report.num_calls.load(),
                " step ", report.step.load(), " ", older.thread_states(rank));
      }
      return result_.violate(how);
    }
    const RankReport& frozen = older.report(point.world_rank);
    if (frozen.was_hit == 0) return;  // that rank has no such step
    const std::string where =
        cat(operation.name, " on ", num_ranks, ", frozen in step ", frozen.step.load(), " of rank ",
            point.world_rank, ", before ",
            point.step != 0
                ? "its first call"
                : cat(file_operation_name(static_cast<FileOperation>(frozen.last_operation.load())),
                      " (call ", point.call, ")"),
            order == Order::kNewerSavesFirst ? "" : ", ends before the newer one saves");
    ++result_.count(point.step != 0 ? "freezes_steps" : "freezes_calls");
    const int before_freeze = older.acknowledged();
    const auto newest = newest_attempt(fs_, {folder_.run_dir()});
    const bool has_begun =
        newest.is_ok() && *newest > newest_attempt(fs_, {folder_.base()}).value();
    ForkedRanks newer(num_ranks);
    start_newer(newer, order);
    const bool came = order == Order::kNewerSavesFirst ? newer.wait(kMostSeconds)
                                                       : newer.wait_until_frozen(kMostSeconds);
    older.send_to_all(SIGCONT);
    const bool ended = older.wait(kMostSeconds);
    newer.send_to_all(SIGCONT);
    const bool newer_ended = newer.wait(kMostSeconds);
    if (!came || !ended || !newer_ended)
      result_.violate(cat(where, ": ", ended ? "the newer one hangs" : "the older one hangs"));
    if (has_begun) {
      check(operation, where, before_freeze, older, newer);
    } else {
      check_other_way_round(operation, where, older, newer);
    }
  }

  /// The one that stood still had no attempt yet: it may have begun the later one of the two.
  void check_other_way_round(const Operation& operation, const std::string& where,
                             ForkedRanks& older, ForkedRanks& newer) {
    ++result_.count("freezes_before_the_attempt");
    std::string wrong = check_lineage();
    TestState read(campaign_schema(), 0);
    const auto restored = start_alone(fs_, folder_.run_dir(), read);
    if (!restored.is_ok()) wrong = restored.status().to_string();
    const auto is_back = [&](uint64_t seed) { return read == state_of(seed); };
    const bool is_of_newer = newer.acknowledged() > 0 && is_back(kOfNewer);
    const bool is_of_older = older.acknowledged() > 0 && is_back(operation.states.back());
    if (wrong.empty() && !is_of_newer && !is_of_older) wrong = "nothing acknowledged comes back";
    if (!wrong.empty()) result_.violate(cat(where, ": ", wrong));
  }

  void check(const Operation& operation, const std::string& where, int before_freeze,
             ForkedRanks& older, ForkedRanks& newer) {
    for (int rank = 0; rank < newer.num_ranks(); ++rank) {
      const Status status = newer.report(rank).status();
      if (!status.is_ok())
        return result_.violate(cat(where, ": the newer one fails: ", status.to_string()));
    }
    const bool saves = operation.states.back() != operation.states.front();
    const int last = static_cast<int>(operation.states.size()) - 1;
    for (int rank = 0; rank < older.num_ranks(); ++rank) {
      const Status status = older.report(rank).status();
      const bool is_refused = status.code() == StatusCode::kAborted &&
                              status.message().find("has taken over") != std::string::npos;
      if (saves && older.report(rank).acknowledged < last && !is_refused)
        result_.violate(cat(where, ": rank ", rank, " is not told: ", status.to_string()));
    }
    if (older.acknowledged() > before_freeze) ++result_.count("committed_before_the_take_over");
    const std::string wrong = check_lineage();
    if (!wrong.empty()) result_.violate(cat(where, ": ", wrong));
    TestState read(campaign_schema(), 0);
    const auto restored = start_alone(fs_, folder_.run_dir(), read);
    if (!restored.is_ok() || !restored->has_value() || !(read == state_of(kOfNewer)))
      result_.violate(cat(
          where, ": what the newer one saved does not come back: ", restored.status().to_string()));
  }

  /// Each checkpoint that is there is the child of the one before it.
  std::string check_lineage() {
    const auto folder = list_run_folder(fs_, {folder_.run_dir()});
    if (!folder.is_ok()) return folder.status().to_string();
    std::optional<int64_t> child_of;
    for (const GenerationName& name : folder->committed) {
      if (child_of && *child_of != name.generation)
        return cat("generation ", name.generation, " is there, and the next one is a child of ",
                   *child_of);
      const auto manifest =
          read_manifest(fs_, RunPaths{folder_.run_dir()}.generation(name), nullptr);
      // A bad one may be what the operation began with.
      if (!manifest.is_ok()) return {};
      child_of = manifest->parent_generation;
    }
    return {};
  }

  FileSystem& fs_ = posix_file_system();
  CaseShare share_;
  bool is_control_;  ///< the older attempt has no fence: violations are what must come
  PartFolder folder_;
  uint64_t num_cases_ = 0;
  PartResult result_;
};

}  // namespace

PartResult run_freeze_part(const PartOptions& options) {
  return FreezePart(options).run();
}

}  // namespace lockstep::crash
