// The one place with process-wide state: a signal handler can reach nothing else.

#include <unistd.h>

#include <csignal>

#include "lockstep/launch/lifecycle.h"

namespace lockstep {
namespace {

volatile std::sig_atomic_t g_stop_requests = 0;
volatile std::sig_atomic_t g_peer_is_lost = 0;

void on_signal(int signal_number) {
  if (signal_number == SIGTERM && g_peer_is_lost != 0) return;
  if (g_stop_requests != 0) _exit(128 + signal_number);
  g_stop_requests = 1;
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_was_requested() {
  return g_stop_requests != 0;
}

void note_lost_peer() {
  g_peer_is_lost = 1;
}

}  // namespace lockstep
