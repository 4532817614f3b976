#include "lockstep/core/base/memory_file_system.h"

#include <algorithm>

#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"
#include "memory_bulk_file.h"
#include "memory_disk.h"

namespace lockstep {

class MemoryFileSystem::Writable final : public WritableFile {
 public:
  Writable(std::shared_ptr<MemoryDisk> disk, NodeId node, std::string path, bool appends)
      : disk_(std::move(disk)),
        node_(node),
        path_(std::move(path)),
        appends_(appends),
        epoch_(disk_->epoch) {
    ++disk_->nodes.at(node_).num_open;
  }
  ~Writable() override { close().ignore(); }  // closing in memory can't fail

  Status write(std::span<const std::byte> bytes) override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_usable("write"));
    const uint64_t offset = appends_ ? disk_->nodes.at(node_).seen.size() : position_;
    failed_ = disk_->write(node_, path_, offset, bytes);
    position_ = offset + bytes.size();
    return failed_;
  }

  Status cut(uint64_t size_bytes) override {
    std::lock_guard lock(disk_->mutex);
    failed_ = Status::ok();  // nothing but lack of room fails here
    LOCKSTEP_RETURN_IF_ERROR(require_usable("cut"));
    disk_->change_size(node_, path_, size_bytes);
    position_ = size_bytes;
    return Status::ok();
  }

  Status sync() override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_usable("sync"));
    disk_->make_durable(node_);
    return Status::ok();
  }

  Status close() override {
    std::lock_guard lock(disk_->mutex);
    if (is_open_ && epoch_ == disk_->epoch) --disk_->nodes.at(node_).num_open;
    is_open_ = false;
    return Status::ok();
  }

 private:
  Status require_usable(std::string_view operation) const {
    LOCKSTEP_CHECK(is_open_, operation, " of ", path_, " after close");
    if (epoch_ != disk_->epoch)
      return io_error(cat(operation, " ", path_, ": the file was open during a crash"));
    return failed_;
  }

  std::shared_ptr<MemoryDisk> disk_;
  NodeId node_;
  std::string path_;
  bool appends_;
  uint64_t epoch_;
  uint64_t position_ = 0;
  bool is_open_ = true;
  Status failed_;
};

class MemoryFileSystem::Readable final : public ReadableFile {
 public:
  Readable(std::shared_ptr<MemoryDisk> disk, NodeId node, std::string path)
      : disk_(std::move(disk)), node_(node), path_(std::move(path)), epoch_(disk_->epoch) {
    ++disk_->nodes.at(node_).num_open;
  }
  ~Readable() override {
    std::lock_guard lock(disk_->mutex);
    if (epoch_ == disk_->epoch) --disk_->nodes.at(node_).num_open;
  }

  Status read(uint64_t offset_bytes, std::span<std::byte> out) const override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_alive());
    const FileBytes& content = disk_->nodes.at(node_).seen;
    if (offset_bytes > content.size() || out.size() > content.size() - offset_bytes)
      return corruption_error(cat("read ", path_, ": the file ends at byte ", content.size(),
                                  ", expected ", out.size(), " bytes from byte ", offset_bytes));
    std::copy_n(content.begin() + static_cast<ptrdiff_t>(offset_bytes), out.size(), out.begin());
    return Status::ok();
  }

  Result<uint64_t> size_bytes() const override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_alive());
    return static_cast<uint64_t>(disk_->nodes.at(node_).seen.size());
  }

 private:
  Status require_alive() const {
    if (epoch_ != disk_->epoch)
      return io_error(cat("read ", path_, ": the file was open during a crash"));
    return Status::ok();
  }

  std::shared_ptr<MemoryDisk> disk_;
  NodeId node_;
  std::string path_;
  uint64_t epoch_;
};

MemoryFileSystem::MemoryFileSystem() : disk_(std::make_shared<MemoryDisk>()) {}
MemoryFileSystem::~MemoryFileSystem() = default;

