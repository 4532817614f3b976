#include "tensor_reader.h"

#include <algorithm>
#include <cstring>

#include "block_hashes.h"
#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

/// Dimensions from the first on that are not where row-major order has them.
size_t first_moved_dim(const TensorSpec& spec) {
  size_t dim = 0;
  while (dim < spec.order.size() && spec.order[dim] == static_cast<int64_t>(dim)) ++dim;
  return dim;
}

/// Calls copy(index in row-major order, index in storage order) for each element of a unit.
template <typename Copy>
void walk_unit(const TensorSpec& spec, const Copy& copy) {
  const size_t first_dim = first_moved_dim(spec);
  const std::vector<int64_t> strides = spec.strides();
  const int64_t num_elems = row_major_unit(spec);
  std::vector<int64_t> index(spec.shape.size(), 0);
  const size_t last = spec.shape.size() - 1;
  int64_t stored = 0;
  for (int64_t row_major = 0; row_major < num_elems;) {
    for (int64_t i = 0; i < spec.shape[last]; ++i) copy(row_major++, stored + i * strides[last]);
    for (size_t dim = last; dim-- > first_dim;) {  // the next row, later dimensions fastest
      stored += strides[dim];
      if (++index[dim] < spec.shape[dim]) break;
      stored -= index[dim] * strides[dim];
      index[dim] = 0;
    }
  }
}

template <size_t kElemBytes>
void permute(const TensorSpec& spec, std::span<const std::byte> from, std::span<std::byte> to,
             bool is_to_row_major) {
  const auto unit_bytes = static_cast<size_t>(row_major_unit(spec)) * kElemBytes;
  for (size_t at = 0; at < from.size(); at += unit_bytes) {
    const std::byte* source = from.data() + at;
    std::byte* target = to.data() + at;
    const auto copy = [&](int64_t to_index, int64_t from_index) {
      std::memcpy(target + static_cast<size_t>(to_index) * kElemBytes,
                  source + static_cast<size_t>(from_index) * kElemBytes, kElemBytes);
    };
    if (is_to_row_major) {
      walk_unit(spec, [&](int64_t row_major, int64_t stored) { copy(row_major, stored); });
    } else {
      walk_unit(spec, [&](int64_t row_major, int64_t stored) { copy(stored, row_major); });
    }
  }
}

void permute(const TensorSpec& spec, std::span<const std::byte> from, std::span<std::byte> to,
             bool is_to_row_major) {
  LOCKSTEP_CHECK(from.size() == to.size(), "a copy of ", from.size(), " to ", to.size(), " bytes");
  if (from.empty()) return;
  if (first_moved_dim(spec) == spec.order.size()) {
    std::copy(from.begin(), from.end(), to.begin());
    return;
  }
  switch (dtype_size_bytes(spec.dtype)) {
    case 1:
      return permute<1>(spec, from, to, is_to_row_major);
    case 2:
      return permute<2>(spec, from, to, is_to_row_major);
    case 4:
      return permute<4>(spec, from, to, is_to_row_major);
    default:
      return permute<8>(spec, from, to, is_to_row_major);
  }
}

}  // namespace

std::vector<StoredTensor> stored_tensors(const StateSchema& schema) {
  std::vector<StoredTensor> tensors;
  for (size_t k = 0; k < schema.kinds.size(); ++k) {
    const FlatSpace& space = space_of(schema, k);
    const std::string& kind = schema.kinds[k].kind;
    const std::string prefix = kind == value_kind(space.role) ? "" : kind + "/";
    for (const TensorPlace& place : space.tensors)
      tensors.push_back({prefix + place.spec.name, k, &place});
  }
  return tensors;
}

int64_t row_major_unit(const TensorSpec& spec) {
  int64_t unit = 1;
  for (size_t dim = first_moved_dim(spec); dim < spec.shape.size(); ++dim) unit *= spec.shape[dim];
  return unit;
}

void to_row_major(const TensorSpec& spec, std::span<const std::byte> stored,
                  std::span<std::byte> row_major) {
  permute(spec, stored, row_major, /*is_to_row_major=*/true);
}

void from_row_major(const TensorSpec& spec, std::span<const std::byte> row_major,
                    std::span<std::byte> stored) {
  permute(spec, row_major, stored, /*is_to_row_major=*/false);
}

ElemRun next_elems(const TensorPlace& place, int64_t first, int64_t unit_elems,
                   uint64_t limit_bytes) {
  const auto limit_elems = std::max<int64_t>(
      static_cast<int64_t>(limit_bytes) / dtype_size_bytes(place.spec.dtype), kBlockElems);
  int64_t end = first + std::max<int64_t>(limit_elems / std::max<int64_t>(unit_elems, 1), 1) *
                            std::max<int64_t>(unit_elems, 1);
  if (unit_elems == 1) {
    const int64_t block = (place.offset_elems + end) / kBlockElems;
    end = block * kBlockElems - place.offset_elems;
  }
  return {first, std::min(end, place.spec.num_elems())};
}

