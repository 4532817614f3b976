// Bounded failure: one rank is frozen, gets an error of its disk, is slow, or dies, in any phase of
// a save or a start. Every other rank must have an error that names it, in time; and once the rank
// goes on, so does the run: the next save is durable, whatever the late one still does.
#include <signal.h>
#include <unistd.h>

#include "forked_ranks.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "operations.h"
#include "parts.h"

namespace lockstep::crash {
namespace {

constexpr int kMostRanks = 3;
constexpr double kTimeoutSeconds = 1.5;  ///< of the ranks, in place of ten seconds
constexpr double kMarginSeconds = 1.5;   ///< for a machine that does other things as well
constexpr double kTrainingSeconds = 60;  ///< what training waits for a rank
constexpr double kMostSeconds = 90;
constexpr int64_t kSlowCallNs = 700'000'000;
constexpr uint64_t kSecond = 3;

enum class Trouble : uint8_t { kFrozen, kSlow, kNoSpace, kQuota, kDiskError, kDies };

struct Case {
  Trouble trouble = Trouble::kFrozen;
  bool is_save = true;  ///< else a start
  SaveMode mode = SaveMode::kInFront;
  int num_ranks = 2;
  int culprit = 0;
  uint64_t call = 1;  ///< of the culprit, from the beginning of the save or start
};

std::string_view name_of(Trouble trouble) {
  switch (trouble) {
    case Trouble::kFrozen:
      return "frozen";
    case Trouble::kSlow:
      return "slow";
    case Trouble::kNoSpace:
      return "ENOSPC";
    case Trouble::kQuota:
      return "EDQUOT";
    case Trouble::kDiskError:
      return "EIO";
    case Trouble::kDies:
      return "dies";
  }
  return "";
}

Status error_of(Trouble trouble) {
  if (trouble == Trouble::kNoSpace) return resource_exhausted_error("No space left on device");
  if (trouble == Trouble::kQuota) return resource_exhausted_error("Disk quota exceeded");
  return io_error("Input/output error");
}

class BoundedPart {
 public:
  explicit BoundedPart(const PartOptions& options)
      : share_(options),
        timeout_s_(options.number("control", 0) != 0 ? kTrainingSeconds : kTimeoutSeconds),
        folder_(options, "bounded") {}

  PartResult run() {
    folder_.renew();
    operation("save").prepare(fs_, folder_.base());
    std::vector<Case> cases = all_cases();
    if (timeout_s_ != kTimeoutSeconds) cases = {Case{}};
    for (size_t i = 0; i < cases.size(); ++i) {
      if (!share_.has(i)) continue;
      try_one(cases[i]);
      tell_progress(static_cast<int64_t>(i), static_cast<int64_t>(cases.size()));
    }
    folder_.remove();
    return std::move(result_);
  }

 private:
  static std::vector<Case> all_cases() {
    constexpr uint64_t kMostCalls = 60;
    std::vector<Case> cases;
    for (uint64_t call = 1; call <= kMostCalls; call += 3) {
      for (int num_ranks = 2; num_ranks <= kMostRanks; ++num_ranks) {
        for (int culprit = 0; culprit < num_ranks; ++culprit) {
          for (const Trouble trouble : {Trouble::kFrozen, Trouble::kSlow, Trouble::kNoSpace,
                                        Trouble::kQuota, Trouble::kDiskError, Trouble::kDies}) {
            cases.push_back({trouble, true, SaveMode::kInFront, num_ranks, culprit, call});
            cases.push_back({trouble, true, SaveMode::kBehind, num_ranks, culprit, call});
            cases.push_back({trouble, false, SaveMode::kInFront, num_ranks, culprit, call});
          }
        }
      }
    }
    return cases;
  }

  /// The culprit's hook: what happens to it from `first` on.
  static void trouble(const Case& now, const FileCall& call, uint64_t first, RankReport& report) {
    if (call.number < first) return;
    if (now.trouble == Trouble::kSlow) sleep_ns(kSlowCallNs);
    if (call.number != first) return;
    report.was_hit = 1;
    report.last_operation = static_cast<int>(call.operation);
    if (now.trouble == Trouble::kFrozen) ::raise(SIGSTOP);
    if (now.trouble == Trouble::kDies) ::raise(SIGKILL);
  }

  /// What a rank does: a start or a save that meets the trouble, then, as training does, waits for
  /// all and saves again.
  Status run_rank(RankSeat& seat, const Case& now, const std::string& run_dir) const {
    LOCKSTEP_ASSIGN_OR_RETURN(const auto plane,
                              seat.plane.split("checkpoint", Deadline::after_s(kTrainingSeconds)));
    FaultFileSystem faulty(posix_file_system());
    CheckpointerOptions options =
        options_of({faulty, *plane, run_dir, seat.report.acknowledged, {}});
    options.control_timeout_s = timeout_s_;
    options.data_timeout_s = timeout_s_;
    LOCKSTEP_ASSIGN_OR_RETURN(Checkpointer checkpointer, Checkpointer::open(options));
    return run_opened(seat, now, faulty, checkpointer);
  }

  static Status run_opened(RankSeat& seat, const Case& now, FaultFileSystem& faulty,
                           Checkpointer& checkpointer);

  void try_one(const Case& now);
  void check(const Case& now, const std::string& where, ForkedRanks& ranks);

