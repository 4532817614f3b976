#include "lockstep/core/base/fault_file_system.h"

#include <array>
#include <limits>
#include <mutex>
#include <set>

#include "lockstep/core/base/text.h"

namespace lockstep {

std::string_view file_operation_name(FileOperation operation) {
  static constexpr std::array<std::string_view, kNumFileOperations> kNames = {
      "open_write", "write",     "sync", "truncate", "make_dir", "rename",    "remove",
      "sync_dir",   "open_read", "read", "list",     "stat",     "free_bytes"};
  return kNames[static_cast<size_t>(operation)];
}

struct FaultFileSystem::Plan {
  struct Fault {
    FileOperation operation;
    uint64_t first;  // counted over the calls of the operation since this object was made
    uint64_t last;
    Status status;
  };

  std::mutex mutex;
  std::function<void(const FileCall&)> hook;
  std::function<void(const FileCall&)> call_hook;
  uint64_t num_all_calls = 0;
  uint64_t failing_call = 0;  // counted over all calls; 0: none
  Status failing_status;
  std::vector<Fault> faults;
  std::array<uint64_t, kNumFileOperations> num_calls{};
  uint64_t num_mutating_calls = 0;
  std::set<std::string> sync_failed_paths;

  /// Counts the call, tells the hook, and returns the fault planned for it, if any.
  Status enter(FileOperation operation, const std::string& path, uint64_t size_bytes = 0) {
    FileCall call{.operation = operation, .path = path, .number = 0, .size_bytes = size_bytes};
    Status status;
    std::function<void(const FileCall&)> to_tell;
    std::function<void(const FileCall&)> to_tell_all;
    uint64_t number_of_all = 0;
    {
      std::lock_guard lock(mutex);
      const uint64_t number = ++num_calls[static_cast<size_t>(operation)];
      number_of_all = ++num_all_calls;
      to_tell_all = call_hook;
      if (number_of_all == failing_call) status = failing_status;
      if (operation < FileOperation::kOpenRead) {
        call.number = ++num_mutating_calls;
        to_tell = hook;
      }
      for (const Fault& fault : faults) {
        if (fault.operation == operation && fault.first <= number && number <= fault.last)
          status = fault.status;
      }
    }
    if (to_tell_all) {
      FileCall of_all = call;
      of_all.number = number_of_all;
      to_tell_all(of_all);
    }
    if (to_tell) to_tell(call);
    return status;
  }

  /// Whether a sync of the path does nothing: it fails now, or has failed before.
  bool skips_sync(const std::string& path, const Status& fault) {
    std::lock_guard lock(mutex);
    if (!fault.is_ok()) sync_failed_paths.insert(path);
    return sync_failed_paths.contains(path);
  }

  void add_fault(FileOperation operation, uint64_t nth, bool only_once, Status status) {
    LOCKSTEP_CHECK(nth >= 1, "calls are counted from 1");
    LOCKSTEP_CHECK(!status.is_ok(), "a fault needs an error");
    std::lock_guard lock(mutex);
    const uint64_t first = num_calls[static_cast<size_t>(operation)] + nth;
    const uint64_t last = only_once ? first : std::numeric_limits<uint64_t>::max();
    faults.push_back({operation, first, last, status.with_context(file_operation_name(operation))});
  }
};

/// A file whose calls fail as planned.
template <typename Base>
class FaultFileSystem::Faulty : public Base {
 public:
  Faulty(std::shared_ptr<Plan> plan, std::unique_ptr<Base> base, std::string path)
      : plan_(std::move(plan)), base_(std::move(base)), path_(std::move(path)) {}

 protected:
  Status enter(FileOperation operation, uint64_t size_bytes = 0) const {
    return plan_->enter(operation, path_, size_bytes).with_context(path_);
  }

  std::shared_ptr<Plan> plan_;
  std::unique_ptr<Base> base_;
  std::string path_;
};

/// One that is written: its first fault stays.
template <typename Base>
class FaultFileSystem::FaultyWritable : public Faulty<Base> {
 public:
  using Faulty<Base>::Faulty;

