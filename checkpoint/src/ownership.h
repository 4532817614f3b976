#pragma once
// Who owns what in a checkpoint: which shard holds how much of each tensor, and a picture of it in
// text. Pure.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/checkpoint/manifest.h"

namespace lockstep {

/// A tensor with everything that is stored for its elements: values and optimizer state.
struct TensorOwners {
  const FlatSpace* space = nullptr;
  const TensorPlace* place = nullptr;
  uint64_t bytes = 0;  ///< over all kinds
  /// Shards that hold some of it, ascending, with how many of its bytes.
  std::vector<std::pair<size_t, uint64_t>> owners;
};

struct Ownership {
  std::vector<TensorOwners> tensors;  ///< by space and offset
  std::vector<uint64_t> shard_bytes;  ///< of state in each shard, padding included
};

/// Requires: the shards cover each block once; `manifest` outlives the result.
/// Cost: tensors + runs, a kind.
Ownership plan_ownership(const Manifest& manifest);

struct PictureSize {
  size_t max_rows = 40;
  size_t max_columns = 64;
};
/// Tensors against ranks, a line each: where there are more than fit, neighbours share a line or a
/// column. A cell says which share of the line's bytes the column's ranks hold.
std::string ownership_picture(const Ownership& ownership, const PictureSize& size);

/// {"shard_bytes":[...],"tensors":[{"name":...,"shards":[[index, bytes], ...]}, ...]}
std::string ownership_json(const Ownership& ownership);

}  // namespace lockstep
