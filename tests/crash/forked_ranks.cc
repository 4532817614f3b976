#include "forked_ranks.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <utility>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/world.h"
#include "tcp_control_plane.h"

namespace lockstep::crash {
namespace {

constexpr double kConnectSeconds = 30;
constexpr size_t kMaxRendezvousBytes = 4096;

using Pipes = std::vector<std::array<int, 2>>;

/// Rank 0's text through a pipe to each rank.
Result<std::string> through_pipes(const Pipes& pipes, int rank, const std::string& text) {
  if (rank == 0) {
    for (const auto& pipe : pipes) {
      if (::write(pipe[1], text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        return io_error("the rendezvous pipe is broken");
    }
    return text;
  }
  std::string received(kMaxRendezvousBytes, '\0');
  const ssize_t n = ::read(pipes[static_cast<size_t>(rank)][0], received.data(), received.size());
  received.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return received;
}

void run_rank(const Pipes& pipes, int rank, RankReport& report,
              const std::function<void(RankSeat&)>& body) {
  const Status status = caught([&]() -> Status {
    if (pipes.size() == 1) {
      WorldOptions options;
      options.log = Log::silent();
      World world = World::solo(options);
      RankSeat seat{rank, world.control_plane(), report};
      body(seat);
      return Status::ok();
    }
    LOCKSTEP_ASSIGN_OR_RETURN(
        auto plane, TcpControlPlane::connect(
                        rank, static_cast<int>(pipes.size()), {"127.0.0.1"},
                        [&](std::string text) { return through_pipes(pipes, rank, text); },
                        Deadline::after_s(kConnectSeconds)));
    RankSeat seat{rank, *plane, report};
    body(seat);
    return Status::ok();
  });
  if (!status.is_ok()) report.set_status(status);
  report.is_done = 1;
}

/// State (R, S, D, T, Z) of each thread of a process, and the kernel's function that it waits in.
std::vector<std::pair<char, std::string>> threads_of(pid_t pid) {
  std::vector<std::pair<char, std::string>> threads;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator(cat("/proc/", pid, "/task"), error)) {
    std::string stat;  // NUMBER (COMMAND) STATE ...
    std::ifstream stat_file(task.path() / "stat");
    std::getline(stat_file, stat);
    std::string waits_in;
    std::ifstream wait_file(task.path() / "wchan");
    std::getline(wait_file, waits_in);
    const size_t end = stat.rfind(") ");
    threads.emplace_back(end == std::string::npos ? '?' : stat[end + 2], waits_in);
  }
  return threads;
}

/// Whether a stop has begun and no thread will run its program again before it is over. The kernel
/// reports that to the parent only once the last thread stands, and one that ends waits for its
/// stopped io_uring worker (io_wq_put_and_exit): that is never.
bool stands_still(pid_t pid) {
  const auto threads = threads_of(pid);
  const auto is_in = [](char state) {
    return [state](const auto& each) { return each.first == state; };
  };
  return std::any_of(threads.begin(), threads.end(), is_in('T')) &&
         std::all_of(threads.begin(), threads.end(),
                     [](const auto& each) { return each.first == 'T' || each.first == 'D'; });
}

}  // namespace

void RankReport::set_status(const Status& status) {
  code = static_cast<int>(status.code());
  const size_t size = std::min(status.message().size(), sizeof(message) - 1);
  std::memcpy(message, status.message().data(), size);
  message[size] = '\0';
}

Status RankReport::status() const {
  return code == 0 ? Status::ok() : Status(static_cast<StatusCode>(code.load()), message);
}

ForkedRanks::ForkedRanks(int num_ranks)
    : pids_(static_cast<size_t>(num_ranks)),
      has_ended_(static_cast<size_t>(num_ranks)),
      is_frozen_(static_cast<size_t>(num_ranks)) {
  void* shared = ::mmap(nullptr, sizeof(RankReport) * pids_.size(), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  LOCKSTEP_CHECK(shared != MAP_FAILED, "no shared memory");
  reports_ = static_cast<RankReport*>(shared);
  for (size_t i = 0; i < pids_.size(); ++i) new (reports_ + i) RankReport;
}

ForkedRanks::~ForkedRanks() {
  for (size_t i = 0; i < pids_.size(); ++i) {
    if (pids_[i] <= 0 || has_ended_[i] != 0) continue;
    ::kill(pids_[i], SIGKILL);
    ::waitpid(pids_[i], nullptr, 0);
  }
  ::munmap(reports_, sizeof(RankReport) * pids_.size());
}

void ForkedRanks::start(const std::function<void(RankSeat&)>& body) {
  Pipes pipes(pids_.size());
  for (auto& pipe : pipes) LOCKSTEP_CHECK(::pipe(pipe.data()) == 0, "no pipe");
  for (size_t i = 0; i < pids_.size(); ++i) {
    const pid_t pid = ::fork();
    LOCKSTEP_CHECK(pid >= 0, "no process");
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::setpgid(0, i == 0 ? 0 : pids_[0]);
      run_rank(pipes, static_cast<int>(i), reports_[i], body);
      ::_exit(0);
    }
    pids_[i] = pid;
    ::setpgid(pid, pids_[0]);
  }
  for (auto& pipe : pipes) {
    ::close(pipe[0]);
    ::close(pipe[1]);
  }
}

int ForkedRanks::acknowledged() const {
  int highest = 0;
  for (size_t i = 0; i < pids_.size(); ++i)
    highest = std::max(highest, reports_[i].acknowledged.load());
  return highest;
}

void ForkedRanks::look(int flags) {
  for (size_t i = 0; i < pids_.size(); ++i) {
    if (has_ended_[i] != 0) continue;
    int status = 0;
    if (::waitpid(pids_[i], &status, WNOHANG | flags) != pids_[i]) continue;
    if (WIFSTOPPED(status)) is_frozen_[i] = 1;
    if (WIFEXITED(status) || WIFSIGNALED(status)) has_ended_[i] = 1;
  }
}

bool ForkedRanks::wait_for(double seconds, const std::function<bool()>& question) {
  constexpr int64_t kPauseNs = 300'000;
  const Deadline deadline = Deadline::after_s(seconds);
  while (!question()) {
    if (deadline.has_passed()) return false;
    sleep_ns(kPauseNs);
  }
  return true;
}

bool ForkedRanks::wait(double seconds) {
  const bool is_in_time = wait_for(seconds, [this] {
    look(0);
    return std::count(has_ended_.begin(), has_ended_.end(), 0) == 0;
  });
  if (!is_in_time) send_to_all(SIGKILL);
  return is_in_time || (wait_for(seconds,
                                 [this] {
                                   look(0);
                                   return std::count(has_ended_.begin(), has_ended_.end(), 0) == 0;
                                 }),
                        false);
}

bool ForkedRanks::wait_until_frozen(double seconds) {
  return wait_for(seconds, [this] {
    look(WUNTRACED);
    for (size_t i = 0; i < pids_.size(); ++i) {
      if (has_ended_[i] == 0 && is_frozen_[i] == 0 && !stands_still(pids_[i])) return false;
    }
    return true;
  });
}

void ForkedRanks::send(int world_rank, int signal_number) {
  const auto i = static_cast<size_t>(world_rank);
  if (has_ended_[i] != 0) return;
  ::kill(pids_[i], signal_number);
  if (signal_number == SIGCONT) is_frozen_[i] = 0;
}

void ForkedRanks::send_to_all(int signal_number) {
  for (int rank = 0; rank < num_ranks(); ++rank) send(rank, signal_number);
}

std::string ForkedRanks::thread_states(int world_rank) const {
  const auto i = static_cast<size_t>(world_rank);
  if (has_ended_[i] != 0) return "ended";
  std::string states = is_frozen_[i] != 0 ? "frozen" : "not frozen";
  for (const auto& [state, waits_in] : threads_of(pids_[i]))
    states += cat(" [", std::string(1, state), " ", waits_in, "]");
  return states;
}

void copy_folder(const std::string& from, const std::string& to) {
  std::filesystem::remove_all(to);
  if (std::filesystem::exists(from))
    std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

}  // namespace lockstep::crash
