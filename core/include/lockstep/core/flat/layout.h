#pragma once
// FlatLayout: where each tensor of a model lies in its flat space. Every rank computes the same
// layout from the same list of tensors; all sharding, reduction, norms, checkpoints and digests are
// arithmetic on it. Pure: knows no memory, no ranks, no LibTorch. Thread-safety: values.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/flat/dtype.h"

namespace lockstep {

/// Elements in a block, the atom of sharding, norms, checksums and digests. The last block of a
/// space may be shorter.
inline constexpr int64_t kBlockElems = 16384;
/// Each tensor starts at a multiple of this many bytes in its space; what lies between is zero and
/// stays zero.
inline constexpr int64_t kTensorAlignBytes = 256;

enum class SpaceRole : uint8_t {
  kTrainable,  ///< parameters with a gradient; sharded over ranks for the optimizer
  kFrozen,     ///< parameters without a gradient
  kBuffer,     ///< module buffers, e.g. BatchNorm statistics
};

/// One tensor as the model has it.
struct TensorSpec {
  std::string name;  ///< dotted registration name, unique; the first name of a tied tensor
  std::vector<std::string> aliases;  ///< further names of the same memory (tied parameters)
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  /// Permutation of dimensions, outermost in memory first: row-major is 0,1,2,...; a channels-last
  /// NCHW weight 0,2,3,1.
  std::vector<int64_t> order;
  SpaceRole role = SpaceRole::kTrainable;

  int64_t num_elems() const;
  /// Strides in elements that belong to `shape` stored in `order`.
  std::vector<int64_t> strides() const;
};

/// A tensor with its place.
struct TensorPlace {
  TensorSpec spec;
  int64_t offset_elems = 0;
};

/// A run of whole blocks: [first, end).
struct BlockRun {
  int64_t first = 0;
  int64_t end = 0;
  int64_t num_blocks() const { return end - first; }
  bool operator==(const BlockRun&) const = default;
};

/// A run of elements: [first, end).
struct ElemRun {
  int64_t first = 0;
  int64_t end = 0;
  int64_t num_elems() const { return end - first; }
  bool operator==(const ElemRun&) const = default;
};

/// All tensors of one role and dtype laid end to end.
struct FlatSpace {
  std::string name;  ///< flat_space_name(role, dtype), e.g. "trainable.F32"
  SpaceRole role = SpaceRole::kTrainable;
  Dtype dtype = Dtype::kF32;
  int64_t num_elems =
      0;  ///< with the padding between and after tensors; a multiple of kTensorAlignBytes in bytes
  std::vector<TensorPlace> tensors;  ///< in registration order, ascending offsets

  int64_t num_blocks() const { return (num_elems + kBlockElems - 1) / kBlockElems; }
  /// The elements of a run of blocks; the space's last block is cut at num_elems.
  ElemRun elems_of(BlockRun blocks) const;
  int64_t num_bytes() const { return num_elems * dtype_size_bytes(dtype); }
};

std::string flat_space_name(SpaceRole role, Dtype dtype);
/// "param" for trainable and frozen spaces, "buffer" for buffers: the kind of the values
/// themselves.
std::string_view value_kind(SpaceRole role);
/// "trainable", "frozen" or "buffer": in the canonical text and in manifests.
std::string_view space_role_name(SpaceRole role);

/// The spaces of a model in a fixed order (role, then dtype, each in enum order); empty spaces are
/// left out.
class FlatLayout {
 public:
  FlatLayout() = default;
  /// Lays out `tensors` (in registration order). Requires: unique names, `order` a permutation of
  /// the dimensions. Errors: kInvalidArgument naming the tensor.
  static Result<FlatLayout> plan(const std::vector<TensorSpec>& tensors);

  const std::vector<FlatSpace>& spaces() const { return spaces_; }
  /// The space of that name, or null.
  const FlatSpace* find(std::string_view space_name) const;
  /// Lines of text, one a space and one a tensor, that describe the layout completely; equal text
  /// means equal layout.
  std::string canonical_text() const;

 private:
  std::vector<FlatSpace> spaces_;
};

}  // namespace lockstep
