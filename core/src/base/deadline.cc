#include "lockstep/core/base/deadline.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <thread>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/process.h"
#include "lockstep/core/base/wait.h"

namespace lockstep {

int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t wall_clock_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string utc_text(int64_t wall_ns) {
  std::time_t seconds = static_cast<std::time_t>(wall_ns / 1'000'000'000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char buffer[32];
  size_t n = std::strftime(buffer, sizeof(buffer), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return std::string(buffer, n);
}

void sleep_ns(int64_t ns) {
  std::this_thread::sleep_for(std::chrono::nanoseconds(ns));
}

Deadline Deadline::after_s(double seconds) {
  Deadline deadline;
  deadline.length_s_ = seconds;
  deadline.at_ns_ = monotonic_ns() + static_cast<int64_t>(std::clamp(seconds, 0.0, 4e9) * 1e9);
  return deadline;
}

void wait_at_most(std::condition_variable& changed, std::unique_lock<std::mutex>& lock,
                  double seconds) {
  // No longer than what the clock can hold once it is added.
  changed.wait_for(lock, std::chrono::duration<double>(std::clamp(seconds, 0.0, 3600.0)));
}

double process_age_s() {
  static const int64_t first_call_ns = monotonic_ns();
  std::optional<uint64_t> start_ticks = process_start_ticks(process_id());
  timespec since_boot{};
  // The kernel counts a process's start on the clock that goes on while the machine sleeps.
  if (!start_ticks || clock_gettime(CLOCK_BOOTTIME, &since_boot) != 0)
    return static_cast<double>(monotonic_ns() - first_call_ns) * 1e-9;
  double now_s =
      static_cast<double>(since_boot.tv_sec) + static_cast<double>(since_boot.tv_nsec) * 1e-9;
  double start_s = static_cast<double>(*start_ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return std::max(now_s - start_s, 0.0);
}

double Deadline::remaining_s() const {
  return static_cast<double>(std::max<int64_t>(at_ns_ - monotonic_ns(), 0)) * 1e-9;
}

}  // namespace lockstep
