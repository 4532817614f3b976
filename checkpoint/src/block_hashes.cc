#include "block_hashes.h"

#include <algorithm>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

Status check_shard_size(FileSystem& fs, const std::string& folder, const Manifest& manifest,
                        size_t index) {
  const ShardEntry& entry = manifest.shards[index];
  const std::string path = path_join(folder, entry.file);
  LOCKSTEP_ASSIGN_OR_RETURN(const FileInfo info, fs.stat(path));
  LOCKSTEP_ASSIGN_OR_RETURN(const ShardLayout layout, plan_shard(manifest.schema, entry.runs));
  if (info.type == FileType::kFile && info.size_bytes == entry.bytes &&
      layout.data_bytes() <= entry.bytes) {
    return Status::ok();
  }
  return corruption_error(
      cat(path, ": expected a file of ", entry.bytes, " bytes, found ", info.size_bytes));
}

}  // namespace

Result<std::vector<std::vector<uint64_t>>> read_block_hashes(FileSystem& fs,
                                                             const std::string& folder,
                                                             const Manifest& manifest) {
  // Sizes first: what the manifest claims is backed by bytes on the disk before memory is taken for
  // it.
  for (size_t i = 0; i < manifest.shards.size(); ++i) {
    LOCKSTEP_RETURN_IF_ERROR(check_shard_size(fs, folder, manifest, i));
  }
  auto hashes = room_for_hashes(manifest.schema);
  for (size_t i = 0; i < manifest.shards.size(); ++i) {
    LOCKSTEP_ASSIGN_OR_RETURN(const ShardReader reader,
                              ShardReader::open(fs, folder, manifest.schema, manifest.shards[i],
                                                manifest.shard_identity(i)));
    put_hashes(reader, &hashes);
  }
  return hashes;
}

std::vector<std::vector<uint64_t>> room_for_hashes(const StateSchema& schema) {
  std::vector<std::vector<uint64_t>> hashes;
  for (size_t kind = 0; kind < schema.kinds.size(); ++kind)
    hashes.emplace_back(static_cast<size_t>(space_of(schema, kind).num_blocks()));
  return hashes;
}

void put_hashes(const ShardReader& shard, std::vector<std::vector<uint64_t>>* hashes) {
  for (const ShardExtent& extent : shard.layout().extents) {
    const auto from = shard.block_hashes().begin() + static_cast<ptrdiff_t>(extent.first_hash);
    std::copy(from, from + extent.blocks.num_blocks(),
              (*hashes)[extent.kind_index].begin() + extent.blocks.first);
  }
}

Status verify_shard(FileSystem& fs, const std::string& folder, const Manifest& manifest,
                    size_t shard_index, BlockStream& stream) {
  LOCKSTEP_ASSIGN_OR_RETURN(
      const ShardReader reader,
      ShardReader::open(fs, folder, manifest.schema, manifest.shards[shard_index],
                        manifest.shard_identity(shard_index)));
  return stream.verify(reader);
}

bool is_bad_content(const Status& status) {
  return status.code() == StatusCode::kCorruption || status.code() == StatusCode::kNotFound;
}

BlockRun next_piece(const FlatSpace& space, BlockRun rest, uint64_t limit_bytes) {
  const int64_t whole_blocks =
      static_cast<int64_t>(limit_bytes) / (kBlockElems * dtype_size_bytes(space.dtype));
  return {rest.first, std::min(rest.end, rest.first + std::max<int64_t>(whole_blocks, 1))};
}

}  // namespace lockstep
