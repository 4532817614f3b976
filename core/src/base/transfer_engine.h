#pragma once
// Several reads and writes of descriptors under way at once: by io_uring, or by threads where that
// is refused. Engines know no files, no alignment and no repeats; posix_bulk_file.cc does. Each
// file has an engine of its own, so that a forked process never shares one with its parent.
// Thread-safety: one thread at a time.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "lockstep/core/base/deadline.h"

namespace lockstep {

struct Transfer {
  int fd = -1;
  bool is_write = false;
  uint64_t offset = 0;
  std::byte* data = nullptr;  ///< only read from when is_write
  uint64_t bytes = 0;
  uint64_t ticket = 0;
};

struct TransferEnd {
  uint64_t ticket = 0;
  int64_t result = 0;  ///< bytes, or -errno
};

class TransferEngine {
 public:
  /// Requires: nothing under way. (Its memory would be in use.)
  virtual ~TransferEngine() = default;
  /// Returns 0, or the errno of a start that was refused.
  virtual int start(const Transfer& transfer) = 0;
  /// One that ended; nothing when the deadline passed first.
  virtual std::optional<TransferEnd> wait(Deadline deadline) = 0;
  virtual std::string_view name() const = 0;
};

/// Null where the system refuses io_uring.
std::unique_ptr<TransferEngine> make_uring_engine(int max_in_flight);
/// At most `max_in_flight` threads, started as they are needed.
std::unique_ptr<TransferEngine> make_thread_engine(int max_in_flight);

}  // namespace lockstep
