// FileSystem over POSIX calls. Interrupted calls are repeated, short reads and writes are
// completed; every error says operation, path and the system's reason.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "posix_bulk_file.h"
#include "posix_calls.h"

namespace lockstep {

namespace {

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  Status write(std::span<const std::byte> bytes) override {
    if (Status usable = require_usable("write"); !usable.is_ok()) return usable;
    while (!bytes.empty()) {
      const ssize_t n =
          retry_interrupted([&] { return ::write(fd_.get(), bytes.data(), bytes.size()); });
      if (n < 0) {
        failed_ = error_from_errno("write", path_, errno);
        lacked_room_ = failed_.code() == StatusCode::kResourceExhausted;
        return failed_;
      }
      if (n == 0) return failed_ = io_error(cat("write ", path_, ": the system took no bytes"));
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
    return Status::ok();
  }

  Status cut(uint64_t size_bytes) override {
    if (lacked_room_) failed_ = Status::ok();  // no page of it was given up: the disk took none
    if (Status usable = require_usable("cut"); !usable.is_ok()) return usable;
    const auto size = static_cast<off_t>(size_bytes);
    if (retry_interrupted([&] { return ::ftruncate(fd_.get(), size); }) != 0 ||
        ::lseek(fd_.get(), size, SEEK_SET) < 0) {
      return failed_ = error_from_errno("cut", path_, errno);
    }
    lacked_room_ = false;
    return Status::ok();
  }

  Status sync() override {
    if (Status usable = require_usable("sync"); !usable.is_ok()) return usable;
    if (retry_interrupted([&] { return ::fsync(fd_.get()); }) != 0)
      failed_ = error_from_errno("sync", path_, errno);
    return failed_;
  }

  Status close() override { return fd_.close(path_); }

 private:
  // After a failed sync, or a write that the disk failed, the kernel may have dropped pages: a
  // later success would be a lie.
  Status require_usable(std::string_view operation) const {
    LOCKSTEP_CHECK(fd_.is_open(), operation, " of ", path_, " after close");
    return failed_;
  }

  Descriptor fd_;
  std::string path_;
  Status failed_;
  bool lacked_room_ = false;  ///< failed_ is a write's, for which there was no room
};

class PosixReadableFile final : public ReadableFile {
 public:
  PosixReadableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  Status read(uint64_t offset_bytes, std::span<std::byte> out) const override {
    const size_t wanted = out.size();
    uint64_t position = offset_bytes;
    while (!out.empty()) {
      const ssize_t n = retry_interrupted(
          [&] { return ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(position)); });
      if (n < 0) return error_from_errno("read", path_, errno);
      if (n == 0)
        return corruption_error(cat("read ", path_, ": the file ends at byte ", position,
                                    ", expected ", wanted, " bytes from byte ", offset_bytes));
      position += static_cast<uint64_t>(n);
      out = out.subspan(static_cast<size_t>(n));
    }
    return Status::ok();
  }

  Result<uint64_t> size_bytes() const override {
    LOCKSTEP_ASSIGN_OR_RETURN(const FileInfo info, info_of(fd_.get(), path_));
    return info.size_bytes;
  }

 private:
  Descriptor fd_;
  std::string path_;
};

class PosixFileSystem final : public FileSystem {
 public:
  Result<std::unique_ptr<WritableFile>> open_write(const std::string& path,
                                                   OpenMode mode) override {
    int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
    if (mode == OpenMode::kCreateExclusive) flags |= O_EXCL;
    if (mode == OpenMode::kTruncate) flags |= O_TRUNC;
    if (mode == OpenMode::kAppend) flags |= O_APPEND;
    const int fd = retry_interrupted([&] { return ::open(path.c_str(), flags, 0666); });
    if (fd < 0) return error_from_errno("open for writing", path, errno);
    return std::unique_ptr<WritableFile>(std::make_unique<PosixWritableFile>(fd, path));
  }

  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
    LOCKSTEP_ASSIGN_OR_RETURN(const int fd, open_regular_file(path));
    return std::unique_ptr<ReadableFile>(std::make_unique<PosixReadableFile>(fd, path));
  }

  Result<std::unique_ptr<BulkWritableFile>> create_bulk(const std::string& path,
                                                        const BulkOptions& options) override {
    return create_posix_bulk_file(path, options);
  }

  Result<std::unique_ptr<BulkReadableFile>> open_bulk(const std::string& path,
                                                      const BulkOptions& options) override {
    return open_posix_bulk_file(path, options);
  }

