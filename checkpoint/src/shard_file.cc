#include "lockstep/checkpoint/shard_file.h"

#include <algorithm>
#include <bit>
#include <set>

#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

// The checksum table is written and read as it lies in memory.
static_assert(std::endian::native == std::endian::little);

namespace {

std::string extent_name(const StateSchema& schema, const ShardExtent& extent) {
  const StateKind& kind = schema.kinds[extent.kind_index];
  return run_tensor({kind.kind, kind.space, extent.blocks.first, extent.blocks.end});
}

std::vector<SafetensorsEntry> shard_tensors(const StateSchema& schema, const ShardLayout& layout) {
  std::vector<SafetensorsEntry> tensors;
  for (const ShardExtent& extent : layout.extents) {
    const FlatSpace& space = space_of(schema, extent.kind_index);
    tensors.push_back({extent_name(schema, extent),
                       space.dtype,
                       {space.elems_of(extent.blocks).num_elems()},
                       extent.begin,
                       extent.end});
  }
  tensors.push_back({std::string(kChecksumTensor),
                     Dtype::kU64,
                     {static_cast<int64_t>(layout.num_blocks)},
                     layout.table_begin,
                     layout.data_bytes()});
  return tensors;
}

std::map<std::string, std::string> shard_metadata(const ShardIdentity& identity) {
  return {{"format", "lockstep.shard"},
          {"format_version", "1"},
          {"block_elems", cat(kBlockElems)},
          {"generation", cat(identity.checkpoint.generation)},
          {"step", cat(identity.checkpoint.step)},
          {"shard", cat(identity.shard.index)},
          {"num_shards", cat(identity.shard.num_shards)}};
}

Status check_runs(const KindRuns& entry, const FlatSpace& space) {
  int64_t free_from = -1;  // runs may not even touch: one run has one way to be written
  for (const BlockRun& run : entry.runs) {
    if (run.first <= free_from || run.first < 0 || run.end <= run.first ||
        run.end > space.num_blocks()) {
      return corruption_error(cat("blocks [", run.first, ", ", run.end, ") of ", entry.kind.kind,
                                  "/", entry.kind.space, " are empty, out of order or outside its ",
                                  space.num_blocks(), " blocks"));
    }
    free_from = run.end;
  }
  return Status::ok();
}

}  // namespace

const FlatSpace& space_of(const StateSchema& schema, size_t kind_index) {
  LOCKSTEP_CHECK(kind_index < schema.kinds.size(), "kind ", kind_index, " of ",
                 schema.kinds.size());
  const FlatSpace* space = schema.layout.find(schema.kinds[kind_index].space);
  LOCKSTEP_CHECK(space != nullptr, "no space named ", schema.kinds[kind_index].space);
  return *space;
}

uint64_t run_bytes(const FlatSpace& space, BlockRun blocks) {
  return static_cast<uint64_t>(space.elems_of(blocks).num_elems() * dtype_size_bytes(space.dtype));
}

Result<ShardLayout> plan_shard(const StateSchema& schema, const std::vector<KindRuns>& runs) {
  ShardLayout layout;
  std::set<size_t> seen;
  std::vector<const KindRuns*> by_kind(schema.kinds.size(), nullptr);
  for (const KindRuns& entry : runs) {
    const auto it = std::find(schema.kinds.begin(), schema.kinds.end(), entry.kind);
    const size_t index = static_cast<size_t>(it - schema.kinds.begin());
    if (it == schema.kinds.end() || schema.layout.find(entry.kind.space) == nullptr ||
        !seen.insert(index).second) {
      return corruption_error(cat("runs of ", entry.kind.kind, "/", entry.kind.space,
                                  ": an unknown kind, or listed twice"));
    }
    LOCKSTEP_RETURN_IF_ERROR(check_runs(entry, space_of(schema, index)));
    by_kind[index] = &entry;
  }
  for (size_t index = 0; index < by_kind.size(); ++index) {
    if (by_kind[index] == nullptr) continue;
    const FlatSpace& space = space_of(schema, index);
    for (const BlockRun& run : by_kind[index]->runs) {
      const uint64_t end = layout.table_begin + run_bytes(space, run);
      layout.extents.push_back({index, run, layout.table_begin, end, layout.num_blocks});
      layout.table_begin = end;
      layout.num_blocks += static_cast<size_t>(run.num_blocks());
    }
  }
  return layout;
}

std::string shard_prefix(const StateSchema& schema, const ShardLayout& layout,
                         const ShardIdentity& identity) {
  return safetensors_prefix(shard_tensors(schema, layout), shard_metadata(identity));
}

