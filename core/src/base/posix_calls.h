#pragma once
// What the files that call POSIX share: errors with their reason, repeats of interrupted calls, an
// owned descriptor. Only posix_*.cc include it.

#include <cerrno>
#include <string>
#include <string_view>

#include "lockstep/core/base/file_system.h"

struct stat;

namespace lockstep {

/// The Status for an errno: kNotFound, kAlreadyExists, kResourceExhausted (space, quota), else
/// kIoError.
Status error_from_errno(std::string_view operation, std::string_view path, int error);

template <typename Call>
auto retry_interrupted(Call call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result == -1 && errno == EINTR);
  return result;
}

/// An open descriptor; closed once, by close() or in the end by the destructor, which drops the
/// status.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  /// Errors: as error_from_errno.
  Status close(const std::string& path);

 private:
  int fd_ = -1;
};

FileInfo info_from(const struct stat& info);
/// Errors: as error_from_errno.
Result<FileInfo> info_of(int fd, const std::string& path);
/// A descriptor for reading a regular file, links not followed. Errors: as FileSystem::open_read.
Result<int> open_regular_file(const std::string& path);

}  // namespace lockstep
