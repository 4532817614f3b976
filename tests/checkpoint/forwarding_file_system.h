#pragma once
// A FileSystem that passes every call on: the base of those in which a test changes one or two
// calls in ways that planned errors (FaultFileSystem) can not show. Thread-safety: that of the file
// system below.

#include "lockstep/core/base/file_system.h"

namespace lockstep {

class ForwardingFileSystem : public FileSystem {
 public:
  explicit ForwardingFileSystem(FileSystem& base) : base_(base) {}

  Result<std::unique_ptr<WritableFile>> open_write(const std::string& path,
                                                   OpenMode mode) override {
    return base_.open_write(path, mode);
  }
  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
    return base_.open_read(path);
  }
  Result<std::unique_ptr<BulkWritableFile>> create_bulk(const std::string& path,
                                                        const BulkOptions& options) override {
    return base_.create_bulk(path, options);
  }
  Result<std::unique_ptr<BulkReadableFile>> open_bulk(const std::string& path,
                                                      const BulkOptions& options) override {
    return base_.open_bulk(path, options);
  }
  Result<std::vector<DirectoryEntry>> list(const std::string& path) override {
    return base_.list(path);
  }
  Result<FileInfo> stat(const std::string& path) override { return base_.stat(path); }
  Status make_dir(const std::string& path) override { return base_.make_dir(path); }
  Status rename(const std::string& from, const std::string& to) override {
    return base_.rename(from, to);
  }
  Status remove(const std::string& path) override { return base_.remove(path); }
  Status sync_dir(const std::string& path) override { return base_.sync_dir(path); }
  Result<uint64_t> free_bytes(const std::string& path) override { return base_.free_bytes(path); }
  Status truncate(const std::string& path, uint64_t size_bytes) override {
    return base_.truncate(path, size_bytes);
  }

 protected:
  FileSystem& base_;
};

}  // namespace lockstep