Status fill_elems(const TensorPlace& place, int64_t unit_elems, ElemRun elems,
                  std::span<std::byte> out,
                  const std::function<Result<std::span<const std::byte>>(ElemRun)>& read) {
  const int64_t elem_bytes = dtype_size_bytes(place.spec.dtype);
  const int64_t units_end = (elems.end + unit_elems - 1) / unit_elems * unit_elems;
  for (int64_t first = elems.first / unit_elems * unit_elems; first < elems.end;) {
    ElemRun piece = next_elems(place, first, unit_elems, kReadPieceBytes);
    piece.end = std::min(piece.end, units_end);
    LOCKSTEP_ASSIGN_OR_RETURN(const auto bytes, read(piece));
    const ElemRun common{std::max(elems.first, piece.first), std::min(elems.end, piece.end)};
    const auto wanted =
        bytes.subspan(static_cast<size_t>((common.first - piece.first) * elem_bytes),
                      static_cast<size_t>(common.num_elems() * elem_bytes));
    std::copy(wanted.begin(), wanted.end(),
              out.begin() + (common.first - elems.first) * elem_bytes);
    first = piece.end;
  }
  return Status::ok();
}

Status visit_tensors(const FlatSpace& space, const StateSlice& slice,
                     const std::function<Status(size_t, ElemRun, std::span<std::byte>)>& visit) {
  const ElemRun owned = space.elems_of(slice.blocks);
  const int64_t elem_bytes = dtype_size_bytes(space.dtype);
  std::vector<std::byte> copy;  // of what is in a device's memory
  for (size_t t = 0; t < space.tensors.size(); ++t) {
    const TensorPlace& place = space.tensors[t];
    const int64_t first = std::max(owned.first, place.offset_elems);
    const int64_t end = std::min(owned.end, place.offset_elems + place.spec.num_elems());
    if (first >= end) continue;
    const ElemRun of_tensor{first - place.offset_elems, end - place.offset_elems};
    const auto bytes = slice.bytes.subspan(static_cast<size_t>((first - owned.first) * elem_bytes),
                                           static_cast<size_t>((end - first) * elem_bytes));
    if (slice.memory == nullptr) {
      LOCKSTEP_RETURN_IF_ERROR(visit(t, of_tensor, bytes));
      continue;
    }
    copy.resize(bytes.size());
    slice.memory->read(copy, bytes);
    LOCKSTEP_RETURN_IF_ERROR(slice.memory->settle());
    LOCKSTEP_RETURN_IF_ERROR(visit(t, of_tensor, copy));
    slice.memory->write(bytes, copy);
    LOCKSTEP_RETURN_IF_ERROR(slice.memory->settle());
  }
  return Status::ok();
}

Status TensorReader::load(size_t kind_index, const FlatSpace& space, BlockRun blocks) {
  // The first block wanted is often the last one read.
  size_t kept_bytes = 0;
  BlockRun rest = blocks;
  if (kind_index == kind_index_ && blocks.first >= blocks_.first && blocks.first < blocks_.end) {
    const BlockRun kept{blocks.first, std::min(blocks.end, blocks_.end)};
    const uint64_t skip = run_bytes(space, {blocks_.first, kept.first});
    kept_bytes = run_bytes(space, kept);
    std::memmove(bytes_.data(), bytes_.data() + skip, kept_bytes);
    rest.first = kept.end;
  }
  blocks_ = {};  // until they are read
  bytes_.resize(run_bytes(space, blocks));
  LOCKSTEP_RETURN_IF_ERROR(source_->read(kind_index, rest, std::span(bytes_).subspan(kept_bytes)));
  bytes_read_ += bytes_.size() - kept_bytes;
  kind_index_ = kind_index;
  blocks_ = blocks;
  return Status::ok();
}

Result<std::span<const std::byte>> TensorReader::read_stored(const StoredTensor& tensor,
                                                             ElemRun elems) {
  if (elems.num_elems() <= 0) return std::span<const std::byte>();
  const FlatSpace& space = space_of(source_->manifest().schema, tensor.kind_index);
  const int64_t first = tensor.place->offset_elems + elems.first;
  const int64_t end = tensor.place->offset_elems + elems.end;
  const BlockRun blocks{first / kBlockElems, (end + kBlockElems - 1) / kBlockElems};
  const bool is_there = kind_index_ == tensor.kind_index && blocks.first >= blocks_.first &&
                        blocks.end <= blocks_.end;
  if (!is_there) LOCKSTEP_RETURN_IF_ERROR(load(tensor.kind_index, space, blocks));
  const int64_t elem_bytes = dtype_size_bytes(space.dtype);
  return std::span<const std::byte>(bytes_).subspan(
      static_cast<size_t>((first - blocks_.first * kBlockElems) * elem_bytes),
      static_cast<size_t>((end - first) * elem_bytes));
}

Result<std::span<const std::byte>> TensorReader::read_row_major(const StoredTensor& tensor,
                                                                ElemRun elems) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto stored, read_stored(tensor, elems));
  const TensorSpec& spec = tensor.place->spec;
  if (row_major_unit(spec) == 1) return stored;
  row_major_.resize(stored.size());
  to_row_major(spec, stored, row_major_);
  return std::span<const std::byte>(row_major_);
}

}  // namespace lockstep
