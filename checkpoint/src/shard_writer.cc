#include "shard_writer.h"

#include <algorithm>
#include <map>

#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/bulk_file.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr int kMaxInFlight = 8;

/// Sleeps so that no more than a given rate is asked of the disk.
class RateLimit {
 public:
  explicit RateLimit(uint64_t max_bytes_per_s) : max_bytes_per_s_(max_bytes_per_s) {}
  void spend(uint64_t bytes) {
    if (max_bytes_per_s_ == 0) return;
    spent_bytes_ += bytes;
    const double ahead_s =
        static_cast<double>(spent_bytes_) / static_cast<double>(max_bytes_per_s_) -
        watch_.elapsed_s();
    if (ahead_s > 0) sleep_ns(static_cast<int64_t>(ahead_s * 1e9));
  }

 private:
  uint64_t max_bytes_per_s_;
  uint64_t spent_bytes_ = 0;
  Stopwatch watch_;
};

/// Moves the pieces of a staging into a file.
class PieceMover {
 public:
  PieceMover(Staging& staging, BulkWritableFile& file, uint64_t data_offset,
             const ShardWriteOptions& options)
      : staging_(staging),
        file_(file),
        data_offset_(data_offset),
        options_(options),
        limit_(options.max_bytes_per_s) {}

  Status run() {
    while (true) {
      LOCKSTEP_ASSIGN_OR_RETURN(const bool has_started, start_next());
      if (has_started) continue;
      if (file_.num_in_flight() > 0) {
        LOCKSTEP_RETURN_IF_ERROR(finish_one());
      } else if (staging_.is_all_taken()) {
        return Status::ok();
      } else {
        LOCKSTEP_RETURN_IF_ERROR(staging_.wait_filled(deadline()));
      }
    }
  }

 private:
  Deadline deadline() const { return Deadline::after_s(options_.timeout_s); }

  Result<bool> start_next() {
    if (file_.num_in_flight() >= kMaxInFlight) return false;
    if (options_.fills_itself && !staging_.is_filled() && staging_.has_room()) {
      LOCKSTEP_RETURN_IF_ERROR(staging_.fill_next(deadline()));
    }
    const auto piece = staging_.take();
    if (!piece) return false;
    limit_.spend(piece->bytes.size());
    under_way_.emplace(piece->offset, *piece);
    LOCKSTEP_RETURN_IF_ERROR(
        file_.start_write(data_offset_ + piece->offset, piece->bytes, piece->offset));
    return true;
  }

  Status finish_one() {
    LOCKSTEP_ASSIGN_OR_RETURN(const BulkEnd end, file_.wait_one(deadline()));
    const auto it = under_way_.find(end.ticket);
    if (it == under_way_.end()) return Status::ok();  // the header
    staging_.give_back(it->second);
    under_way_.erase(it);
    return Status::ok();
  }

  Staging& staging_;
  BulkWritableFile& file_;
  uint64_t data_offset_;
  const ShardWriteOptions& options_;
  RateLimit limit_;
  std::map<uint64_t, StagedPiece> under_way_;
};

}  // namespace

Result<WrittenShard> write_shard(FileSystem& fs, const std::string& folder,
                                 const StateSchema& schema, const ShardIdentity& identity,
                                 Staging& staging, const ShardWriteOptions& options) {
  constexpr uint64_t kHeaderTicket = UINT64_MAX;
  const std::string path = path_join(folder, shard_file(identity.shard));
  const std::string prefix = shard_prefix(schema, staging.layout(), identity);
  LOCKSTEP_ASSIGN_OR_RETURN(const AlignedBuffer header, AlignedBuffer::make(prefix.size()));
  std::copy_n(std::as_bytes(std::span(prefix)).begin(), prefix.size(), header.bytes().begin());

  WrittenShard shard;
  shard.bytes = prefix.size() + staging.layout().data_bytes();
  shard.header_hash = xxh3_128(prefix);
  BulkOptions bulk;
  bulk.method = options.method;
  bulk.expected_bytes = shard.bytes;
  bulk.max_in_flight = kMaxInFlight;
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs.create_bulk(path, bulk));
  LOCKSTEP_RETURN_IF_ERROR(
      file->start_write(0, header.bytes().first(prefix.size()), kHeaderTicket));
  LOCKSTEP_RETURN_IF_ERROR(PieceMover(staging, *file, prefix.size(), options).run());
  LOCKSTEP_RETURN_IF_ERROR(file->set_size(shard.bytes));
  const Stopwatch sync_watch;
  LOCKSTEP_RETURN_IF_ERROR(file->sync());
  shard.sync_ms = sync_watch.elapsed_ms();
  shard.method = file->method();
  LOCKSTEP_RETURN_IF_ERROR(file->close());
  LOCKSTEP_ASSIGN_OR_RETURN(const FileInfo info, fs.stat(path));
  if (info.size_bytes != shard.bytes) {
    return io_error(cat(path, ": wrote ", shard.bytes, " bytes, the file has ", info.size_bytes));
  }
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(folder));
  shard.table_hash = xxh3_128(staging.table());
  return shard;
}

}  // namespace lockstep
