#pragma once
// Staging: one step's owned blocks, copied piece by piece out of the live state together with their
// checksums, which a device computes of its own memory. The pieces follow each other as the data of
// a shard file: blocks, checksum table, and zeros to the next multiple of kBulkAlignBytes. One side
// fills pieces (it alone looks at the live memory), the other takes them in order, writes them and
// gives their buffers back; where the budget is smaller than the state, the filling side waits for
// buffers. They may be two threads or one. Buffers are kept for the next save.
//
// Thread-safety: fill_next/is_filled/has_room on one thread, take/give_back on one other; stop() on
// both; begin() while neither is at work.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lockstep/checkpoint/shard_file.h"
#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/deadline.h"
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

/// A filled piece of a shard's data.
struct StagedPiece {
  size_t buffer = 0;
  uint64_t offset = 0;               ///< in the data
  std::span<const std::byte> bytes;  ///< aligned, padded
};

class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  /// Begins a save: plans its pieces, copies nothing yet. At most `budget_bytes` of buffers (two
  /// pieces at least); 0: as many as the state needs. Requires: `schema` and `owned` live until
  /// is_filled(). Errors: as index_slices.
  Status begin(const StateSchema& schema, const OwnedState& owned, uint64_t budget_bytes,
               uint64_t piece_bytes);

  const std::vector<KindRuns>& runs() const { return runs_; }
  const ShardLayout& layout() const { return layout_; }
  /// The checksum table, once is_filled().
  std::span<const std::byte> table() const { return std::as_bytes(std::span(hashes_)); }
  uint64_t capacity_bytes();

  bool is_filled() const { return next_offset_ >= layout_.data_bytes(); }
  /// Whether fill_next() would not wait.
  bool has_room();
  /// Copies the next piece and, on the host, hashes it. Requires: !is_filled().
  /// Errors: kResourceExhausted (memory); kTimeout when no buffer came back; that of stop().
  Status fill_next(Deadline deadline);

  /// The next filled piece; nothing when there is none now, or no more.
  std::optional<StagedPiece> take();
  bool is_all_taken();
  /// Waits for a piece to take. Requires: !is_all_taken(). Errors: kTimeout; that of stop().
  Status wait_filled(Deadline deadline);
  void give_back(const StagedPiece& piece);

  /// What the copying took so far, with waits for buffers.
  double fill_ms();

  /// One side has failed: the other returns this instead of waiting.
  void stop(Status why);

 private:
  bool has_buffer();
  Result<size_t> free_buffer(Deadline deadline);
  /// What of the state comes next, from where the save is or was told to be.
  struct Cursor {
    size_t slice = 0;
    int64_t block = 0;           // of that slice
    uint64_t done_of_block = 0;  // bytes of a block that a piece's end has cut
  };
  std::span<const std::byte> rest_of_block(const Cursor& at) const;
  void advance(uint64_t bytes, bool is_block_done, Cursor* at) const;
  /// A piece whose blocks are on their way from a device; on the host one that is copied when it
  /// is filled.
  struct PieceAhead {
    size_t buffer = 0;
    Cursor end;              // behind its blocks
    uint64_t num_bytes = 0;  // of them
    CopyMark copied;
  };
  Status make_room_for_hashes();
  void unpin_hashes();
  void begin_hashes();
  PieceAhead begin_piece(size_t buffer, Cursor at);
  uint64_t fill(const PieceAhead& piece, std::span<std::byte> to);
  uint64_t take_blocks(const PieceAhead& piece);
  uint64_t copy_blocks(std::span<std::byte> to);
  void drop_ahead();
  void unpin_all();

  std::vector<KindRuns> runs_;
  ShardLayout layout_;
  uint64_t piece_bytes_ = 0;
  std::vector<AlignedBuffer> buffers_;
  AlignedBuffer hashes_of_device_;  // where they arrive
  std::shared_ptr<StateMemory> pinned_by_;

  // The filling side's.
  const StateSchema* schema_ = nullptr;
  std::vector<IndexedSlice> slices_;
  Cursor next_;
  std::shared_ptr<StateMemory> device_;  // where the state is, if not in ordinary memory
  std::optional<PieceAhead> ahead_;
  std::optional<Xxh3Stream> hash_of_cut_;
  uint64_t next_offset_ = 0;
  std::vector<uint64_t> hashes_;

  // Shared.
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t max_buffers_ = 0;
  std::vector<size_t> free_;
  std::vector<StagedPiece> filled_;  // in order
  size_t num_taken_ = 0;
  size_t num_pieces_ = 0;
  double fill_ms_ = 0;
  Status stopped_;
};

}  // namespace lockstep
