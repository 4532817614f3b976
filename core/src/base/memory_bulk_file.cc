#include "memory_bulk_file.h"

#include <algorithm>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

/// What both bulk files share. Bytes move when a transfer ends, the newest one first: a caller that
/// reuses memory too early, or counts on an order, is found out.
template <typename Base>
class MemoryBulk : public Base {
 public:
  MemoryBulk(std::shared_ptr<MemoryDisk> disk, NodeId node, std::string path, int max_in_flight)
      : disk_(std::move(disk)),
        node_(node),
        path_(std::move(path)),
        max_in_flight_(static_cast<size_t>(max_in_flight)),
        epoch_(disk_->epoch) {
    ++disk_->nodes.at(node_).num_open;
  }
  ~MemoryBulk() override {
    std::lock_guard lock(disk_->mutex);
    forget();
  }

  int num_in_flight() const override { return static_cast<int>(under_way_.size()); }
  std::string_view method() const override { return "memory"; }

 protected:
  struct Transfer {
    uint64_t offset = 0;
    std::byte* data = nullptr;
    uint64_t bytes = 0;
    uint64_t ticket = 0;
  };

  Status start(const Transfer& transfer) {
    LOCKSTEP_CHECK(under_way_.size() < max_in_flight_, "too many transfers under way in ", path_);
    LOCKSTEP_CHECK(is_bulk_transfer(transfer.offset, transfer.data, transfer.bytes),
                   "a transfer of ", transfer.bytes, " bytes at ", transfer.offset,
                   " is not aligned");
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    under_way_.push_back(transfer);
    return Status::ok();
  }

  Transfer take_newest() {
    LOCKSTEP_CHECK(!under_way_.empty(), "nothing is under way in ", path_);
    const Transfer newest = under_way_.back();
    under_way_.pop_back();
    return newest;
  }

  Status require_alive(std::string_view operation) const {
    LOCKSTEP_CHECK(is_open_, operation, " of ", path_, " after close");
    if (epoch_ != disk_->epoch)
      return io_error(cat(operation, " ", path_, ": the file was open during a crash"));
    return failed_;
  }

  void forget() {
    if (is_open_ && epoch_ == disk_->epoch) --disk_->nodes.at(node_).num_open;
    is_open_ = false;
  }

  std::shared_ptr<MemoryDisk> disk_;
  NodeId node_;
  std::string path_;
  size_t max_in_flight_;
  uint64_t epoch_;
  std::vector<Transfer> under_way_;
  bool is_open_ = true;
  Status failed_;
};

class MemoryBulkWritable final : public MemoryBulk<BulkWritableFile> {
 public:
  using MemoryBulk::MemoryBulk;

  Status start_write(uint64_t offset_bytes, std::span<const std::byte> bytes,
                     uint64_t ticket) override {
    return start({offset_bytes, const_cast<std::byte*>(bytes.data()), bytes.size(), ticket});
  }

  Result<BulkEnd> wait_one(Deadline) override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_alive("write"));
    const Transfer transfer = take_newest();
    failed_ = disk_->write(node_, path_, transfer.offset, {transfer.data, transfer.bytes});
    LOCKSTEP_RETURN_IF_ERROR(failed_);
    return BulkEnd{transfer.ticket, transfer.bytes};
  }

  Status set_size(uint64_t size_bytes) override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_idle("set size"));
    disk_->change_size(node_, path_, size_bytes);
    return Status::ok();
  }

  Status sync() override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_idle("sync"));
    disk_->make_durable(node_);
    return Status::ok();
  }

  Status close() override {
    std::lock_guard lock(disk_->mutex);
    forget();
    return Status::ok();
  }

 private:
  Status require_idle(std::string_view operation) const {
    LOCKSTEP_CHECK(under_way_.empty(), operation, " of ", path_, " with transfers under way");
    return require_alive(operation);
  }
};

class MemoryBulkReadable final : public MemoryBulk<BulkReadableFile> {
 public:
  using MemoryBulk::MemoryBulk;

  Status start_read(uint64_t offset_bytes, std::span<std::byte> into, uint64_t ticket) override {
    return start({offset_bytes, into.data(), into.size(), ticket});
  }

  Result<BulkEnd> wait_one(Deadline) override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_alive("read"));
    const Transfer transfer = take_newest();
    const FileBytes& content = disk_->nodes.at(node_).seen;
    const uint64_t begin = std::min<uint64_t>(transfer.offset, content.size());
    const uint64_t bytes = std::min<uint64_t>(transfer.bytes, content.size() - begin);
    std::copy_n(content.begin() + static_cast<ptrdiff_t>(begin), bytes, transfer.data);
    return BulkEnd{transfer.ticket, bytes};
  }

  Result<uint64_t> size_bytes() const override {
    std::lock_guard lock(disk_->mutex);
    LOCKSTEP_RETURN_IF_ERROR(require_alive("read"));
    return static_cast<uint64_t>(disk_->nodes.at(node_).seen.size());
  }
};

}  // namespace

std::unique_ptr<BulkWritableFile> make_memory_bulk_writable(std::shared_ptr<MemoryDisk> disk,
                                                            NodeId node, const std::string& path,
                                                            const BulkOptions& options) {
  return std::make_unique<MemoryBulkWritable>(std::move(disk), node, path, options.max_in_flight);
}

std::unique_ptr<BulkReadableFile> make_memory_bulk_readable(std::shared_ptr<MemoryDisk> disk,
                                                            NodeId node, const std::string& path,
                                                            const BulkOptions& options) {
  return std::make_unique<MemoryBulkReadable>(std::move(disk), node, path, options.max_in_flight);
}

}  // namespace lockstep
