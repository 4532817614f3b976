#pragma once
// A shard: what one rank owned, as one safetensors file. Its tensors are runs of whole blocks of a
// kind of value, then one U64 tensor with the XXH3-64 of each block. Where everything lies follows
// from the list of runs alone, so the manifest need not repeat it. Format: FORMAT.md, "Shards".
// Thread-safety: const members from any thread.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {

/// How many shards a reader of whole checkpoints holds open at once: far below what systems allow.
inline constexpr size_t kMaxOpenShards = 64;

/// Runs of blocks of one kind, ascending, neither overlapping nor touching.
struct KindRuns {
  StateKind kind;
  std::vector<BlockRun> runs;
  bool operator==(const KindRuns&) const = default;
};

/// One run of a shard with its place in the file.
struct ShardExtent {
  size_t kind_index = 0;  ///< into StateSchema::kinds
  BlockRun blocks;
  uint64_t begin = 0;  ///< relative to the start of the data
  uint64_t end = 0;
  size_t first_hash = 0;  ///< of its first block, in the checksum table
};

/// Where everything in a shard lies, in file order.
struct ShardLayout {
  std::vector<ShardExtent> extents;
  size_t num_blocks = 0;
  uint64_t table_begin = 0;  ///< of the checksum table: after the last extent
  uint64_t data_bytes() const { return table_begin + 8 * num_blocks; }
};

/// Orders the runs by (kind in the schema's order, first block) and gives each its place.
/// Errors: kCorruption when a kind is unknown or listed twice, or a run is empty, outside its space
/// or out of order.
Result<ShardLayout> plan_shard(const StateSchema& schema, const std::vector<KindRuns>& runs);

/// The flat space of a kind of the schema. Requires: the schema's layout has it.
const FlatSpace& space_of(const StateSchema& schema, size_t kind_index);
/// Bytes of a run of blocks of that space.
uint64_t run_bytes(const FlatSpace& space, BlockRun blocks);

/// What a shard says of itself in its safetensors metadata.
struct ShardIdentity {
  GenerationName checkpoint;
  ShardName shard;
};

/// The bytes of the file before the data.
std::string shard_prefix(const StateSchema& schema, const ShardLayout& layout,
                         const ShardIdentity& identity);

/// How a manifest describes a shard.
struct ShardEntry {
  std::string file;
  uint64_t bytes = 0;
  std::vector<KindRuns> runs;
  Hash128 header_hash;  ///< XXH3-128 of all bytes before the data
  Hash128 table_hash;   ///< XXH3-128 of the checksum table
};

/// Where a block lies in its file.
struct BlockPlace {
  uint64_t file_begin = 0;
  uint64_t bytes = 0;
};

/// A committed shard that was opened and found to be what its manifest entry says: name, size,
/// header, checksum table. It holds its file open: readers of many shards close() those they do not
/// need at the moment.
class ShardReader {
 public:
  /// `folder` holds the file. Errors: kCorruption with file and what is wrong; kNotFound; kIoError.
  static Result<ShardReader> open(FileSystem& fs, const std::string& folder,
                                  const StateSchema& schema, const ShardEntry& entry,
                                  const ShardIdentity& identity);

  const ShardLayout& layout() const { return layout_; }
  /// One for each block, in file order.
  const std::vector<uint64_t>& block_hashes() const { return hashes_; }
  /// Fills `out` with `blocks` of an extent, each block verified against the table.
  /// Shapes: `blocks` inside the extent's; `out` exactly their bytes. Requires: is_open().
  /// Errors: kCorruption with file, tensor and block; kIoError. On error `out` holds anything.
  Status read_blocks(size_t extent_index, BlockRun blocks, std::span<std::byte> out) const;
  /// Requires: the block is in that extent of the layout.
  BlockPlace place_of(size_t extent_index, int64_t block) const;
  /// Whether a block with the hash `found` is the one that was saved. Errors: kCorruption with
  /// file, tensor and block.
  Status check_hash(size_t extent_index, int64_t block, uint64_t found) const;
  const std::string& path() const { return path_; }
  bool is_open() const { return file_ != nullptr; }
  /// Gives the file back to the system; reopen() takes it again. What was verified stays known.
  void close() { file_.reset(); }
  /// Errors: kNotFound; kIoError.
  Status reopen();

 private:
  ShardReader() = default;
  FileSystem* fs_ = nullptr;
  std::unique_ptr<ReadableFile> file_;
  std::string path_;
  const StateSchema* schema_ = nullptr;
  ShardLayout layout_;
  std::vector<uint64_t> hashes_;
  uint64_t data_offset_ = 0;
};

}  // namespace lockstep