  FileSystem& fs_ = posix_file_system();
  CaseShare share_;
  double timeout_s_;  ///< of the ranks; as a control one that is no bound: violations must come
  PartFolder folder_;
  std::map<std::string, int64_t> by_trouble_;
  PartResult result_;
};

Status BoundedPart::run_opened(RankSeat& seat, const Case& now, FaultFileSystem& faulty,
                               Checkpointer& checkpointer) {
  const int world_size = seat.plane.world_size();
  LOCKSTEP_RETURN_IF_ERROR(seat.plane.barrier("opened", Deadline::after_s(kTrainingSeconds)));
  if (seat.world_rank == now.culprit) {
    const uint64_t first = faulty.num_all_calls() + now.call;
    faulty.set_call_hook(
        [&, first](const FileCall& call) { trouble(now, call, first, seat.report); });
    if (now.trouble == Trouble::kNoSpace || now.trouble == Trouble::kQuota ||
        now.trouble == Trouble::kDiskError) {
      faulty.fail_call(now.call, error_of(now.trouble));
    }
  }
  const Stopwatch watch;
  Status status;
  if (now.is_save) {
    TestState& state = state_of(2);
    const OwnedState owned = owned_by_turns(state, seat.world_rank, world_size);
    const SaveRequest request = request_of(state, owned, 20);
    if (now.mode == SaveMode::kBehind) checkpointer.start_save(request);
    status = now.mode == SaveMode::kBehind ? checkpointer.finish_save().status()
                                           : checkpointer.save(request).status();
  } else {
    TestState read(campaign_schema(), 0);
    const OwnedState into = owned_by_turns(read, seat.world_rank, world_size);
    status = checkpointer.restore(restore_request_of(read, into)).status();
  }
  seat.report.seconds = watch.elapsed_s();
  seat.report.set_status(status);
  seat.report.outcome = static_cast<int>(checkpointer.last_outcome());
  faulty.set_call_hook({});
  faulty.clear_faults();
  LOCKSTEP_RETURN_IF_ERROR(seat.plane.barrier("training", Deadline::after_s(kTrainingSeconds)));
  TestState& state = state_of(kSecond);
  const OwnedState owned = owned_by_turns(state, seat.world_rank, world_size);
  LOCKSTEP_RETURN_IF_ERROR(checkpointer.save(request_of(state, owned, 30)).status());
  seat.report.acknowledged = 1;
  return checkpointer.close();
}

void BoundedPart::try_one(const Case& now) {
  copy_folder(folder_.base(), folder_.run_dir());
  ForkedRanks ranks(now.num_ranks);
  ranks.start([&](RankSeat& seat) {
    const Status status = run_rank(seat, now, folder_.run_dir());
    seat.report.step = static_cast<int>(status.code());  // of what came after
  });
  RankReport& culprit = ranks.report(now.culprit);
  if (now.trouble == Trouble::kFrozen) {
    // Until it stands still, or was not hit at all; then as long as the others may take and more.
    const Deadline deadline = Deadline::after_s(kMostSeconds);
    while (culprit.was_hit == 0 && culprit.acknowledged == 0 && !deadline.has_passed())
      sleep_ns(1'000'000);
    if (culprit.was_hit != 0)
      sleep_ns(static_cast<int64_t>((kTimeoutSeconds + kMarginSeconds + 0.5) * 1e9));
    ranks.send(now.culprit, SIGCONT);
  }
  const bool ended = ranks.wait(kMostSeconds);
  if (culprit.was_hit == 0 && ended) return;  // it makes fewer calls
  const std::string where = cat(
      now.is_save ? (now.mode == SaveMode::kBehind ? "save behind" : "save") : "start", " on ",
      now.num_ranks, ", rank ", now.culprit, " ", name_of(now.trouble), " at call ", now.call, " (",
      file_operation_name(static_cast<FileOperation>(culprit.last_operation.load())), ")");
  ++result_.count("troubles");
  ++by_trouble_[std::string(name_of(now.trouble))];
  for (const auto& [name, number] : by_trouble_) result_.note("troubles", name, cat(number));
  if (!ended) return result_.violate(cat(where, ": a rank hangs"));
  check(now, where, ranks);
}

void BoundedPart::check(const Case& now, const std::string& where, ForkedRanks& ranks) {
  const std::string culprit = cat("rank ", now.culprit);
  bool has_failed = false;
  for (int rank = 0; rank < now.num_ranks; ++rank) {
    if (rank == now.culprit) continue;
    RankReport& report = ranks.report(rank);
    const Status status = report.status();
    has_failed = has_failed || !status.is_ok();
    // A rank that leaves because of the loss may be named beside it: "ranks 1 and 2".
    const bool is_named = status.message().find(culprit) != std::string::npos ||
                          (status.message().find("ranks ") != std::string::npos &&
                           status.message().find(cat(now.culprit)) != std::string::npos);
    if (!status.is_ok() && !is_named)
      result_.violate(cat(where, ": rank ", rank, " does not name it: ", status.to_string()));
    if (report.seconds > kTimeoutSeconds + kMarginSeconds)
      result_.violate(cat(where, ": rank ", rank, " waited ", fixed(report.seconds, 1), " s"));
    const bool goes_on = now.trouble != Trouble::kDies;
    if (goes_on && report.acknowledged != 1)
      result_.violate(cat(where, ": rank ", rank, " can't save again: code ", report.step.load(),
                          "; first: ", status.to_string()));
  }
  if (has_failed) ++result_.count("failed_as_told");
  TestState read(campaign_schema(), 0);
  const auto restored = start_alone(fs_, folder_.run_dir(), read);
  const bool is_good = restored.is_ok() && restored->has_value();
  const uint64_t expected = ranks.acknowledged() > 0 ? kSecond : 0;
  if (!is_good || !(read == state_of(kSecond) ||
                    (expected == 0 && (read == state_of(1) || read == state_of(2)))))
    result_.violate(cat(where, ": not what was saved comes back: ", restored.status().to_string()));
}

}  // namespace

PartResult run_bounded_part(const PartOptions& options) {
  return BoundedPart(options).run();
}

}  // namespace lockstep::crash
