#include "block_source.h"

#include <algorithm>

#include "lockstep/core/base/text.h"

namespace lockstep {

/// The shards, of which only so many are open at a time.
class BlockSource::OpenShards {
 public:
  /// Requires: a closed reader.
  void add(ShardReader reader) { shards_.push_back({std::move(reader)}); }

  /// Calls `read` with the open shard. Thread-safety: any thread.
  template <typename Read>
  Status with(size_t index, Read read) {
    LOCKSTEP_RETURN_IF_ERROR(acquire(index));
    const Status status = read(std::as_const(shards_[index].reader));
    {
      std::lock_guard lock(mutex_);
      --shards_[index].num_users;
    }
    released_.notify_one();
    return status;
  }

 private:
  struct Shard {
    ShardReader reader;
    int num_users = 0;
  };

  Status acquire(size_t index) {
    std::unique_lock lock(mutex_);
    Shard& shard = shards_[index];
    while (!shard.reader.is_open()) {
      if (open_.size() < kMaxOpenShards) {
        LOCKSTEP_RETURN_IF_ERROR(shard.reader.reopen());
        open_.push_back(index);
        break;
      }
      const auto idle = std::find_if(open_.begin(), open_.end(),
                                     [&](size_t i) { return shards_[i].num_users == 0; });
      if (idle == open_.end()) {
        released_.wait(lock);  // a thread uses a shard for one read
      } else {
        shards_[*idle].reader.close();
        open_.erase(idle);
      }
    }
    ++shard.num_users;
    return Status::ok();
  }

  std::mutex mutex_;
  std::condition_variable released_;
  std::vector<Shard> shards_;
  std::deque<size_t> open_;  // oldest first
};

BlockSource::BlockSource() = default;
BlockSource::BlockSource(BlockSource&&) noexcept = default;
BlockSource::~BlockSource() = default;

Result<BlockSource> BlockSource::open(FileSystem& fs, const std::string& folder) {
  BlockSource source;
  LOCKSTEP_ASSIGN_OR_RETURN(Manifest manifest, read_manifest(fs, folder, nullptr));
  source.manifest_ = std::make_unique<Manifest>(std::move(manifest));
  source.shards_ = std::make_unique<OpenShards>();
  const Manifest& m = *source.manifest_;
  std::vector<ShardReader> readers;
  for (size_t i = 0; i < m.shards.size(); ++i) {
    LOCKSTEP_ASSIGN_OR_RETURN(
        ShardReader shard,
        ShardReader::open(fs, folder, m.schema, m.shards[i], m.shard_identity(i)));
    shard.close();
    readers.push_back(std::move(shard));
  }
  // Only now: what the manifest claims is backed by tables that were read.
  source.pieces_.resize(m.schema.kinds.size());
  for (size_t k = 0; k < m.schema.kinds.size(); ++k)
    source.hashes_.emplace_back(static_cast<size_t>(space_of(m.schema, k).num_blocks()));
  for (size_t i = 0; i < readers.size(); ++i) {
    const ShardReader& shard = readers[i];
    for (size_t e = 0; e < shard.layout().extents.size(); ++e) {
      const ShardExtent& extent = shard.layout().extents[e];
      source.pieces_[extent.kind_index][extent.blocks.end] = {i, e};
      const auto from = shard.block_hashes().begin() + static_cast<ptrdiff_t>(extent.first_hash);
      std::copy(from, from + extent.blocks.num_blocks(),
                source.hashes_[extent.kind_index].begin() + extent.blocks.first);
    }
    source.shards_->add(std::move(readers[i]));
  }
  return source;
}

Status BlockSource::read(size_t kind_index, BlockRun blocks, std::span<std::byte> out) const {
  const FlatSpace& space = space_of(manifest_->schema, kind_index);
  while (blocks.num_blocks() > 0) {
    const Piece piece = pieces_[kind_index].upper_bound(blocks.first)->second;  // coverage: it is
    int64_t end = blocks.first;
    LOCKSTEP_RETURN_IF_ERROR(shards_->with(piece.shard, [&](const ShardReader& shard) {
      const ShardExtent& extent = shard.layout().extents[piece.extent];
      end = std::min(blocks.end, extent.blocks.end);
      const BlockRun part{blocks.first, end};
      return shard.read_blocks(piece.extent, part, out.first(run_bytes(space, part)));
    }));
    out = out.subspan(run_bytes(space, {blocks.first, end}));
    blocks.first = end;
  }
  return Status::ok();
}

}  // namespace lockstep
