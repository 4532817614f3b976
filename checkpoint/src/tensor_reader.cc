#include "tensor_reader.h"

#include <algorithm>
#include <cstring>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

/// Copies `stored` (the tensor in its storage order) into row-major order.
void to_row_major(const TensorSpec& spec, const std::vector<std::byte>& stored,
                  std::vector<std::byte>* out) {
  const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(spec.dtype));
  const std::vector<int64_t> strides = spec.strides();
  std::vector<int64_t> index(spec.shape.size(), 0);
  int64_t from = 0;
  for (size_t to = 0; to < out->size(); to += elem_bytes) {
    std::memcpy(out->data() + to, stored.data() + static_cast<size_t>(from) * elem_bytes,
                elem_bytes);
    for (size_t dim = spec.shape.size(); dim-- > 0;) {  // the next index, last dimension fastest
      from += strides[dim];
      if (++index[dim] < spec.shape[dim]) break;
      from -= index[dim] * strides[dim];
      index[dim] = 0;
    }
  }
}

}  // namespace

Result<TensorReader> TensorReader::open(FileSystem& fs, const std::string& folder) {
  TensorReader reader;
  LOCKSTEP_ASSIGN_OR_RETURN(Manifest manifest, read_manifest(fs, folder, nullptr));
  reader.manifest_ = std::make_unique<Manifest>(std::move(manifest));
  const Manifest& m = *reader.manifest_;
  reader.pieces_.resize(m.schema.kinds.size());
  for (size_t i = 0; i < m.shards.size(); ++i) {
    LOCKSTEP_ASSIGN_OR_RETURN(
        ShardReader shard,
        ShardReader::open(fs, folder, m.schema, m.shards[i], m.shard_identity(i)));
    for (size_t e = 0; e < shard.layout().extents.size(); ++e) {
      const ShardExtent& extent = shard.layout().extents[e];
      reader.pieces_[extent.kind_index][extent.blocks.end] = {i, e};
    }
    shard.close();
    reader.shards_.push_back(std::move(shard));
  }
  return reader;
}

std::vector<TensorReader::Tensor> TensorReader::tensors() const {
  std::vector<Tensor> tensors;
  for (size_t k = 0; k < manifest_->schema.kinds.size(); ++k) {
    const FlatSpace& space = space_of(manifest_->schema, k);
    const std::string& kind = manifest_->schema.kinds[k].kind;
    const std::string prefix = kind == value_kind(space.role) ? "" : kind + "/";
    for (const TensorPlace& place : space.tensors)
      tensors.push_back({prefix + place.spec.name, k, &place});
  }
  return tensors;
}

Result<const ShardReader*> TensorReader::opened(size_t shard) {
  if (shards_[shard].is_open()) return &shards_[shard];
  if (open_shards_.size() == kMaxOpenShards) {
    shards_[open_shards_.front()].close();
    open_shards_.pop_front();
  }
  LOCKSTEP_RETURN_IF_ERROR(shards_[shard].reopen());
  open_shards_.push_back(shard);
  return &shards_[shard];
}

Result<std::vector<std::byte>> TensorReader::read_elems(size_t kind_index, ElemRun elems) {
  const FlatSpace& space = space_of(manifest_->schema, kind_index);
  const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(space.dtype));
  std::vector<std::byte> out;
  out.reserve(static_cast<size_t>(elems.num_elems()) * elem_bytes);
  std::vector<std::byte> block_bytes;
  for (int64_t first = elems.first; first < elems.end;) {
    const int64_t block = first / kBlockElems;
    const auto piece = pieces_[kind_index].upper_bound(block)->second;  // coverage: there is one
    LOCKSTEP_ASSIGN_OR_RETURN(const ShardReader* shard, opened(piece.shard));
    block_bytes.resize(run_bytes(space, {block, block + 1}));
    LOCKSTEP_RETURN_IF_ERROR(shard->read_blocks(piece.extent, {block, block + 1}, block_bytes));
    const int64_t begin = block * kBlockElems;
    const int64_t end = std::min(elems.end, begin + kBlockElems);
    const auto from = block_bytes.begin() + (first - begin) * static_cast<ptrdiff_t>(elem_bytes);
    out.insert(out.end(), from, from + (end - first) * static_cast<ptrdiff_t>(elem_bytes));
    first = end;
  }
  return out;
}

Result<std::vector<std::byte>> TensorReader::read_row_major(const Tensor& tensor) {
  const TensorSpec& spec = tensor.place->spec;
  const int64_t first = tensor.place->offset_elems;
  LOCKSTEP_ASSIGN_OR_RETURN(std::vector<std::byte> stored,
                            read_elems(tensor.kind_index, {first, first + spec.num_elems()}));
  if (std::is_sorted(spec.order.begin(), spec.order.end())) return stored;
  std::vector<std::byte> row_major(stored.size());
  to_row_major(spec, stored, &row_major);
  return row_major;
}

}  // namespace lockstep
