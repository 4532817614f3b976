#include "lockstep/core/base/text.h"
#include "lockstep/core/device/device.h"

namespace lockstep {
namespace {

constexpr double kSpinS = 1e-3;
constexpr int64_t kPauseNs = 20'000;

}  // namespace

void PollPause::operator()() const {
  if (watch_.elapsed_s() > kSpinS) sleep_ns(kPauseNs);
}

Status DeviceQueue::wait_until(const QueueMark& mark, std::string_view what, Deadline deadline) {
  const PollPause pause;
  while (true) {
    Result<bool> passed = has_passed(mark);
    if (!passed.is_ok()) return passed.status().with_context(what);
    if (*passed) return Status::ok();
    if (deadline.has_passed())
      return timeout_error(cat(what, ": the GPU was not done within ", deadline.length_s(), " s"));
    pause();
  }
}

}  // namespace lockstep
