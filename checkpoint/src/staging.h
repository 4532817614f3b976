#pragma once
// Staging: one step's owned blocks, copied out of the live state together with their checksums.
// After stage() the live memory may change again; everything later in a save works on this copy.
// The memory is kept for the next save.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/checkpoint/shard_file.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// A slice of the live state with its kind as a number in the schema that index_slices() was given.
struct IndexedSlice {
  size_t kind_index = 0;
  const StateSlice* slice = nullptr;
};
/// Slices by (kind, first block), without the empty ones.
/// Errors: kInternal when a kind is unknown, blocks overlap or lie outside, or the memory has
/// another size.
Result<std::vector<IndexedSlice>> index_slices(const StateSchema& schema, const OwnedState& owned);
/// The slices as runs; touching ones become one.
std::vector<KindRuns> runs_of(const StateSchema& schema, const std::vector<IndexedSlice>& slices);

class Staging {
 public:
  /// Copies and hashes. Errors: as index_slices.
  Status stage(const StateSchema& schema, const OwnedState& owned);

  const std::vector<KindRuns>& runs() const { return runs_; }
  const ShardLayout& layout() const { return layout_; }
  /// The data of the shard file up to the checksum table.
  std::span<const std::byte> bytes() const { return {buffer_.get(), layout_.table_begin}; }
  std::span<const std::byte> table() const { return std::as_bytes(std::span(hashes_)); }
  uint64_t capacity_bytes() const { return capacity_bytes_ + 8 * hashes_.capacity(); }

 private:
  std::vector<KindRuns> runs_;
  ShardLayout layout_;
  std::vector<uint64_t> hashes_;
  std::unique_ptr<std::byte[]> buffer_;
  uint64_t capacity_bytes_ = 0;
};

/// What a rank wrote.
struct WrittenShard {
  uint64_t bytes = 0;
  Hash128 header_hash;
  Hash128 table_hash;
};
/// Writes the staged state as a shard into `folder`: exclusive, synced, closed, its size checked,
/// the folder synced. Errors: kAlreadyExists, kIoError, kResourceExhausted. A failed sync is final.
Result<WrittenShard> write_shard(FileSystem& fs, const std::string& folder,
                                 const StateSchema& schema, const ShardIdentity& identity,
                                 const Staging& staging);

}  // namespace lockstep
