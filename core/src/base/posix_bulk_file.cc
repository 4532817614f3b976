// Bulk files over POSIX. Which way the bytes travel is found out by trying: io_uring may be refused
// by the kernel or a container, direct I/O by the file system at open or at the first transfer. A
// transfer that was refused the direct way (EINVAL) is repeated through the page cache; one that
// ended short is continued, EINTR and EAGAIN are repeated.
#include "posix_bulk_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "lockstep/core/base/text.h"
#include "posix_calls.h"
#include "transfer_engine.h"

namespace lockstep {
namespace {

constexpr double kDrainSliceS = 60;

/// The transfers of one descriptor.
class Transfers {
 public:
  Transfers(int fd, const std::string& path, const BulkOptions& options)
      : fd_(fd), path_(path), max_in_flight_(std::max(options.max_in_flight, 1)) {
    is_direct_ = options.method != BulkMethod::kBuffered && set_direct(true);
    // Through the page cache a transfer is a copy by the processor: threads do that best.
    if (is_direct_ && options.method != BulkMethod::kThreads) {
      engine_ = make_uring_engine(max_in_flight_);
    }
    if (!engine_) engine_ = make_thread_engine(max_in_flight_);
  }
  ~Transfers() {
    while (num_in_engine_ > 0) {
      if (engine_->wait(Deadline::after_s(kDrainSliceS))) --num_in_engine_;
    }
  }
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  Status start(bool is_write, uint64_t offset, std::byte* data, uint64_t bytes, uint64_t ticket) {
    LOCKSTEP_CHECK(is_bulk_transfer(offset, data, bytes), "a transfer of ", bytes, " bytes at ",
                   offset, " is not aligned");
    LOCKSTEP_CHECK(num_in_flight() < max_in_flight_ && !active_.contains(ticket),
                   "too many transfers under way, or ticket ", ticket, " is taken");
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    const Active& active =
        active_.emplace(ticket, Active{{fd_, is_write, offset, data, bytes, ticket}, 0})
            .first->second;
    return hand_over(active);
  }

  /// A transfer that needed no engine.
  void end_at_once(uint64_t ticket, uint64_t bytes) { ended_.push_back({ticket, bytes}); }

  Result<BulkEnd> wait_one(Deadline deadline) {
    LOCKSTEP_CHECK(num_in_flight() > 0, "nothing is under way in ", path_);
    if (!ended_.empty()) {
      const BulkEnd end = ended_.front();
      ended_.pop_front();
      return end;
    }
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    while (true) {
      const auto end = engine_->wait(deadline);
      if (!end) {
        return failed_ = timeout_error(cat(path_, ": a transfer did not end within ",
                                           deadline.length_s(), " s: the disk hangs"));
      }
      --num_in_engine_;
      const auto it = active_.find(end->ticket);
      LOCKSTEP_CHECK(it != active_.end(), "an unknown transfer ended in ", path_);
      Active& active = it->second;
      const bool is_over = end->result == 0 && !active.rest.is_write;  // the end of the file
      if (!is_over) {
        LOCKSTEP_RETURN_IF_ERROR(advance(active, end->result));
        if (active.rest.bytes > 0) {
          LOCKSTEP_RETURN_IF_ERROR(hand_over(active));
          continue;
        }
      }
      const BulkEnd done{end->ticket, active.done_bytes};
      active_.erase(it);
      return done;
    }
  }

  int num_in_flight() const { return static_cast<int>(active_.size() + ended_.size()); }
  bool is_direct() const { return is_direct_; }
  const Status& failed() const { return failed_; }
  Status fail(Status status) { return failed_ = std::move(status); }
  std::string_view method() const {
    if (!is_direct_) return "threads, buffered";
    return engine_->name() == "io_uring" ? "io_uring, direct" : "threads, direct";
  }

 private:
  struct Active {
    Transfer rest;  // what is still to be moved
    uint64_t done_bytes = 0;
  };