  Status sync() override {
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    failed_ = this->enter(FileOperation::kSync);
    if (this->plan_->skips_sync(this->path_, failed_)) return failed_;
    return this->base_->sync();
  }

  Status close() override { return this->base_->close(); }

 protected:
  Status failed_;
};

class FaultFileSystem::Writable final : public FaultyWritable<WritableFile> {
 public:
  using FaultyWritable::FaultyWritable;

  Status write(std::span<const std::byte> bytes) override {
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    failed_ = enter(FileOperation::kWrite, bytes.size());
    if (failed_.is_ok()) return base_->write(bytes);
    lacked_room_ = failed_.code() == StatusCode::kResourceExhausted;
    base_->write(bytes.first(bytes.size() / 2)).ignore();  // the planned error is the one to report
    return failed_;
  }

  Status cut(uint64_t size_bytes) override {
    if (lacked_room_) failed_ = Status::ok();
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    failed_ = enter(FileOperation::kTruncate);
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    lacked_room_ = false;
    return base_->cut(size_bytes);
  }

 private:
  bool lacked_room_ = false;
};

class FaultFileSystem::Readable final : public Faulty<ReadableFile> {
 public:
  using Faulty::Faulty;

  Status read(uint64_t offset_bytes, std::span<std::byte> out) const override {
    LOCKSTEP_RETURN_IF_ERROR(enter(FileOperation::kRead, out.size()));
    return base_->read(offset_bytes, out);
  }
  Result<uint64_t> size_bytes() const override { return base_->size_bytes(); }
};

class FaultFileSystem::BulkWritable final : public FaultyWritable<BulkWritableFile> {
 public:
  using FaultyWritable::FaultyWritable;

  Status start_write(uint64_t offset_bytes, std::span<const std::byte> bytes,
                     uint64_t ticket) override {
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    failed_ = enter(FileOperation::kWrite, bytes.size());
    if (failed_.is_ok()) return base_->start_write(offset_bytes, bytes, ticket);
    const uint64_t half = bytes.size() / 2 / kBulkAlignBytes * kBulkAlignBytes;
    // The planned error is the one to report.
    if (half > 0 && base_->start_write(offset_bytes, bytes.first(half), ticket).is_ok()) drain();
    return failed_;
  }

  Result<BulkEnd> wait_one(Deadline deadline) override {
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    return base_->wait_one(deadline);
  }
  int num_in_flight() const override { return base_->num_in_flight(); }
  std::string_view method() const override { return base_->method(); }

  Status set_size(uint64_t size_bytes) override {
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    failed_ = enter(FileOperation::kTruncate);
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    return base_->set_size(size_bytes);
  }

 private:
  void drain() {
    constexpr double kDrainS = 60;
    while (base_->num_in_flight() > 0 && base_->wait_one(Deadline::after_s(kDrainS)).is_ok()) {
    }
  }
};

class FaultFileSystem::BulkReadable final : public Faulty<BulkReadableFile> {
 public:
  using Faulty::Faulty;

