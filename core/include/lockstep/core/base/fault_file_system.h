#pragma once
// A FileSystem around another one that fails chosen calls and tells a hook of every call that
// changes something. Tests use it over MemoryFileSystem and over the real disk: errors at the k-th
// call, and kills before the k-th call. Errors: those planned, and those of the file system below.
// Thread-safety: as FileSystem; faults and hook are set while no call is in progress.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/file_system.h"

namespace lockstep {

enum class FileOperation : uint8_t {
  kOpenWrite,
  kWrite,
  kSync,
  kTruncate,
  kMakeDir,
  kRename,
  kRemove,
  kSyncDir,
  kOpenRead,  // from here on: calls that change nothing
  kRead,
  kList,
  kStat,
  kFreeBytes,
};
inline constexpr int kNumFileOperations = 13;
/// "open_write", "sync_dir", ...
std::string_view file_operation_name(FileOperation operation);

struct FileCall {
  FileOperation operation = FileOperation::kOpenWrite;
  std::string path;     ///< of a rename: the old name
  uint64_t number = 0;  ///< 1, 2, ... over all calls that change something
  uint64_t size_bytes = 0;  ///< of a read or a write
};

class FaultFileSystem final : public FileSystem {
 public:
  /// `base` must outlive this object and the files opened through it.
  explicit FaultFileSystem(FileSystem& base);
  ~FaultFileSystem() override;

  /// The `nth` call of `operation` from now on (1 = the next) fails with `status` and does nothing,
  /// except that a failed write leaves half of its bytes, and a failed sync is the kernel's last
  /// word on that file: as on Linux, later syncs of the path succeed without making anything
  /// durable.
  void fail_nth(FileOperation operation, uint64_t nth, Status status);
  /// As fail_nth, and every later call of the operation too.
  void fail_from(FileOperation operation, uint64_t nth, Status status);
  /// As fail_nth, for the `nth` call of any operation.
  void fail_call(uint64_t nth, Status status);
  void clear_faults();

  /// Called before each call that changes something. What it throws goes through to the caller, and
  /// the call is not made: a test plays a kill by throwing here, at this call and all later ones.
  void set_hook(std::function<void(const FileCall&)> hook);
  /// Called before every call, also those that change nothing and those that fail; `number` counts
  /// them all. For kills of real processes, and for what is slow.
  void set_call_hook(std::function<void(const FileCall&)> hook);
  /// Calls so far.
  uint64_t num_all_calls() const;
  /// Calls so far that change something.
  uint64_t num_mutating_calls() const;

  Result<std::unique_ptr<WritableFile>> open_write(const std::string& path, OpenMode mode) override;
  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override;
  /// Cutting an open file counts as kTruncate. Bulk files count as the others: kOpenWrite, kWrite for each start_write, kTruncate for
  /// set_size, kSync; kOpenRead, kRead for each start_read.
  Result<std::unique_ptr<BulkWritableFile>> create_bulk(const std::string& path,
                                                        const BulkOptions& options) override;
  Result<std::unique_ptr<BulkReadableFile>> open_bulk(const std::string& path,
                                                      const BulkOptions& options) override;
  Result<std::vector<DirectoryEntry>> list(const std::string& path) override;
  Result<FileInfo> stat(const std::string& path) override;
  Status make_dir(const std::string& path) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status remove(const std::string& path) override;
  Status sync_dir(const std::string& path) override;
  Result<uint64_t> free_bytes(const std::string& path) override;
  Status truncate(const std::string& path, uint64_t size_bytes) override;

 private:
  struct Plan;
  template <typename Base>
  class Faulty;
  template <typename Base>
  class FaultyWritable;
  class Writable;
  class Readable;
  class BulkWritable;
  class BulkReadable;
  FileSystem& base_;
  std::shared_ptr<Plan> plan_;
};

}  // namespace lockstep