Result<int64_t> MemoryFileSystem::create_or_open(const std::string& path, OpenMode mode) {
  constexpr std::string_view kOperation = "open for writing";
  LOCKSTEP_ASSIGN_OR_RETURN(auto place, disk_->find(kOperation, path));
  if (place.node) {
    if (mode == OpenMode::kCreateExclusive)
      return already_exists_error(cat(kOperation, " ", path, ": File exists"));
    if (disk_->nodes.at(*place.node).is_directory)
      return io_error(cat(kOperation, " ", path, ": Is a directory"));
    if (mode == OpenMode::kTruncate) disk_->change_size(*place.node, path, 0);
  } else {
    place.node = disk_->add_node(/*is_directory=*/false);
    disk_->change_names(place.folder, cat("create ", path), {{place.name, *place.node}});
  }
  return *place.node;
}

Result<std::unique_ptr<WritableFile>> MemoryFileSystem::open_write(const std::string& path,
                                                                   OpenMode mode) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId node, create_or_open(path, mode));
  return std::unique_ptr<WritableFile>(
      std::make_unique<Writable>(disk_, node, path, mode == OpenMode::kAppend));
}

Result<std::unique_ptr<BulkWritableFile>> MemoryFileSystem::create_bulk(
    const std::string& path, const BulkOptions& options) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId node, create_or_open(path, OpenMode::kCreateExclusive));
  return make_memory_bulk_writable(disk_, node, path, options);
}

Result<std::unique_ptr<BulkReadableFile>> MemoryFileSystem::open_bulk(const std::string& path,
                                                                      const BulkOptions& options) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId id, disk_->find_existing("open for reading", path));
  if (disk_->nodes.at(id).is_directory)
    return io_error(cat("open for reading ", path, ": not a regular file but a folder"));
  return make_memory_bulk_readable(disk_, id, path, options);
}

Result<std::unique_ptr<ReadableFile>> MemoryFileSystem::open_read(const std::string& path) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId id, disk_->find_existing("open for reading", path));
  if (disk_->nodes.at(id).is_directory)
    return io_error(cat("open for reading ", path, ": not a regular file but a folder"));
  return std::unique_ptr<ReadableFile>(std::make_unique<Readable>(disk_, id, path));
}

Result<std::vector<DirectoryEntry>> MemoryFileSystem::list(const std::string& path) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId id, disk_->find_folder("list", path));
  std::vector<DirectoryEntry> entries;
  for (const auto& [name, child] : disk_->nodes.at(id).seen_names)
    entries.push_back(
        {name, disk_->nodes.at(child).is_directory ? FileType::kDirectory : FileType::kFile});
  return entries;
}

Result<FileInfo> MemoryFileSystem::stat(const std::string& path) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId id, disk_->find_existing("stat", path));
  const MemoryNode& node = disk_->nodes.at(id);
  return FileInfo{.type = node.is_directory ? FileType::kDirectory : FileType::kFile,
                  .size_bytes = node.seen.size()};
}

Status MemoryFileSystem::make_dir(const std::string& path) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const auto place, disk_->find("make folder", path));
  if (place.node) return already_exists_error(cat("make folder ", path, ": File exists"));
  const NodeId id = disk_->add_node(/*is_directory=*/true);
  disk_->change_names(place.folder, cat("make folder ", path), {{place.name, id}});
  return Status::ok();
}

Status MemoryFileSystem::rename(const std::string& from, const std::string& to) {
  std::lock_guard lock(disk_->mutex);
  const std::string what = cat("rename ", from, " to ", to);
  LOCKSTEP_ASSIGN_OR_RETURN(const auto source, disk_->find("rename", from));
  if (!source.node) return not_found_error(cat(what, ": ", kNoSuchName));
  LOCKSTEP_ASSIGN_OR_RETURN(const auto target, disk_->find("rename", to));
  const bool moves_folder = disk_->nodes.at(*source.node).is_directory;
  if (target.node && (moves_folder || disk_->nodes.at(*target.node).is_directory))
    return already_exists_error(cat(what, ": File exists"));
  if (target.node == source.node) return Status::ok();
  if (moves_folder && disk_->is_inside(target.folder, *source.node))
    return io_error(cat(what, ": Invalid argument"));
  if (source.folder == target.folder) {
    disk_->change_names(source.folder, what,
                        {{source.name, std::nullopt}, {target.name, *source.node}});
  } else {
    disk_->change_names(target.folder, what + " (the new name)", {{target.name, *source.node}});
    disk_->change_names(source.folder, what + " (the old name)", {{source.name, std::nullopt}});
  }
  return Status::ok();
}