  Status hand_over(const Active& active) {
    if (const int error = engine_->start(active.rest); error != 0) {
      return failed_ = error_of(active, error);
    }
    ++num_in_engine_;
    return Status::ok();
  }

  Status error_of(const Active& active, int error) const {
    return error_from_errno(active.rest.is_write ? "write" : "read",
                            cat(path_, " at byte ", active.rest.offset), error);
  }

  Status advance(Active& active, int64_t result) {
    if (result == -EINTR || result == -EAGAIN) return Status::ok();
    if (result == -EINVAL && is_direct_ && set_direct(false)) {
      is_direct_ = false;
      return Status::ok();
    }
    if (result < 0) return failed_ = error_of(active, static_cast<int>(-result));
    if (result == 0) return failed_ = error_of(active, EIO);
    // A direct transfer goes on from an aligned place, also when it ended between two.
    auto moved = static_cast<uint64_t>(result);
    const bool ends_inside = is_direct_ && !active.rest.is_write && !is_bulk_aligned(moved);
    if (ends_inside) {
      active.done_bytes += moved;
      active.rest.bytes = 0;
      return Status::ok();
    }
    if (is_direct_) moved -= moved % kBulkAlignBytes;
    if (moved == 0) return failed_ = error_of(active, EIO);
    active.rest.offset += moved;
    active.rest.data += moved;
    active.rest.bytes -= moved;
    active.done_bytes += moved;
    return Status::ok();
  }

  bool set_direct(bool on) const {
    const int flags = ::fcntl(fd_, F_GETFL);
    if (flags < 0) return false;
    return ::fcntl(fd_, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
  }

  int fd_;
  std::string path_;
  int max_in_flight_;
  bool is_direct_ = false;
  std::unique_ptr<TransferEngine> engine_;
  int num_in_engine_ = 0;
  std::map<uint64_t, Active> active_;
  std::deque<BulkEnd> ended_;
  Status failed_;
};

class PosixBulkWritableFile final : public BulkWritableFile {
 public:
  PosixBulkWritableFile(int fd, const std::string& path, const BulkOptions& options)
      : fd_(fd), path_(path), transfers_(fd, path, options) {}

  Status start_write(uint64_t offset_bytes, std::span<const std::byte> bytes,
                     uint64_t ticket) override {
    // The engine reads from it only: Transfer serves both directions.
    return transfers_.start(true, offset_bytes, const_cast<std::byte*>(bytes.data()), bytes.size(),
                            ticket);
  }
  Result<BulkEnd> wait_one(Deadline deadline) override { return transfers_.wait_one(deadline); }
  int num_in_flight() const override { return transfers_.num_in_flight(); }
  std::string_view method() const override { return transfers_.method(); }

  Status set_size(uint64_t size_bytes) override {
    LOCKSTEP_RETURN_IF_ERROR(require_idle("set size"));
    const auto size = static_cast<off_t>(size_bytes);
    if (retry_interrupted([&] { return ::ftruncate(fd_.get(), size); }) != 0)
      return transfers_.fail(error_from_errno("set size of", path_, errno));
    return Status::ok();
  }

  Status sync() override {
    LOCKSTEP_RETURN_IF_ERROR(require_idle("sync"));
    if (retry_interrupted([&] { return ::fsync(fd_.get()); }) != 0)
      return transfers_.fail(error_from_errno("sync", path_, errno));
    return Status::ok();
  }

  Status close() override {
    LOCKSTEP_CHECK(transfers_.num_in_flight() == 0, "close of ", path_,
                   " with transfers under way");
    return fd_.close(path_);
  }

 private:
  Status require_idle(std::string_view operation) const {
    LOCKSTEP_CHECK(fd_.is_open() && transfers_.num_in_flight() == 0, operation, " of ", path_,
                   " after close or with transfers under way");
    return transfers_.failed();
  }

  Descriptor fd_;  // outlives the transfers
  std::string path_;
  Transfers transfers_;
};

class PosixBulkReadableFile final : public BulkReadableFile {
 public:
  /// `cached_fd` is the same file without direct I/O, or -1.
  PosixBulkReadableFile(int fd, int cached_fd, const std::string& path, const BulkOptions& options)
      : fd_(fd), cached_fd_(cached_fd), path_(path), transfers_(fd, path, options) {
    const auto size = size_bytes();
    if (size.is_ok()) cached_size_ = *size;
  }

