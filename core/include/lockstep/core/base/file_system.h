#pragma once
// FileSystem: the seam through which all files are read and written, so that crashes can be
// rehearsed. Implementations: posix_file_system() and MemoryFileSystem (memory_file_system.h).
// Paths are UTF-8, '/'-separated. Thread-safety: a FileSystem may be used from any thread; one file
// object from one thread at a time. Durability: nothing is durable until synced: a file's bytes by
// WritableFile::sync, a name by sync_dir of its folder.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/bulk_file.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

enum class FileType : uint8_t { kFile, kDirectory, kSymlink, kOther };

struct FileInfo {
  FileType type = FileType::kOther;
  uint64_t size_bytes = 0;
};

struct DirectoryEntry {
  std::string name;  ///< last component only
  FileType type = FileType::kOther;
};

enum class OpenMode : uint8_t {
  kCreateExclusive,  ///< fails with kAlreadyExists when the name is taken
  kTruncate,         ///< created, or emptied when it is there
  kAppend,           ///< created when absent; write() goes on at the end
};

/// A file open for writing. Closing without sync promises nothing.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  /// Appends all of `bytes`. Errors: kIoError, kResourceExhausted (no space, quota), with path and
  /// operation.
  virtual Status write(std::span<const std::byte> bytes) = 0;
  /// Cuts the file to `size_bytes`, of which there must be as many; write() goes on there. Takes
  /// back a write that failed for lack of room, with what it left behind: the file is usable again.
  virtual Status cut(uint64_t size_bytes) = 0;
  /// Makes the bytes durable. A failure is final: what the file holds is unknown, do not retry.
  virtual Status sync() = 0;
  /// Idempotent. The destructor closes and drops the status.
  virtual Status close() = 0;
};

/// A file open for reading at any position.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  /// Fills `out` from `offset_bytes`. Errors: kIoError; kCorruption when the file ends before `out`
  /// is full.
  virtual Status read(uint64_t offset_bytes, std::span<std::byte> out) const = 0;
  virtual Result<uint64_t> size_bytes() const = 0;
};

/// All file calls of the project. Errors carry the operation, the path and the system's reason;
/// kNotFound and kAlreadyExists are told apart from kIoError. Symbolic links in the last component
/// are not followed, except by list, sync_dir and free_bytes, which are asked about what is behind
/// a folder's name.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual Result<std::unique_ptr<WritableFile>> open_write(const std::string& path,
                                                           OpenMode mode) = 0;
  virtual Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) = 0;
  /// A new file for large transfers. Errors: as open_write with kCreateExclusive;
  /// kResourceExhausted when there is no room for the expected bytes.
  virtual Result<std::unique_ptr<BulkWritableFile>> create_bulk(const std::string& path,
                                                                const BulkOptions& options) = 0;
  /// An existing file for large transfers. Errors: as open_read.
  virtual Result<std::unique_ptr<BulkReadableFile>> open_bulk(const std::string& path,
                                                              const BulkOptions& options) = 0;
  /// Names in a folder, sorted, without "." and "..".
  virtual Result<std::vector<DirectoryEntry>> list(const std::string& path) = 0;
  virtual Result<FileInfo> stat(const std::string& path) = 0;
  /// Fails with kAlreadyExists when the name is taken; parents must be there.
  virtual Status make_dir(const std::string& path) = 0;
  /// Moves a file or folder; an existing file is replaced, an existing folder is kAlreadyExists.
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  /// Removes a file, or an empty folder.
  virtual Status remove(const std::string& path) = 0;
  /// Makes the names in a folder durable.
  virtual Status sync_dir(const std::string& path) = 0;
  /// Free bytes for this user on the disk that holds `path`.
  virtual Result<uint64_t> free_bytes(const std::string& path) = 0;
  /// Sets an existing file's size: cuts it, or fills up with zeros. Durable with the next sync of
  /// the file.
  virtual Status truncate(const std::string& path, uint64_t size_bytes) = 0;
  /// The path with symbolic links followed, for files that a user names; the path itself where that
  /// can't be done. Never for what a checkpoint names.
  virtual std::string follow_links(const std::string& path) { return path; }
};

/// The operating system's files. One object for the process; never destroyed.
FileSystem& posix_file_system();

/// Whole small file as bytes. Errors: those of FileSystem; kCorruption when it is longer than
/// `limit_bytes`.
Result<std::string> read_whole_file(FileSystem& fs, const std::string& path, uint64_t limit_bytes);
/// Writes `content` to a new or emptied file and syncs it (not its folder). Errors: those of
/// FileSystem.
Status write_and_sync_file(FileSystem& fs, const std::string& path, std::string_view content,
                           OpenMode mode);
/// Makes `path` and its missing parents, and syncs every folder that got a new name. OK when it is
/// already there. Errors: those of FileSystem.
Status make_dirs_durable(FileSystem& fs, const std::string& path);
/// Removes a file or folder with all it holds. Not atomic. OK when there is nothing. Errors: those
/// of FileSystem.
Status remove_tree(FileSystem& fs, const std::string& path);
/// An error of writing where a user wanted it: a folder that is not there is no missing input, but
/// kIoError, with what to do.
Status as_output_error(Status status);
/// Whether a name exists. Errors: those of FileSystem other than kNotFound.
Result<bool> exists(FileSystem& fs, const std::string& path);
/// "a/b" from "a" and "b".
std::string path_join(std::string_view folder, std::string_view name);
/// The folder that holds `path` ("." for a bare name).
std::string path_parent(std::string_view path);

}  // namespace lockstep
