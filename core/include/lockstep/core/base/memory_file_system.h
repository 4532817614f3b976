#pragma once
// A FileSystem in memory that keeps POSIX's promises and no more, so that crashes can be rehearsed.
// It holds two states: what processes see, and what is on the disk for certain. Between the two
// lies a list of unsynced operations; a crash decides the fate of each one separately, in any
// combination, because POSIX orders nothing between two syncs. Errors: as FileSystem says.
// Thread-safety: as FileSystem; the crash functions too. Harsher than real disks in two places, on
// purpose: a move between two folders is two independent operations, and a name may reach the disk
// without the bytes of its file.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/base/file_system.h"

namespace lockstep {

/// One operation that a crash may undo.
struct UnsyncedOperation {
  enum class Kind : uint8_t {
    kData,   ///< bytes written to a file
    kSize,   ///< a file emptied or cut
    kNames,  ///< names in one folder: created, removed, or renamed (then one atomic operation)
  };
  Kind kind = Kind::kData;
  std::string what;         ///< for messages: "write 100 bytes at 0 of /a/b"
  uint64_t size_bytes = 0;  ///< of kData
};

/// What a crash makes of one unsynced operation.
struct CrashFate {
  enum class Kind : uint8_t {
    kLost,    ///< never reached the disk
    kKept,    ///< reached it whole
    kTorn,    ///< kData: the first `kept_bytes` reached it
    kZeroed,  ///< kData: the file has the length, and zeros in place of the bytes
  };
  Kind kind = Kind::kLost;
  uint64_t kept_bytes = 0;
};

struct MemoryDisk;

class MemoryFileSystem final : public FileSystem {
 public:
  MemoryFileSystem();
  ~MemoryFileSystem() override;
  MemoryFileSystem(const MemoryFileSystem&) = delete;
  MemoryFileSystem& operator=(const MemoryFileSystem&) = delete;

  Result<std::unique_ptr<WritableFile>> open_write(const std::string& path, OpenMode mode) override;
  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override;
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

  /// Room for file bytes (a TiB at first). A write past it stores what fits and fails with
  /// kResourceExhausted.
  void set_capacity_bytes(uint64_t capacity_bytes);

  /// What a crash now could undo, in the order it was done. All states that POSIX allows are the
  /// combinations of fates over this list.
  std::vector<UnsyncedOperation> unsynced() const;
  /// The disk as the next start would find it after a crash now; this object stays as it is.
  /// Requires: one fate for each of unsynced(); kTorn and kZeroed for kData alone.
  std::unique_ptr<MemoryFileSystem> after_crash(const std::vector<CrashFate>& fates) const;

  /// Crashes this object: files that were open fail with kIoError from here on.
  void crash(const std::vector<CrashFate>& fates);
  /// Everything that was not synced is lost.
  void crash_losing_all();
  /// Everything reached the disk just in time.
  void crash_keeping_all();
  /// Each unsynced operation has a fate drawn from `seed`.
  void crash_at_random(uint64_t seed);

 private:
  class Writable;
  class Readable;
  Result<int64_t> create_or_open(const std::string& path, OpenMode mode);
  std::vector<CrashFate> uniform_fates(CrashFate::Kind kind) const;
  std::shared_ptr<MemoryDisk> disk_;
};

}  // namespace lockstep
