// Power cuts of a real file system, one process a step: `prepare` a run on a mounted image, `run`
// an operation and cut the power of the file system below it before a call, and, mounted again,
// `judge` what is left. The script mounts.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/text.h"
#include "parts.h"
#include "rehearsal.h"
#include "wrong_protocols.h"

namespace lockstep::crash {
namespace {

/// EXT4_IOC_SHUTDOWN; 2: without flushing the journal.
constexpr unsigned long kShutdown = _IOR('X', 125, uint32_t);
constexpr uint32_t kWithoutFlush = 2;

struct Cut : std::runtime_error {
  Cut() : std::runtime_error("cut") {}
};

/// An operation by its name, or a control by its own.
struct Subject {
  Operation operation;
  Protocol protocol;
};

Subject subject_of(const std::string& name, int num_ranks, const std::string& run_dir) {
  for (const Operation& each : operations()) {
    if (each.name == name) return {each, protocol_of(each, num_ranks, run_dir)};
  }
  for (const Control& control : controls(run_dir)) {
    if (control.name == name) return {control.operation, control.protocol};
  }
  LOCKSTEP_CHECK(false, "neither an operation nor a control: ", name);
  return {};
}

void run_and_cut(const Subject& subject, const std::string& mount, uint64_t cut_at,
                 PartResult* result) {
  const int fd = ::open(mount.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  LOCKSTEP_CHECK(fd >= 0, mount, ": ", std::strerror(errno));
  FaultFileSystem faulty(posix_file_system());
  std::mutex mutex;
  bool was_cut = false;
  faulty.set_hook([&](const FileCall& call) {
    std::lock_guard lock(mutex);
    if (call.number < cut_at) return;
    if (!was_cut) {
      uint32_t how = kWithoutFlush;
      LOCKSTEP_CHECK(::ioctl(fd, kShutdown, &how) == 0, "shutdown of ", mount, ": ",
                     std::strerror(errno));
    }
    was_cut = true;
    throw Cut();
  });
  std::atomic<int> acknowledged = 0;
  try {
    subject.protocol(faulty, acknowledged);
  } catch (const Cut&) {
  }
  if (!was_cut) {
    uint32_t how = kWithoutFlush;  // after the end: what was acknowledged must survive that too
    LOCKSTEP_CHECK(::ioctl(fd, kShutdown, &how) == 0, "shutdown of ", mount);
  }
  ::close(fd);
  result->count("was_cut") = was_cut ? 1 : 0;
  result->count("acknowledged") = acknowledged;
  result->count("calls") = static_cast<int64_t>(faulty.num_mutating_calls());
}

}  // namespace

PartResult run_cut_part(const PartOptions& options) {
  PartResult result;
  const std::string mount = options.text("mount", ".");
  const std::string run_dir = path_join(mount, "run");
  const Subject subject = subject_of(options.text("subject", "save"),
                                     static_cast<int>(options.number("ranks", 1)), run_dir);
  const std::string action = options.text("action", "");
  if (action == "prepare") {
    subject.operation.prepare(posix_file_system(), run_dir);
  } else if (action == "run") {
    run_and_cut(subject, mount, static_cast<uint64_t>(options.number("at", 1)), &result);
  } else if (action == "judge") {
    FileSystem& fs = posix_file_system();
    const auto acknowledged = static_cast<int>(options.number("acknowledged", 0));
    std::string wrong = judge(fs, run_dir, subject.operation, acknowledged);
    if (wrong.empty()) wrong = judge_going_on(fs, run_dir);
    if (!wrong.empty()) result.violate(wrong);
  } else if (action == "list") {
    for (const Operation& each : operations()) result.note("operations", each.name, "");
    for (const Control& each : controls(run_dir))
      result.note("controls", each.name, each.is_wrong ? "wrong" : "right");
  } else {
    LOCKSTEP_CHECK(false, "--action prepare, run, judge or list");
  }
  return result;
}

}  // namespace lockstep::crash