  std::string follow_links(const std::string& path) override {
    std::error_code error;
    const std::filesystem::path real = std::filesystem::canonical(path, error);
    return error ? path : real.string();
  }

  Result<std::vector<DirectoryEntry>> list(const std::string& path) override {
    struct Closer {
      void operator()(DIR* dir) const { ::closedir(dir); }
    };
    std::unique_ptr<DIR, Closer> dir(::opendir(path.c_str()));
    if (!dir) return error_from_errno("list", path, errno);
    std::vector<DirectoryEntry> entries;
    while (true) {
      errno = 0;
      const dirent* entry = ::readdir(dir.get());
      if (entry == nullptr) break;
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      auto info = stat(path_join(path, name));
      // A name that vanishes while the folder is read was removed by another process: not there.
      if (!info.is_ok() && info.status().code() == StatusCode::kNotFound) continue;
      if (!info.is_ok()) return info.status();
      entries.push_back({name, info->type});
    }
    if (errno != 0) return error_from_errno("list", path, errno);
    std::sort(entries.begin(), entries.end(),
              [](const DirectoryEntry& a, const DirectoryEntry& b) { return a.name < b.name; });
    return entries;
  }

  Result<FileInfo> stat(const std::string& path) override {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) return error_from_errno("stat", path, errno);
    return info_from(info);
  }

  Status make_dir(const std::string& path) override {
    if (::mkdir(path.c_str(), 0777) != 0) return error_from_errno("make folder", path, errno);
    return Status::ok();
  }

  Status rename(const std::string& from, const std::string& to) override {
    LOCKSTEP_ASSIGN_OR_RETURN(const FileInfo source, stat(from));
    const std::string both = cat(from, " to ", to);
    if (source.type == FileType::kDirectory) return rename_directory(from, to, both);
    if (::rename(from.c_str(), to.c_str()) == 0) return Status::ok();
    if (errno == EISDIR)
      return already_exists_error(cat("rename ", both, ": the target is a folder"));
    return error_from_errno("rename", both, errno);
  }

  Status remove(const std::string& path) override {
    if (::unlink(path.c_str()) == 0) return Status::ok();
    // Linux says EISDIR for a folder, POSIX EPERM.
    if (errno != EISDIR && errno != EPERM) return error_from_errno("remove", path, errno);
    const int unlink_error = errno;
    if (::rmdir(path.c_str()) == 0) return Status::ok();
    return error_from_errno("remove", path, errno == ENOTDIR ? unlink_error : errno);
  }

  Status sync_dir(const std::string& path) override {
    const int fd =
        retry_interrupted([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    if (fd < 0) return error_from_errno("open folder", path, errno);
    Descriptor descriptor(fd);
    if (retry_interrupted([&] { return ::fsync(fd); }) != 0)
      return error_from_errno("sync folder", path, errno);
    return descriptor.close(path);
  }

  Result<uint64_t> free_bytes(const std::string& path) override {
    struct statvfs info {};
    if (retry_interrupted([&] { return ::statvfs(path.c_str(), &info); }) != 0)
      return error_from_errno("ask for free space of", path, errno);
    return static_cast<uint64_t>(info.f_bavail) * static_cast<uint64_t>(info.f_frsize);
  }

  Status truncate(const std::string& path, uint64_t size_bytes) override {
    const int fd =
        retry_interrupted([&] { return ::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC); });
    if (fd < 0) return error_from_errno("open to truncate", path, errno);
    Descriptor descriptor(fd);
    if (retry_interrupted([&] { return ::ftruncate(fd, static_cast<off_t>(size_bytes)); }) != 0)
      return error_from_errno("truncate", path, errno);
    return descriptor.close(path);
  }

 private:
  // Plain rename() replaces an empty folder silently; the kernel's no-replace flag does not. Where
  // the disk lacks the flag, a look before the leap is the best there is.
  Status rename_directory(const std::string& from, const std::string& to, const std::string& both) {
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0)
      return Status::ok();
    if (errno == EINVAL || errno == ENOSYS) {
      auto target = stat(to);
      if (target.is_ok()) return error_from_errno("rename", both, EEXIST);
      if (target.status().code() != StatusCode::kNotFound) return target.status();
      if (::rename(from.c_str(), to.c_str()) == 0) return Status::ok();
    }
    if (errno == ENOTEMPTY) return error_from_errno("rename", both, EEXIST);
    return error_from_errno("rename", both, errno);
  }
};

}  // namespace

FileSystem& posix_file_system() {
  // Stateless and leaked on purpose: usable until the very end of the process.
  static PosixFileSystem* const fs = new PosixFileSystem;
  return *fs;
}

}  // namespace lockstep
