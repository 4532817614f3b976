#pragma once
// Tensors out of a checkpoint, piece by piece, so that memory is bounded however large they are.

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "block_source.h"

namespace lockstep {

/// A tensor of one kind of values.
struct StoredTensor {
  std::string name;  ///< "weight", or "adamw.exp_avg/weight"
  size_t kind_index = 0;
  const TensorPlace* place = nullptr;
};
/// Every tensor of every kind, by kind and offset. `schema` must outlive them.
std::vector<StoredTensor> stored_tensors(const StateSchema& schema);

/// The smallest number of elements that row-major and storage order both keep together, from each
/// multiple of it on: 1 when the two are the same.
int64_t row_major_unit(const TensorSpec& spec);

/// Copies whole units of a tensor between its storage order and row-major order.
/// Shapes: both hold the same number of units.
void to_row_major(const TensorSpec& spec, std::span<const std::byte> stored,
                  std::span<std::byte> row_major);
void from_row_major(const TensorSpec& spec, std::span<const std::byte> row_major,
                    std::span<std::byte> stored);

/// From where `first` is, the elements of a tensor to read next: whole units, about `limit_bytes`
/// of them, up to the edge of a block where that is free.
ElemRun next_elems(const TensorPlace& place, int64_t first, int64_t unit_elems,
                   uint64_t limit_bytes);

/// Fills `out` with elements of a tensor in storage order, piece after piece. `read` gives the
/// bytes of a piece, whole units; they must stay valid until its next call. Errors: its own.
Status fill_elems(const TensorPlace& place, int64_t unit_elems, ElemRun elems,
                  std::span<std::byte> out,
                  const std::function<Result<std::span<const std::byte>>(ElemRun)>& read);

/// Calls visit(index in the space, elements of the tensor, their bytes in the slice) for each
/// tensor that lies in the slice or partly does. Errors: the visitor's first.
Status visit_tensors(const FlatSpace& space, const StateSlice& slice,
                     const std::function<Status(size_t, ElemRun, std::span<std::byte>)>& visit);

/// Reads through one source; neighbours share blocks, so the last ones read are kept.
/// Thread-safety: one thread at a time; several of them may share a source.
class TensorReader {
 public:
  explicit TensorReader(const BlockSource& source) : source_(&source) {}

  /// The bytes of `elems` of the tensor, in storage order; valid until the next call.
  /// Errors: as BlockSource::read.
  Result<std::span<const std::byte>> read_stored(const StoredTensor& tensor, ElemRun elems);
  /// The same in row-major order. Requires: whole units of row_major_unit().
  Result<std::span<const std::byte>> read_row_major(const StoredTensor& tensor, ElemRun elems);

  /// Of blocks, so far.
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  Status load(size_t kind_index, const FlatSpace& space, BlockRun blocks);

  const BlockSource* source_;
  size_t kind_index_ = 0;
  BlockRun blocks_;  // that are in bytes_
  std::vector<std::byte> bytes_;
  std::vector<std::byte> row_major_;
  uint64_t bytes_read_ = 0;
};

}  // namespace lockstep
