#include "peer_command.h"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "lockstep/core/base/text.h"

extern "C" char** environ;

namespace lockstep {
namespace {

constexpr size_t kLastWords = 2000;
// What Open MPI, PMIx and Slurm tell a rank about its place.
constexpr std::string_view kLauncherPrefixes[] = {"OMPI_COMM_", "OMPI_UNIVERSE_", "OMPI_MCA_orte",
                                                  "OMPI_MCA_ess", "OMPI_MCA_pmix", "PMIX_",
                                                  "ORTE_", "PRTE_", "SLURM_PROCID", "SLURM_LOCALID"};

std::vector<char*> environment_of_peer() {
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const bool is_launchers =
        std::any_of(std::begin(kLauncherPrefixes), std::end(kLauncherPrefixes),
                    [&](std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; });
    if (!is_launchers) variables.push_back(*variable);
  }
  variables.push_back(nullptr);
  return variables;
}

/// In the child, between fork and exec: calls that are safe there alone.
[[noreturn]] void become(const char* command, char* const* environment, int out) {
  setpgid(0, 0);
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof(all));  // the kernel takes what there is and what a job may have
  sched_setaffinity(0, sizeof(all), &all);
  dup2(out, STDOUT_FILENO);
  const char* const words[] = {"sh", "-c", command, nullptr};
  execve("/bin/sh", const_cast<char* const*>(words), environment);
  _exit(127);
}

/// What comes out of `in` until its end. Errors: kTimeout.
Status read_to_end(int in, Deadline deadline, std::string* text) {
  char buffer[4096];
  while (true) {
    pollfd ready{in, POLLIN, 0};
    const int milliseconds = static_cast<int>(std::min(deadline.remaining_s() * 1e3 + 1, 1e6));
    if (poll(&ready, 1, milliseconds) < 0 && errno != EINTR) return io_error(std::strerror(errno));
    if (deadline.has_passed()) return timeout_error("it was not done in time");
    if (ready.revents == 0) continue;
    const ssize_t got = read(in, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return io_error(std::strerror(errno));
    if (got == 0) return Status::ok();
    text->append(buffer, static_cast<size_t>(got));
  }
}

std::optional<PeerStep> step_in(const std::string& text) {
  for (size_t end = text.size(); end > 0;) {
    const size_t newline = text.rfind('\n', end - 1);
    const size_t first = newline == std::string::npos ? 0 : newline + 1;
    if (end > first && text[first] == '{') {
      const auto json = nlohmann::json::parse(text.substr(first, end - first), nullptr, false);
      const auto has = [&](const char* key) { return json.contains(key) && json[key].is_number(); };
      if (json.is_discarded() || !has("step_ms") || !has("samples_per_step")) return std::nullopt;
      return PeerStep{json["step_ms"].get<double>(), json["samples_per_step"].get<int64_t>()};
    }
    end = newline == std::string::npos ? 0 : newline;
  }
  return std::nullopt;
}

}  // namespace

Result<PeerStep> step_of_peer(const std::string& command, Deadline deadline) {
  int ends[2];  // ours, and its standard output
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return io_error(cat("socketpair: ", std::strerror(errno)));
  const std::vector<char*> environment = environment_of_peer();
  const pid_t child = fork();
  if (child == 0) become(command.c_str(), environment.data(), ends[1]);
  close(ends[1]);
  std::string text;
  Status status = child < 0 ? io_error(cat("fork: ", std::strerror(errno)))
                            : read_to_end(ends[0], deadline, &text);
  close(ends[0]);
  const auto failed = [&](std::string_view what) {
    return cat("the peer '", command, "': ", what, "; its last words:\n",
               text.substr(text.size() - std::min(text.size(), kLastWords)));
  };
  if (child > 0) {
    if (!status.is_ok()) kill(-child, SIGKILL);
    int how = 0;
    while (waitpid(child, &how, 0) < 0 && errno == EINTR) {
    }
    if (status.is_ok() && how != 0) {
      return invalid_argument_error(failed(WIFEXITED(how) ? cat("exit code ", WEXITSTATUS(how))
                                                          : cat("signal ", WTERMSIG(how))));
    }
  }
  if (status.code() == StatusCode::kTimeout) return timeout_error(failed(status.message()));
  LOCKSTEP_RETURN_IF_ERROR(status);
  if (const auto step = step_in(text)) return *step;
  return invalid_argument_error(
      failed("it must end with a line of JSON that has \"step_ms\" and \"samples_per_step\", as "
             "benchmarks/peers/ddp.py does"));
}

}  // namespace lockstep