Result<ShardReader> ShardReader::open(FileSystem& fs, const std::string& folder,
                                      const StateSchema& schema, const ShardEntry& entry,
                                      const ShardIdentity& identity) {
  ShardReader reader;
  reader.fs_ = &fs;
  reader.schema_ = &schema;
  reader.path_ = path_join(folder, entry.file);
  const std::string& path = reader.path_;
  if (entry.file != shard_file(identity.shard)) {
    return corruption_error(cat(path, ": expected the file name ", shard_file(identity.shard)));
  }
  auto layout = plan_shard(schema, entry.runs);
  if (!layout.is_ok()) return layout.status().with_context(path);
  reader.layout_ = std::move(*layout);

  LOCKSTEP_ASSIGN_OR_RETURN(reader.file_, fs.open_read(path));
  LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t size, reader.file_->size_bytes());
  if (size != entry.bytes) {
    return corruption_error(cat(path, ": expected ", entry.bytes, " bytes, found ", size));
  }
  // Hash before meaning: a damaged header is damaged, not a strange one.
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string prefix, read_safetensors_prefix(*reader.file_, path));
  if (xxh3_128(prefix) != entry.header_hash) {
    return corruption_error(cat(path, ": the header's hash is ", xxh3_128(prefix).hex(),
                                ", expected ", entry.header_hash.hex()));
  }
  LOCKSTEP_ASSIGN_OR_RETURN(
      const SafetensorsHeader header,
      parse_safetensors_header(std::string_view(prefix).substr(8), size - prefix.size(), path));
  if (header.metadata != shard_metadata(identity) ||
      header.tensors != shard_tensors(schema, reader.layout_)) {
    return corruption_error(cat(path, ": the header lists other tensors than the manifest"));
  }
  reader.data_offset_ = prefix.size();

  reader.hashes_.resize(reader.layout_.num_blocks);
  const auto table = std::as_writable_bytes(std::span(reader.hashes_));
  LOCKSTEP_RETURN_IF_ERROR(
      reader.file_->read(reader.data_offset_ + reader.layout_.table_begin, table));
  if (xxh3_128(table) != entry.table_hash) {
    return corruption_error(cat(path, ": the checksum table's hash is ", xxh3_128(table).hex(),
                                ", expected ", entry.table_hash.hex()));
  }
  return reader;
}

Status ShardReader::reopen() {
  LOCKSTEP_ASSIGN_OR_RETURN(file_, fs_->open_read(path_));
  return Status::ok();
}

BlockPlace ShardReader::place_of(size_t extent_index, int64_t block) const {
  const ShardExtent& extent = layout_.extents[extent_index];
  const FlatSpace& space = space_of(*schema_, extent.kind_index);
  return {data_offset_ + extent.begin + run_bytes(space, {extent.blocks.first, block}),
          run_bytes(space, {block, block + 1})};
}

Status ShardReader::check_hash(size_t extent_index, int64_t block, uint64_t found) const {
  const ShardExtent& extent = layout_.extents[extent_index];
  const uint64_t expected =
      hashes_[extent.first_hash + static_cast<size_t>(block - extent.blocks.first)];
  if (found == expected) return Status::ok();
  return corruption_error(cat(path_, ": tensor ", extent_name(*schema_, extent), ": block ", block,
                              " has the hash ", hex64(found), ", expected ", hex64(expected)));
}

Status ShardReader::read_blocks(size_t extent_index, BlockRun blocks,
                                std::span<std::byte> out) const {
  const ShardExtent& extent = layout_.extents[extent_index];
  const FlatSpace& space = space_of(*schema_, extent.kind_index);
  LOCKSTEP_CHECK(is_open(), path_, " is closed");
  LOCKSTEP_CHECK(blocks.first >= extent.blocks.first && blocks.end <= extent.blocks.end,
                 "blocks outside their extent");
  LOCKSTEP_CHECK(out.size() == run_bytes(space, blocks), "a buffer of ", out.size(),
                 " bytes for blocks of ", run_bytes(space, blocks));
  LOCKSTEP_RETURN_IF_ERROR(file_->read(place_of(extent_index, blocks.first).file_begin, out));
  for (int64_t block = blocks.first; block < blocks.end; ++block) {
    const uint64_t bytes = run_bytes(space, {block, block + 1});
    LOCKSTEP_RETURN_IF_ERROR(check_hash(extent_index, block, xxh3_64(out.first(bytes))));
    out = out.subspan(bytes);
  }
  return Status::ok();
}

}  // namespace lockstep
