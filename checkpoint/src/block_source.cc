#include "block_source.h"

#include <algorithm>
#include <optional>

#include "block_hashes.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

/// The shards, of which only so many are open at a time; each is looked at when it is first used.
class BlockSource::OpenShards {
 public:
  OpenShards(FileSystem& fs, std::string folder, const Manifest& manifest)
      : fs_(fs), folder_(std::move(folder)), manifest_(manifest), shards_(manifest.shards.size()) {}

  /// Calls `read` with the open shard. Thread-safety: any thread.
  template <typename Read>
  Status with(size_t index, Read read) {
    LOCKSTEP_RETURN_IF_ERROR(acquire(index));
    const Status status = read(std::as_const(*shards_[index].reader));
    {
      std::lock_guard lock(mutex_);
      --shards_[index].num_users;
    }
    released_.notify_one();
    return status;
  }

  /// Perhaps closed by now. Requires: it was used.
  const ShardReader& known(size_t index) const { return *shards_[index].reader; }

 private:
  struct Shard {
    std::optional<ShardReader> reader;
    int num_users = 0;
  };

  Status open(size_t index) {
    std::optional<ShardReader>& reader = shards_[index].reader;
    if (reader) return reader->reopen();
    LOCKSTEP_ASSIGN_OR_RETURN(
        reader, ShardReader::open(fs_, folder_, manifest_.schema, manifest_.shards[index],
                                  manifest_.shard_identity(index)));
    return Status::ok();
  }

  Status acquire(size_t index) {
    std::unique_lock lock(mutex_);
    Shard& shard = shards_[index];
    while (!shard.reader || !shard.reader->is_open()) {
      if (open_.size() < kMaxOpenShards) {
        LOCKSTEP_RETURN_IF_ERROR(open(index));
        open_.push_back(index);
        break;
      }
      const auto idle = std::find_if(open_.begin(), open_.end(),
                                     [&](size_t i) { return shards_[i].num_users == 0; });
      if (idle == open_.end()) {
        released_.wait(lock);  // a thread uses a shard for one read
      } else {
        shards_[*idle].reader->close();
        open_.erase(idle);
      }
    }
    ++shard.num_users;
    return Status::ok();
  }

  FileSystem& fs_;
  std::string folder_;
  const Manifest& manifest_;
  std::mutex mutex_;
  std::condition_variable released_;
  std::vector<Shard> shards_;
  std::deque<size_t> open_;  // oldest first
};

BlockSource::BlockSource() = default;
BlockSource::BlockSource(BlockSource&&) noexcept = default;
BlockSource::~BlockSource() = default;

Result<BlockSource> BlockSource::open_lazily(FileSystem& fs, const std::string& folder,
                                             Manifest manifest) {
  BlockSource source;
  source.manifest_ = std::make_unique<Manifest>(std::move(manifest));
  const Manifest& m = *source.manifest_;
  source.shards_ = std::make_unique<OpenShards>(fs, folder, m);
  source.pieces_.resize(m.schema.kinds.size());
  for (size_t i = 0; i < m.shards.size(); ++i) {
    const auto layout = plan_shard(m.schema, m.shards[i].runs);
    if (!layout.is_ok()) return layout.status().with_context(path_join(folder, m.shards[i].file));
    for (size_t e = 0; e < layout->extents.size(); ++e) {
      const ShardExtent& extent = layout->extents[e];
      source.pieces_[extent.kind_index][extent.blocks.end] = {i, e};
    }
  }
  return source;
}

Result<BlockSource> BlockSource::open(FileSystem& fs, const std::string& folder) {
  LOCKSTEP_ASSIGN_OR_RETURN(Manifest manifest, read_manifest(fs, folder, nullptr));
  LOCKSTEP_ASSIGN_OR_RETURN(BlockSource source, open_lazily(fs, folder, std::move(manifest)));
  const size_t num_shards = source.manifest().shards.size();
  for (size_t i = 0; i < num_shards; ++i) {
    LOCKSTEP_RETURN_IF_ERROR(
        source.shards_->with(i, [](const ShardReader&) { return Status::ok(); }));
  }
  // Only now: what the manifest claims is backed by tables that were read.
  source.hashes_ = room_for_hashes(source.manifest().schema);
  for (size_t i = 0; i < num_shards; ++i) put_hashes(source.shards_->known(i), &source.hashes_);
  return source;
}

Status BlockSource::read(size_t kind_index, BlockRun blocks, std::span<std::byte> out) const {
  const FlatSpace& space = space_of(manifest_->schema, kind_index);
  while (blocks.num_blocks() > 0) {
    const auto it = pieces_[kind_index].upper_bound(blocks.first);  // coverage: there is one
    const Piece& piece = it->second;
    const BlockRun part{blocks.first, std::min(blocks.end, it->first)};
    LOCKSTEP_RETURN_IF_ERROR(shards_->with(piece.shard, [&](const ShardReader& shard) {
      return shard.read_blocks(piece.extent, part, out.first(run_bytes(space, part)));
    }));
    out = out.subspan(run_bytes(space, part));
    blocks.first = part.end;
  }
  return Status::ok();
}

}  // namespace lockstep
