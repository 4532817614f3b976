#pragma once
// Whole tensors out of a checkpoint, whatever shards they are spread over. Every block is verified
// on the way.

#include <cstddef>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "lockstep/checkpoint/manifest.h"

namespace lockstep {

class TensorReader {
 public:
  /// Looks at all shards; holds at most kMaxOpenShards of them open. Errors: as read_manifest,
  /// ShardReader::open.
  static Result<TensorReader> open(FileSystem& fs, const std::string& folder);

  const Manifest& manifest() const { return *manifest_; }

  struct Tensor {
    std::string name;  ///< "weight", or "adamw.exp_avg/weight"
    size_t kind_index = 0;
    const TensorPlace* place = nullptr;
  };
  /// Every tensor of every kind, by space and offset.
  std::vector<Tensor> tensors() const;

  /// The bytes of one tensor in row-major order. Errors: kCorruption, kIoError.
  Result<std::vector<std::byte>> read_row_major(const Tensor& tensor);

 private:
  struct Piece {
    size_t shard = 0;
    size_t extent = 0;
  };
  Result<std::vector<std::byte>> read_elems(size_t kind_index, ElemRun elems);
  Result<const ShardReader*> opened(size_t shard);

  std::unique_ptr<Manifest> manifest_;  // its address stays: shards point into it
  std::vector<ShardReader> shards_;
  std::deque<size_t> open_shards_;                // oldest first
  std::vector<std::map<int64_t, Piece>> pieces_;  // of each kind, by end block
};

}  // namespace lockstep
