// Kills at the seam: ranks as processes on a real disk; one of them, or all, gets SIGKILL before
// its k-th call of the file system, for every k, every rank and 1 to 4 ranks. The next start must
// bring back what was acknowledged, with nobody cleaning up.
#include <signal.h>
#include <unistd.h>

#include <set>

#include "forked_ranks.h"
#include "lockstep/core/base/text.h"
#include "operations.h"
#include "parts.h"

namespace lockstep::crash {
namespace {

constexpr int kMostRanks = 4;
constexpr double kMostSecondsToEnd = 15;

class KillPart {
 public:
  explicit KillPart(const PartOptions& options) : share_(options), folder_(options, "kills") {}

  PartResult run() {
    int64_t done = 0;
    const int64_t total = static_cast<int64_t>(operations().size()) * kMostRanks;
    for (const Operation& operation : operations()) {
      folder_.renew();
      operation.prepare(posix_file_system(), folder_.base());
      for (int num_ranks = 1; num_ranks <= kMostRanks; ++num_ranks) {
        kill_each(operation, num_ranks);
        tell_progress(++done, total);
      }
    }
    folder_.remove();
    return std::move(result_);
  }

 private:
  struct Plan {
    int world_rank = -1;
    uint64_t call = 0;
    bool all = false;
  };

  static void run_rank(RankSeat& seat, const Operation& operation, const std::string& run_dir,
                       const Plan& plan) {
    FaultFileSystem faulty(posix_file_system());
    faulty.set_call_hook([&](const FileCall& call) {
      seat.report.num_calls = call.number;
      seat.report.last_operation = static_cast<int>(call.operation);
      if (seat.world_rank != plan.world_rank || call.number != plan.call) return;
      seat.report.was_hit = 1;
      ::kill(plan.all ? 0 : ::getpid(), SIGKILL);
    });
    seat.report.set_status(operation.run({faulty, seat.plane, run_dir, seat.report.acknowledged,
                                          [&](int step) { seat.report.step = step; }}));
  }

  void run_ranks(ForkedRanks& ranks, const Operation& operation, const Plan& plan) {
    copy_folder(folder_.base(), folder_.run_dir());
    ranks.start([&](RankSeat& seat) { run_rank(seat, operation, folder_.run_dir(), plan); });
  }

  void kill_each(const Operation& operation, int num_ranks) {
    std::vector<uint64_t> num_calls;
    {
      ForkedRanks ranks(num_ranks);
      run_ranks(ranks, operation, {});
      const bool ended = ranks.wait(kMostSecondsToEnd);
      for (int rank = 0; rank < num_ranks; ++rank) {
        num_calls.push_back(ranks.report(rank).num_calls);
        if (!ended || !ranks.report(rank).status().is_ok())
          result_.violate(cat(operation.name, " on ", num_ranks, ": fails when nobody is killed: ",
                              ranks.report(rank).status().message()));
      }
    }
    for (int rank = 0; rank < num_ranks; ++rank) {
      for (uint64_t call = 1; call <= num_calls[static_cast<size_t>(rank)]; ++call) {
        ++result_.count("calls");
        if (!share_.has(num_cases_++)) continue;
        for (const bool all : {false, true}) {
          if (all && num_ranks == 1) continue;
          kill_one(operation, num_ranks, {rank, call, all});
        }
      }
    }
  }

  void kill_one(const Operation& operation, int num_ranks, const Plan& plan) {
    ForkedRanks ranks(num_ranks);
    run_ranks(ranks, operation, plan);
    const bool ended = ranks.wait(kMostSecondsToEnd);
    const RankReport& killed = ranks.report(plan.world_rank);
    const std::string where =
        cat(operation.name, " on ", num_ranks, ": ", plan.all ? "all ranks at call " : "rank ",
            plan.all ? cat(plan.call, " of rank ", plan.world_rank)
                     : cat(plan.world_rank, " at call ", plan.call),
            " (", file_operation_name(static_cast<FileOperation>(killed.last_operation.load())),
            " in step ", killed.step.load(), ")");
    if (!ended) result_.violate(cat(where, ": the others did not end"));
    if (killed.was_hit == 0) {
      ++result_.count("not_reached");
      return;
    }
    ++result_.count("kills");
    if (points_.insert(cat(operation.name, num_ranks, ' ', plan.world_rank, ' ', plan.call)).second)
      ++result_.count("kill_points");
    ++by_operation_[operation.name];
    result_.note("kills", operation.name, cat(by_operation_[operation.name]));
    std::string wrong =
        judge(posix_file_system(), folder_.run_dir(), operation, ranks.acknowledged());
    if (wrong.empty()) wrong = judge_going_on(posix_file_system(), folder_.run_dir());
    if (!wrong.empty()) result_.violate(cat(where, ": ", wrong));
  }

  CaseShare share_;
  PartFolder folder_;
  uint64_t num_cases_ = 0;
  std::set<std::string> points_;
  std::map<std::string, int64_t> by_operation_;
  PartResult result_;
};

}  // namespace

PartResult run_kill_part(const PartOptions& options) {
  return KillPart(options).run();
}

}  // namespace lockstep::crash