Status MemoryFileSystem::remove(const std::string& path) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const auto place, disk_->find("remove", path));
  if (!place.node) return not_found_error(cat("remove ", path, ": ", kNoSuchName));
  if (!disk_->nodes.at(*place.node).seen_names.empty())
    return io_error(cat("remove ", path, ": Directory not empty"));
  LOCKSTEP_CHECK(!place.name.empty(), "the root folder can't be removed");
  disk_->change_names(place.folder, cat("remove ", path), {{place.name, std::nullopt}});
  return Status::ok();
}

Status MemoryFileSystem::sync_dir(const std::string& path) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId id, disk_->find_folder("open folder", path));
  disk_->make_durable(id);
  return Status::ok();
}

Result<uint64_t> MemoryFileSystem::free_bytes(const std::string& path) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_RETURN_IF_ERROR(disk_->find_existing("ask for free space of", path).status());
  const uint64_t used = disk_->used_bytes();
  return disk_->capacity_bytes > used ? disk_->capacity_bytes - used : 0;
}

Status MemoryFileSystem::truncate(const std::string& path, uint64_t size_bytes) {
  std::lock_guard lock(disk_->mutex);
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId id, disk_->find_existing("open to truncate", path));
  if (disk_->nodes.at(id).is_directory)
    return io_error(cat("open to truncate ", path, ": Is a directory"));
  disk_->change_size(id, path, size_bytes);
  return Status::ok();
}

void MemoryFileSystem::set_capacity_bytes(uint64_t capacity_bytes) {
  std::lock_guard lock(disk_->mutex);
  disk_->capacity_bytes = capacity_bytes;
}

std::vector<UnsyncedOperation> MemoryFileSystem::unsynced() const {
  std::lock_guard lock(disk_->mutex);
  std::vector<UnsyncedOperation> operations;
  for (const PendingOperation& op : disk_->pending) operations.push_back(op.description);
  return operations;
}

std::unique_ptr<MemoryFileSystem> MemoryFileSystem::after_crash(
    const std::vector<CrashFate>& fates) const {
  auto copy = std::make_unique<MemoryFileSystem>();
  std::lock_guard lock(disk_->mutex);
  copy->disk_->nodes = disk_->nodes;
  copy->disk_->next_id = disk_->next_id;
  copy->disk_->pending = disk_->pending;
  copy->disk_->capacity_bytes = disk_->capacity_bytes;
  copy->disk_->crash(fates);
  return copy;
}

void MemoryFileSystem::crash(const std::vector<CrashFate>& fates) {
  std::lock_guard lock(disk_->mutex);
  disk_->crash(fates);
}

std::vector<CrashFate> MemoryFileSystem::uniform_fates(CrashFate::Kind kind) const {
  return std::vector<CrashFate>(unsynced().size(), CrashFate{kind});
}

void MemoryFileSystem::crash_losing_all() {
  crash(uniform_fates(CrashFate::Kind::kLost));
}
void MemoryFileSystem::crash_keeping_all() {
  crash(uniform_fates(CrashFate::Kind::kKept));
}

void MemoryFileSystem::crash_at_random(uint64_t seed) {
  std::vector<CrashFate> fates;
  for (const auto& op : unsynced()) {
    const uint64_t draw = mix(seed, fates.size(), 0);
    CrashFate fate{draw % 2 == 0 ? CrashFate::Kind::kLost : CrashFate::Kind::kKept};
    if (op.kind == UnsyncedOperation::Kind::kData) {
      fate.kind = static_cast<CrashFate::Kind>(draw % 4);
      fate.kept_bytes = op.size_bytes == 0 ? 0 : mix(seed, fates.size(), 1) % op.size_bytes;
    }
    fates.push_back(fate);
  }
  crash(fates);
}

}  // namespace lockstep