  Status start_read(uint64_t offset_bytes, std::span<std::byte> into, uint64_t ticket) override {
    LOCKSTEP_RETURN_IF_ERROR(enter(FileOperation::kRead, into.size()));
    return base_->start_read(offset_bytes, into, ticket);
  }
  Result<BulkEnd> wait_one(Deadline deadline) override { return base_->wait_one(deadline); }
  int num_in_flight() const override { return base_->num_in_flight(); }
  std::string_view method() const override { return base_->method(); }
  Result<uint64_t> size_bytes() const override { return base_->size_bytes(); }
};

FaultFileSystem::FaultFileSystem(FileSystem& base) : base_(base), plan_(std::make_shared<Plan>()) {}
FaultFileSystem::~FaultFileSystem() = default;

void FaultFileSystem::fail_nth(FileOperation operation, uint64_t nth, Status status) {
  plan_->add_fault(operation, nth, /*only_once=*/true, std::move(status));
}

void FaultFileSystem::fail_from(FileOperation operation, uint64_t nth, Status status) {
  plan_->add_fault(operation, nth, /*only_once=*/false, std::move(status));
}

void FaultFileSystem::fail_call(uint64_t nth, Status status) {
  LOCKSTEP_CHECK(nth >= 1 && !status.is_ok(), "calls are counted from 1 and fail with an error");
  std::lock_guard lock(plan_->mutex);
  plan_->failing_call = plan_->num_all_calls + nth;
  plan_->failing_status = std::move(status);
}

void FaultFileSystem::clear_faults() {
  std::lock_guard lock(plan_->mutex);
  plan_->failing_call = 0;
  plan_->faults.clear();
}

void FaultFileSystem::set_hook(std::function<void(const FileCall&)> hook) {
  std::lock_guard lock(plan_->mutex);
  plan_->hook = std::move(hook);
}

void FaultFileSystem::set_call_hook(std::function<void(const FileCall&)> hook) {
  std::lock_guard lock(plan_->mutex);
  plan_->call_hook = std::move(hook);
}

uint64_t FaultFileSystem::num_all_calls() const {
  std::lock_guard lock(plan_->mutex);
  return plan_->num_all_calls;
}

uint64_t FaultFileSystem::num_mutating_calls() const {
  std::lock_guard lock(plan_->mutex);
  return plan_->num_mutating_calls;
}

Result<std::unique_ptr<WritableFile>> FaultFileSystem::open_write(const std::string& path,
                                                                  OpenMode mode) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kOpenWrite, path).with_context(path));
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, base_.open_write(path, mode));
  return std::unique_ptr<WritableFile>(std::make_unique<Writable>(plan_, std::move(file), path));
}

Result<std::unique_ptr<ReadableFile>> FaultFileSystem::open_read(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kOpenRead, path).with_context(path));
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, base_.open_read(path));
  return std::unique_ptr<ReadableFile>(std::make_unique<Readable>(plan_, std::move(file), path));
}

Result<std::unique_ptr<BulkWritableFile>> FaultFileSystem::create_bulk(const std::string& path,
                                                                       const BulkOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kOpenWrite, path).with_context(path));
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, base_.create_bulk(path, options));
  return std::unique_ptr<BulkWritableFile>(
      std::make_unique<BulkWritable>(plan_, std::move(file), path));
}

Result<std::unique_ptr<BulkReadableFile>> FaultFileSystem::open_bulk(const std::string& path,
                                                                     const BulkOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kOpenRead, path).with_context(path));
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, base_.open_bulk(path, options));
  return std::unique_ptr<BulkReadableFile>(
      std::make_unique<BulkReadable>(plan_, std::move(file), path));
}

Result<std::vector<DirectoryEntry>> FaultFileSystem::list(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kList, path).with_context(path));
  return base_.list(path);
}

Result<FileInfo> FaultFileSystem::stat(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kStat, path).with_context(path));
  return base_.stat(path);
}

Status FaultFileSystem::make_dir(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kMakeDir, path).with_context(path));
  return base_.make_dir(path);
}

Status FaultFileSystem::rename(const std::string& from, const std::string& to) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kRename, from).with_context(from));
  return base_.rename(from, to);
}

Status FaultFileSystem::remove(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kRemove, path).with_context(path));
  return base_.remove(path);
}

Status FaultFileSystem::sync_dir(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kSyncDir, path).with_context(path));
  return base_.sync_dir(path);
}

Result<uint64_t> FaultFileSystem::free_bytes(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kFreeBytes, path).with_context(path));
  return base_.free_bytes(path);
}

Status FaultFileSystem::truncate(const std::string& path, uint64_t size_bytes) {
  LOCKSTEP_RETURN_IF_ERROR(plan_->enter(FileOperation::kTruncate, path).with_context(path));
  return base_.truncate(path, size_bytes);
}

}  // namespace lockstep
