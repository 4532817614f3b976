#include "staging.h"

#include <algorithm>

#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

Result<std::vector<IndexedSlice>> index_slices(const StateSchema& schema, const OwnedState& owned) {
  std::vector<IndexedSlice> slices;
  for (const StateSlice& slice : owned.slices) {
    if (slice.blocks.num_blocks() == 0) continue;
    const auto it = std::find(schema.kinds.begin(), schema.kinds.end(), slice.kind);
    const FlatSpace* space = schema.layout.find(slice.kind.space);
    const std::string what = cat("slice [", slice.blocks.first, ", ", slice.blocks.end, ") of ",
                                 slice.kind.kind, "/", slice.kind.space);
    if (it == schema.kinds.end() || space == nullptr)
      return internal_error(cat(what, ": not in the schema"));
    if (slice.blocks.first < 0 || slice.blocks.end < slice.blocks.first ||
        slice.blocks.end > space->num_blocks() ||
        slice.bytes.size() != run_bytes(*space, slice.blocks)) {
      return internal_error(cat(what, ": outside its ", space->num_blocks(), " blocks, or ",
                                slice.bytes.size(), " bytes are not its size"));
    }
    slices.push_back({static_cast<size_t>(it - schema.kinds.begin()), &slice});
  }
  std::sort(slices.begin(), slices.end(), [](const IndexedSlice& a, const IndexedSlice& b) {
    return std::pair(a.kind_index, a.slice->blocks.first) <
           std::pair(b.kind_index, b.slice->blocks.first);
  });
  for (size_t i = 1; i < slices.size(); ++i) {
    if (slices[i].kind_index == slices[i - 1].kind_index &&
        slices[i].slice->blocks.first < slices[i - 1].slice->blocks.end) {
      return internal_error(cat("block ", slices[i].slice->blocks.first, " of ",
                                slices[i].slice->kind.kind, "/", slices[i].slice->kind.space,
                                " is owned twice by one rank"));
    }
  }
  return slices;
}

std::vector<KindRuns> runs_of(const StateSchema& schema, const std::vector<IndexedSlice>& slices) {
  std::vector<KindRuns> all;
  size_t last_kind = schema.kinds.size();
  for (const IndexedSlice& item : slices) {
    if (item.kind_index != last_kind) all.push_back({schema.kinds[item.kind_index], {}});
    last_kind = item.kind_index;
    std::vector<BlockRun>& runs = all.back().runs;
    if (!runs.empty() && runs.back().end == item.slice->blocks.first) {
      runs.back().end = item.slice->blocks.end;
    } else {
      runs.push_back(item.slice->blocks);
    }
  }
  return all;
}

Status Staging::stage(const StateSchema& schema, const OwnedState& owned) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto slices, index_slices(schema, owned));
  runs_ = runs_of(schema, slices);
  auto layout = plan_shard(schema, runs_);
  if (!layout.is_ok()) return internal_error(layout.status().message());
  layout_ = std::move(*layout);
  if (layout_.table_begin > capacity_bytes_) {
    buffer_.reset();
    buffer_ = std::make_unique_for_overwrite<std::byte[]>(layout_.table_begin);
    capacity_bytes_ = layout_.table_begin;
  }
  hashes_.clear();
  hashes_.reserve(layout_.num_blocks);
  std::span<std::byte> to(buffer_.get(), layout_.table_begin);
  for (const IndexedSlice& item : slices) {
    const FlatSpace& space = space_of(schema, item.kind_index);
    std::span<const std::byte> from = item.slice->bytes;
    for (int64_t block = item.slice->blocks.first; block < item.slice->blocks.end; ++block) {
      const uint64_t bytes = run_bytes(space, {block, block + 1});
      hashes_.push_back(copy_and_xxh3_64(from.first(bytes), to.first(bytes)));
      from = from.subspan(bytes);
      to = to.subspan(bytes);
    }
  }
  return Status::ok();
}

Result<WrittenShard> write_shard(FileSystem& fs, const std::string& folder,
                                 const StateSchema& schema, const ShardIdentity& identity,
                                 const Staging& staging) {
  const std::string path = path_join(folder, shard_file(identity.shard));
  const std::string prefix = shard_prefix(schema, staging.layout(), identity);
  const WrittenShard shard{prefix.size() + staging.layout().data_bytes(), xxh3_128(prefix),
                           xxh3_128(staging.table())};
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs.open_write(path, OpenMode::kCreateExclusive));
  LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(prefix))));
  if (!staging.bytes().empty()) LOCKSTEP_RETURN_IF_ERROR(file->write(staging.bytes()));
  if (!staging.table().empty()) LOCKSTEP_RETURN_IF_ERROR(file->write(staging.table()));
  LOCKSTEP_RETURN_IF_ERROR(file->sync());
  LOCKSTEP_RETURN_IF_ERROR(file->close());
  LOCKSTEP_ASSIGN_OR_RETURN(const FileInfo info, fs.stat(path));
  if (info.size_bytes != shard.bytes) {
    return io_error(cat(path, ": wrote ", shard.bytes, " bytes, the file has ", info.size_bytes));
  }
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(folder));
  return shard;
}

}  // namespace lockstep
