#pragma once
// Reads blocks of shards in large pieces, several under way at once; each block is verified on its
// way to the memory that asked for it.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "lockstep/checkpoint/shard_file.h"
#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/file_system.h"

namespace lockstep {

/// Blocks of one extent of a shard, and where they go.
struct ReadItem {
  size_t extent_index = 0;  ///< into the shard's layout
  BlockRun blocks;
  std::span<std::byte> to;        ///< exactly their bytes; empty: only verified
  StateMemory* memory = nullptr;  ///< that `to` is in; null: ordinary memory
};

struct BlockStreamOptions {
  BulkMethod method = BulkMethod::kAuto;
  bool may_read_cache = true;  ///< false: what the disk itself has
  double timeout_s = 0;        ///< for one read to end
  int max_in_flight = 8;
};

/// Keeps its buffers from shard to shard. Thread-safety: one thread at a time.
class BlockStream {
 public:
  BlockStream(FileSystem& fs, const BlockStreamOptions& options) : fs_(fs), options_(options) {}

  /// Reads `items` (ascending in the file) of an opened shard. A block reaches its memory only
  /// with the bytes that its hash names, or the call fails. Errors: kCorruption with file, tensor
  /// and block; kNotFound; kIoError; kTimeout; kResourceExhausted. On error the memory holds
  /// what it held, true blocks, and zeros for one that was found false.
  Status read(const ShardReader& shard, const std::vector<ReadItem>& items);
  /// Every block of a shard, verified. Errors: as read.
  Status verify(const ShardReader& shard);

  /// What was read of the disk for blocks so far, with what alignment adds.
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  /// Blocks that lie behind each other in the file, as one transfer.
  struct Window {
    uint64_t begin = 0;  ///< in the file, aligned
    uint64_t bytes = 0;  ///< aligned
    size_t first_item = 0;
    int64_t first_block = 0;
    size_t num_blocks = 0;
    size_t buffer = 0;
  };
  struct Cursor {
    size_t item = 0;
    int64_t block = 0;
  };

  static void advance(const std::vector<ReadItem>& items, Cursor* cursor);
  Window next_window(const ShardReader& shard, const std::vector<ReadItem>& items,
                     Cursor* cursor) const;
  Status hand_out(const ShardReader& shard, const std::vector<ReadItem>& items,
                  const Window& window, uint64_t bytes) const;
  Status hand_out_blocks(const ShardReader& shard, const std::vector<ReadItem>& items,
                         const Window& window, uint64_t bytes, StateMemory** written) const;
  Status make_buffers();

  FileSystem& fs_;
  BlockStreamOptions options_;
  std::vector<AlignedBuffer> buffers_;
  uint64_t bytes_read_ = 0;
};

}  // namespace lockstep
