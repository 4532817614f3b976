#include "posix_calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "lockstep/core/base/text.h"

namespace lockstep {

Status error_from_errno(std::string_view operation, std::string_view path, int error) {
  std::string message = cat(operation, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return not_found_error(std::move(message));
    case EEXIST:
      return already_exists_error(std::move(message));
    case ENOSPC:
    case EDQUOT:
      return resource_exhausted_error(std::move(message));
    case ELOOP:
      return io_error(cat(message, " (symbolic links are not followed here)"));
    default:
      return io_error(std::move(message));
  }
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Status Descriptor::close(const std::string& path) {
  if (fd_ < 0) return Status::ok();
  const int fd = std::exchange(fd_, -1);
  // Linux frees the descriptor also when close() is interrupted: never repeated.
  if (::close(fd) != 0 && errno != EINTR) return error_from_errno("close", path, errno);
  return Status::ok();
}

FileInfo info_from(const struct stat& info) {
  FileInfo out{.type = FileType::kOther, .size_bytes = static_cast<uint64_t>(info.st_size)};
  if (S_ISREG(info.st_mode)) out.type = FileType::kFile;
  if (S_ISDIR(info.st_mode)) out.type = FileType::kDirectory;
  if (S_ISLNK(info.st_mode)) out.type = FileType::kSymlink;
  return out;
}

Result<FileInfo> info_of(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return error_from_errno("stat", path, errno);
  return info_from(info);
}

Result<int> open_regular_file(const std::string& path) {
  // Non-blocking, so that a named pipe is refused below and not waited for.
  const int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  const int fd = retry_interrupted([&] { return ::open(path.c_str(), flags); });
  if (fd < 0) return error_from_errno("open for reading", path, errno);
  const auto info = info_of(fd, path);
  if (info.is_ok() && info->type == FileType::kFile) return fd;
  ::close(fd);
  LOCKSTEP_RETURN_IF_ERROR(info.status());
  return io_error(cat("open for reading ", path, ": not a regular file",
                      info->type == FileType::kDirectory ? " but a folder" : ""));
}

}  // namespace lockstep
