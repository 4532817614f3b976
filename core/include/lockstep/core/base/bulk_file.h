#pragma once
// Large files: transfers of whole pieces at any position, several under way at once, past the page
// cache where the disk allows it. FileSystem::create_bulk and open_bulk give them out.
// Alignment: offset, size and address of every transfer are multiples of kBulkAlignBytes; a last
// piece is padded by the caller and set_size() cuts the file to its exact end.
// Memory of a transfer belongs to the file from start to wait_one(). The destructor waits for what
// is under way: until then the kernel may touch that memory. Thread-safety: one thread at a time.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// What direct I/O needs on the disks of today; where one needs more, the file goes through the
/// page cache.
inline constexpr uint64_t kBulkAlignBytes = 4096;
/// `bytes` rounded up to a multiple of kBulkAlignBytes.
constexpr uint64_t bulk_align_up(uint64_t bytes) {
  return (bytes + kBulkAlignBytes - 1) / kBulkAlignBytes * kBulkAlignBytes;
}

constexpr bool is_bulk_aligned(uint64_t number) {
  return number % kBulkAlignBytes == 0;
}
/// Whether a transfer is one that files may be asked for: some bytes, aligned as said above.
inline bool is_bulk_transfer(uint64_t offset_bytes, const std::byte* data, uint64_t bytes) {
  return bytes > 0 && is_bulk_aligned(offset_bytes) && is_bulk_aligned(bytes) &&
         is_bulk_aligned(reinterpret_cast<uintptr_t>(data));
}

enum class BulkMethod : uint8_t {
  kAuto,      ///< the first of the following that the system allows
  kUring,     ///< direct I/O through io_uring
  kThreads,   ///< direct I/O by a pool of threads
  kBuffered,  ///< through the page cache, by a pool of threads
};

struct BulkOptions {
  BulkMethod method = BulkMethod::kAuto;
  uint64_t expected_bytes = 0;  ///< over all transfers; for a new file room is set aside
  int max_in_flight = 8;        ///< at least 1
  /// Reads take what the page cache holds from there. Not for a look at what the disk itself has.
  bool may_read_cache = true;
};

/// A transfer that ended.
struct BulkEnd {
  uint64_t ticket = 0;
  uint64_t bytes = 0;  ///< fewer than asked only when a read met the end of the file
};

class BulkFile {
 public:
  virtual ~BulkFile() = default;
  /// Waits for one transfer, whichever ends first. Requires: one is under way.
  /// Errors: kIoError, kResourceExhausted with path and operation; kTimeout naming the file. After
  /// an error only the destructor may be called.
  virtual Result<BulkEnd> wait_one(Deadline deadline) = 0;
  virtual int num_in_flight() const = 0;
  /// How the bytes travel, for reports: "io_uring, direct", "threads, direct", "threads, buffered".
  virtual std::string_view method() const = 0;
};

class BulkWritableFile : public BulkFile {
 public:
  /// Begins to write `bytes` at `offset_bytes`; wait_one() tells of its end by `ticket`.
  /// Requires: fewer than max_in_flight under way. Errors: as wait_one.
  virtual Status start_write(uint64_t offset_bytes, std::span<const std::byte> bytes,
                             uint64_t ticket) = 0;
  /// Sets the exact size. Requires: nothing under way. Errors: as wait_one.
  virtual Status set_size(uint64_t size_bytes) = 0;
  /// Makes bytes and size durable. Requires: nothing under way. A failure is final: what the file
  /// holds is unknown, do not retry. Errors: as wait_one.
  virtual Status sync() = 0;
  /// Idempotent. The destructor closes and drops the status. Errors: as wait_one.
  virtual Status close() = 0;
};

class BulkReadableFile : public BulkFile {
 public:
  /// Begins to read `into` from `offset_bytes`. Requires: fewer than max_in_flight under way.
  /// Errors: as wait_one.
  virtual Status start_read(uint64_t offset_bytes, std::span<std::byte> into, uint64_t ticket) = 0;
  /// Errors: kIoError.
  virtual Result<uint64_t> size_bytes() const = 0;
};

}  // namespace lockstep
