#pragma once
// A checkpoint as what it means, kinds of blocks, whatever shards they are spread over: what the
// tools read through. Every block is verified on the way.

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "lockstep/checkpoint/manifest.h"

namespace lockstep {

class BlockSource {
 public:
  /// Looks at all shards; holds at most kMaxOpenShards of them open. Errors: as read_manifest,
  /// ShardReader::open.
  static Result<BlockSource> open(FileSystem& fs, const std::string& folder);
  /// Of a manifest that was read: a shard is opened when something is read out of it, so shards
  /// that nobody needs may be bad or away; block_hashes() are not known. `fs` must outlive it.
  /// Errors: as plan_shard.
  static Result<BlockSource> open_lazily(FileSystem& fs, const std::string& folder,
                                         Manifest manifest);
  BlockSource(BlockSource&&) noexcept;
  ~BlockSource();

  const Manifest& manifest() const { return *manifest_; }
  /// Of every block of a kind, out of the checksum tables.
  const std::vector<uint64_t>& block_hashes(size_t kind_index) const { return hashes_[kind_index]; }

  /// Fills `out` with a run of blocks of a kind, wherever they lie. Thread-safety: any thread.
  /// Shapes: `out` exactly their bytes. Errors: kCorruption with file, tensor and block; kIoError;
  /// opened lazily also as ShardReader::open.
  Status read(size_t kind_index, BlockRun blocks, std::span<std::byte> out) const;

 private:
  struct Piece {
    size_t shard = 0;
    size_t extent = 0;
  };
  class OpenShards;
  BlockSource();

  std::unique_ptr<Manifest> manifest_;  // its address stays: shards point into it
  std::unique_ptr<OpenShards> shards_;
  std::vector<std::map<int64_t, Piece>> pieces_;  // of each kind, by end block
  std::vector<std::vector<uint64_t>> hashes_;     // of each kind
};

}  // namespace lockstep
