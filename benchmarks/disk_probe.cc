#include "disk_probe.h"

#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "lockstep/core/base/deadline.h"

namespace lockstep {
namespace {

void require(bool good, const std::string& what, int error) {
  if (!good) throw std::runtime_error(what + ": " + std::strerror(error));
}

class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    require(fd_ >= 0, "open " + path, errno);
  }
  ~File() { ::close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

void move(int fd, uint64_t bytes, std::span<std::byte> buffer, const ProbeShape& shape,
          bool is_write) {
  io_uring ring{};
  require(::io_uring_queue_init(shape.in_flight, &ring, 0) == 0, "io_uring", EPERM);
  uint64_t begun = 0;
  unsigned under_way = 0;
  const auto start = [&](uint64_t slot) {
    const uint64_t size = std::min(shape.piece_bytes, bytes - begun);
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring);
    std::byte* data = buffer.data() + slot * shape.piece_bytes;
    if (is_write) {
      ::io_uring_prep_write(entry, fd, data, static_cast<unsigned>(size), begun);
    } else {
      ::io_uring_prep_read(entry, fd, data, static_cast<unsigned>(size), begun);
    }
    entry->user_data = slot << 32 | size;
    require(::io_uring_submit(&ring) == 1, "io_uring_submit", EIO);
    begun += size;
    ++under_way;
  };
  for (uint64_t slot = 0; slot < shape.in_flight && begun < bytes; ++slot) start(slot);
  while (under_way > 0) {
    io_uring_cqe* entry = nullptr;
    require(::io_uring_wait_cqe(&ring, &entry) == 0, "io_uring_wait_cqe", EIO);
    const uint64_t slot = entry->user_data >> 32;
    require(entry->res == static_cast<int>(entry->user_data & 0xffffffff), "a short transfer",
            entry->res < 0 ? -entry->res : EIO);
    ::io_uring_cqe_seen(&ring, entry);
    --under_way;
    if (begun < bytes) start(slot);
  }
  ::io_uring_queue_exit(&ring);
}

}  // namespace

double probe_write_s(const std::string& path, uint64_t bytes, std::span<std::byte> buffer,
                     const ProbeShape& shape) {
  const Stopwatch watch;
  const File file(path, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT);
  require(::posix_fallocate(file.fd(), 0, static_cast<off_t>(bytes)) == 0, "fallocate", EIO);
  move(file.fd(), bytes, buffer, shape, /*is_write=*/true);
  require(::fsync(file.fd()) == 0, "fsync", errno);
  return watch.elapsed_s();
}

double probe_read_s(const std::string& path, uint64_t bytes, std::span<std::byte> buffer,
                    const ProbeShape& shape) {
  const Stopwatch watch;
  const File file(path, O_RDONLY | O_DIRECT);
  move(file.fd(), bytes, buffer, shape, /*is_write=*/false);
  return watch.elapsed_s();
}

void drop_from_cache(const std::string& path) {
  const File file(path, O_RDONLY);
  ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
}

}  // namespace lockstep
