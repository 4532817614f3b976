// The one place with process-wide state: a signal handler can reach nothing else.

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "lockstep/core/base/deadline.h"
#include "lockstep/launch/lifecycle.h"

namespace lockstep {
namespace {

// Monotonic time at which the first signal came; 0: none did.
std::atomic<int64_t> g_asked_at_ns = 0;
// Written by the thread that watches connections, read by the handler on whichever thread it runs.
std::atomic<bool> g_peer_is_lost = false;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free,
              "a signal handler may not wait for a lock");

void on_signal(int signal_number) {
  if (signal_number == SIGTERM && g_peer_is_lost) return;
  int64_t none = 0;
  const bool is_first = g_asked_at_ns.compare_exchange_strong(none, monotonic_ns());
  if (!is_first && signal_number == SIGTERM) _exit(128 + signal_number);
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // Two that are pending are handled in their order.
  sigaddset(&action.sa_mask, SIGUSR1);
  sigaddset(&action.sa_mask, SIGTERM);
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // A file that has reached its limit is then an error of the write, with a path (74).
  std::signal(SIGXFSZ, SIG_IGN);
}

std::optional<double> asked_to_stop_s_ago() {
  const int64_t at = g_asked_at_ns;
  if (at == 0) return std::nullopt;
  return static_cast<double>(monotonic_ns() - at) * 1e-9;
}

void note_lost_peer() {
  g_peer_is_lost = true;
}

}  // namespace lockstep