  Status start_read(uint64_t offset_bytes, std::span<std::byte> into, uint64_t ticket) override {
    if (cached_fd_.is_open() && transfers_.is_direct() && read_cached(offset_bytes, into)) {
      transfers_.end_at_once(ticket, into.size());
      return Status::ok();
    }
    return transfers_.start(false, offset_bytes, into.data(), into.size(), ticket);
  }
  Result<BulkEnd> wait_one(Deadline deadline) override { return transfers_.wait_one(deadline); }
  int num_in_flight() const override { return transfers_.num_in_flight(); }
  std::string_view method() const override { return transfers_.method(); }

  Result<uint64_t> size_bytes() const override {
    LOCKSTEP_ASSIGN_OR_RETURN(const FileInfo info, info_of(fd_.get(), path_));
    return info.size_bytes;
  }

 private:
  /// Copies out of the page cache when all of it lies there. A read with RWF_NOWAIT would tell as
  /// well, but has the kernel read ahead what is then read directly a second time.
  bool read_cached(uint64_t offset, std::span<std::byte> into) const {
    if (offset + into.size() > cached_size_ || !is_cached(offset, into.size())) return false;
    const ssize_t n = retry_interrupted([&] {
      return ::pread(cached_fd_.get(), into.data(), into.size(), static_cast<off_t>(offset));
    });
    return n == static_cast<ssize_t>(into.size());
  }

  bool is_cached(uint64_t offset, uint64_t bytes) const {
    void* const pages =
        ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, cached_fd_.get(), static_cast<off_t>(offset));
    if (pages == MAP_FAILED) return false;
    std::vector<unsigned char> in_core(bytes / kBulkAlignBytes);
    const bool is_told = ::mincore(pages, bytes, in_core.data()) == 0;
    ::munmap(pages, bytes);
    return is_told && std::all_of(in_core.begin(), in_core.end(),
                                  [](unsigned char flags) { return (flags & 1) != 0; });
  }

  Descriptor fd_;
  Descriptor cached_fd_;
  uint64_t cached_size_ = 0;
  std::string path_;
  Transfers transfers_;
};

}  // namespace

Result<std::unique_ptr<BulkWritableFile>> create_posix_bulk_file(const std::string& path,
                                                                 const BulkOptions& options) {
  // Direct I/O is switched on later: open() would leave an empty file where it is refused.
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const int fd = retry_interrupted([&] { return ::open(path.c_str(), flags, 0666); });
  if (fd < 0) return error_from_errno("open for writing", path, errno);
  auto file = std::make_unique<PosixBulkWritableFile>(fd, path, options);
  if (options.expected_bytes > 0) {
    const auto bytes = static_cast<off_t>(options.expected_bytes);
    const int error = ::fallocate(fd, 0, 0, bytes) == 0 ? 0 : errno;
    // Elsewhere (not supported, a signal) room is found as the bytes come.
    if (error == ENOSPC || error == EDQUOT) {
      return error_from_errno(cat("set ", human_bytes(options.expected_bytes), " aside for"), path,
                              error);
    }
  }
  return std::unique_ptr<BulkWritableFile>(std::move(file));
}

Result<std::unique_ptr<BulkReadableFile>> open_posix_bulk_file(const std::string& path,
                                                               const BulkOptions& options) {
  LOCKSTEP_ASSIGN_OR_RETURN(const int fd, open_regular_file(path));
  int cached_fd = -1;
  if (options.may_read_cache && options.method != BulkMethod::kBuffered) {
    const auto second = open_regular_file(path);
    if (second.is_ok()) cached_fd = *second;
  }
  return std::unique_ptr<BulkReadableFile>(
      std::make_unique<PosixBulkReadableFile>(fd, cached_fd, path, options));
}

}  // namespace lockstep
