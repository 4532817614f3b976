#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/device/device.h"
#include "lockstep/core/flat/layout.h"

namespace lockstep {
namespace {

constexpr double kSpinS = 1e-3;
constexpr int64_t kPauseNs = 20'000;

}  // namespace

void PollPause::operator()() const {
  if (watch_.elapsed_s() > kSpinS) sleep_ns(kPauseNs);
}

void check_block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes) {
  const auto is_whole = [](int64_t size) { return size >= 0 && size % kTensorAlignBytes == 0; };
  LOCKSTEP_CHECK(reinterpret_cast<uintptr_t>(bytes) % sizeof(uint64_t) == 0 &&
                     is_whole(num_bytes) && is_whole(block_bytes) && block_bytes > 0,
                 "hashes of ", num_bytes, " bytes at ", bytes, " in blocks of ", block_bytes,
                 ": sizes are not multiples of ", kTensorAlignBytes, ", or the place not one of 8");
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
