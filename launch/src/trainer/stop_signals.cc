// The one place with process-wide state: a signal handler can reach nothing else.

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "lockstep/launch/lifecycle.h"

namespace lockstep {
namespace {

std::atomic<bool> g_stop_is_requested = false;
// Written by the thread that watches connections, read by the handler on whichever thread it runs.
std::atomic<bool> g_peer_is_lost = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not wait for a lock");

void on_signal(int signal_number) {
  if (signal_number == SIGTERM && g_peer_is_lost) return;
  if (g_stop_is_requested.exchange(true)) _exit(128 + signal_number);
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // A file that has reached its limit is then an error of the write, with a path (74).
  std::signal(SIGXFSZ, SIG_IGN);
}

bool stop_was_requested() {
  return g_stop_is_requested;
}

void note_lost_peer() {
  g_peer_is_lost = true;
}

}  // namespace lockstep
