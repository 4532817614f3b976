#pragma once
// SaveRecord: what one save came to and what it cost, phase by phase and rank by rank. Values that
// the keeper fills, the step loop hands on and observers write down. Must not know: how a
// checkpoint is made. Thread-safety: values.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

/// What became of a save, or how far it came. Never a guess: a word is used only by who knows.
enum class SaveWord : uint8_t {
  kStaged,   ///< this rank's part is copied; nothing of it need be on a disk
  kWritten,  ///< the shards of all ranks are on the disk and synced; not committed
  kDurable,  ///< committed and synced, and this rank was told so
  kFailed,   ///< nothing of it will ever be read; the checkpoint before is untouched
  kUnknown,  ///< it may have become durable; the next start finds out
};
/// "staged", "written", "durable", "failed", "unknown".
std::string_view save_word_text(SaveWord word);

/// One rank's part of a save.
struct RankSaveFigures {
  uint64_t bytes = 0;  ///< of its shard
  double stage_ms = 0;
  double write_ms = 0;
  double sync_ms = 0;

  double disk_ms() const { return write_ms + sync_ms; }
  /// Units: 1e9 bytes a second, on the way to the disk. 0 when nothing was written.
  double gb_per_s() const {
    return disk_ms() > 0 ? static_cast<double>(bytes) / disk_ms() / 1e6 : 0;
  }
};

/// What a save cost, as this rank measured it.
struct SaveFigures {
  double plan_ms = 0;    ///< folder, token, free space
  double stage_ms = 0;   ///< the copy with its checksums, as far as it comes before the writing
  double write_ms = 0;   ///< this rank's shard, without its sync
  double sync_ms = 0;
  double vote_ms = 0;    ///< waiting for the other ranks
  double commit_ms = 0;  ///< manifest, rename, verdict
  uint64_t own_bytes = 0;
  uint64_t total_bytes = 0;            ///< of all shards
  uint64_t unique_bytes = 0;           ///< of the state, each element once
  std::string io;                      ///< the way of writing; empty: not told
  std::vector<RankSaveFigures> ranks;  ///< by rank; empty when the save ended before all told
};

/// What is told of all ranks in a few numbers.
struct SaveSpread {
  double min_gb_per_s = 0;  ///< over the ranks that wrote
  double median_gb_per_s = 0;
  double max_gb_per_s = 0;
  int64_t slowest_rank = 0;  ///< the one that wrote and synced longest; the lowest of equals
  double slowest_ms = 0;     ///< its time
  double slowest_gb_per_s = 0;
  double written_per_unique = 0;  ///< bytes written over bytes of state
  double largest_per_mean = 0;    ///< bytes of the largest shard over the mean
};
/// Nothing where no rank wrote anything.
std::optional<SaveSpread> spread_of(const SaveFigures& figures);

struct SaveRecord {
  Status status;  ///< not OK: the save failed on every rank, the previous checkpoint is untouched,
                  ///< training can go on
  bool is_unknown = false;          ///< with it: it may have become durable all the same
  bool is_skipped = false;          ///< nothing was saved: the one before was still being written
  bool is_behind = false;           ///< written while training went on
  std::optional<SaveWord> reached;  ///< kStaged, kWritten or kDurable; nothing: not even the first
  int64_t num_steps = 0;            ///< done in the state that was saved
  int64_t told_after_steps = 0;     ///< done when its end was known
  int64_t generation = 0;
  std::string state_digest;
  double save_ms = 0;   ///< until it was durable and every rank knew
  double stall_ms = 0;  ///< what training waited of that
  SaveFigures figures;

  /// kDurable, kFailed or kUnknown. Requires: not is_skipped.
  SaveWord word() const;
};

}  // namespace lockstep
