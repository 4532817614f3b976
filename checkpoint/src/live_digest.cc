#include <algorithm>

#include "collective.h"
#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/digest.h"
#include "staging.h"

namespace lockstep {
namespace {

constexpr size_t kPieceHashes = size_t{4} << 20;  // 32 MiB a message

using BlockHashes = std::vector<std::vector<uint64_t>>;

/// Hashes of this rank's blocks in the order of its slices.
Result<std::vector<uint64_t>> hash_own(const StateSchema& schema,
                                       const std::vector<IndexedSlice>& slices) {
  std::vector<uint64_t> hashes;
  for (const IndexedSlice& item : slices) {
    const size_t first = hashes.size();
    hashes.resize(first + static_cast<size_t>(item.slice->blocks.num_blocks()));
    const FlatSpace& space = space_of(schema, item.kind_index);
    const std::span<uint64_t> out = std::span(hashes).subspan(first);
    if (item.slice->memory == nullptr) {
      hash_blocks(space, item.slice->blocks, item.slice->bytes, out);
    } else {
      item.slice->memory->read_block_hashes(out, item.slice->bytes, run_bytes(space, {0, 1}));
      LOCKSTEP_RETURN_IF_ERROR(item.slice->memory->settle());
    }
  }
  return hashes;
}

/// What a rank says: which blocks, then their hashes.
std::string pack(const std::vector<IndexedSlice>& slices, const std::vector<uint64_t>& hashes) {
  Packer packer;
  packer.number(slices.size());
  for (const IndexedSlice& item : slices) {
    packer.number(item.kind_index).number(static_cast<uint64_t>(item.slice->blocks.first));
    packer.number(static_cast<uint64_t>(item.slice->blocks.end));
  }
  for (uint64_t hash : hashes) packer.number(hash);
  return packer.take();
}

/// Puts one rank's hashes into place. False when a block is out of range or was there already.
bool place(const std::string& message, std::vector<std::vector<bool>>* seen, BlockHashes* all) {
  Unpacker unpacker(message);
  struct Run {
    uint64_t kind, first, end;
  };
  std::vector<Run> runs;
  for (uint64_t left = unpacker.number(); left > 0 && unpacker.good(); --left) {
    const uint64_t kind = unpacker.number();
    const uint64_t first = unpacker.number();
    runs.push_back({kind, first, unpacker.number()});
  }
  for (const Run& run : runs) {
    if (run.kind >= all->size() || run.end > (*all)[run.kind].size()) return false;
    for (uint64_t block = run.first; block < run.end; ++block) {
      if ((*seen)[run.kind][block]) return false;
      (*seen)[run.kind][block] = true;
      (*all)[run.kind][block] = unpacker.number();
    }
  }
  return unpacker.is_whole();
}

Result<BlockHashes> gather_hashes(ControlPlane& plane, const StateSchema& schema,
                                  const OwnedState& owned, Deadline deadline) {
  const auto slices = index_slices(schema, owned);
  LOCKSTEP_RETURN_IF_ERROR(plane.vote("state digest: owned blocks", slices.status(), deadline));
  LOCKSTEP_ASSIGN_OR_RETURN(const auto own, hash_own(schema, *slices));
  LOCKSTEP_CHECK(own.size() <= kPieceHashes, "a rank with ", own.size(), " blocks; at most ",
                 kPieceHashes, " fit in one message");
  LOCKSTEP_ASSIGN_OR_RETURN(const auto messages, plane.all_gather("state digest: block hashes",
                                                                  pack(*slices, own), deadline));
  BlockHashes all;
  std::vector<std::vector<bool>> seen;
  for (size_t kind = 0; kind < schema.kinds.size(); ++kind) {
    all.emplace_back(static_cast<size_t>(space_of(schema, kind).num_blocks()));
    seen.emplace_back(all.back().size(), false);
  }
  for (size_t rank = 0; rank < messages.size(); ++rank) {
    if (!place(messages[rank], &seen, &all)) {
      return internal_error(
          cat("state digest: rank ", rank, " owns blocks that another rank owns, or none such"));
    }
  }
  for (size_t kind = 0; kind < seen.size(); ++kind) {
    const auto it = std::find(seen[kind].begin(), seen[kind].end(), false);
    if (it != seen[kind].end()) {
      return internal_error(cat("state digest: block ", it - seen[kind].begin(), " of ",
                                schema.kinds[kind].kind, "/", schema.kinds[kind].space,
                                " is owned by no rank"));
    }
  }
  return all;
}

}  // namespace

Result<Hash128> live_state_digest(ControlPlane& plane, const StateSchema& schema,
                                  const OwnedState& owned, const Scalars& scalars,
                                  Deadline deadline) {
  LOCKSTEP_ASSIGN_OR_RETURN(const BlockHashes hashes,
                            gather_hashes(plane, schema, owned, deadline));
  return state_digest(schema, hashes, scalars);
}

Result<Hash128> live_params_digest(ControlPlane& plane, const StateSchema& schema,
                                   const OwnedState& owned, Deadline deadline) {
  LOCKSTEP_ASSIGN_OR_RETURN(const BlockHashes hashes,
                            gather_hashes(plane, schema, owned, deadline));
  return params_digest(schema, hashes);
}

}  // namespace lockstep
