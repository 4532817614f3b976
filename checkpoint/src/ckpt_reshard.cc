// Writing: 1. an empty partial folder beside the output; what a killed one left there is removed.
// 2. Each shard is written and synced; blocks are verified as they are read and keep their hashes.
// 3. Headers and tables are read back: the state digest must be the one that was there before.
// 4. The manifest is written and synced, then the folder. 5. The rename to the output's name, and
// the sync of the folder above, make it a checkpoint.
#include "ckpt_reshard.h"

#include <algorithm>

#include "block_hashes.h"
#include "block_source.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/digest.h"
#include "manifest_check.h"
#include "parallel.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxWorldSize = 100'000;

/// Where the i-th of `num_parts` equal parts of `total` begins.
uint64_t part_begin(uint64_t total, uint64_t num_parts, uint64_t i) {
  return total / num_parts * i + total % num_parts * i / num_parts;
}

/// How many of the blocks, whose first byte is number `begin` of all, have their middle before
/// number `limit`.
int64_t blocks_before(const FlatSpace& space, uint64_t begin, uint64_t limit) {
  const int64_t num_blocks = space.num_blocks();
  if (num_blocks == 0) return 0;
  const uint64_t block_bytes = run_bytes(space, {0, 1});
  const uint64_t last_bytes = run_bytes(space, {num_blocks - 1, num_blocks});
  const uint64_t last_begin = begin + run_bytes(space, {0, num_blocks - 1});
  if (last_begin + last_bytes / 2 < limit) return num_blocks;
  const uint64_t first_middle = begin + block_bytes / 2;
  if (limit <= first_middle) return 0;
  const auto whole = static_cast<int64_t>((limit - first_middle - 1) / block_bytes) + 1;
  return std::min(whole, num_blocks - 1);
}

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

class Resharding {
 public:
  Resharding(FileSystem& fs, const BlockSource& source, int64_t world_size, std::string out)
      : fs_(fs),
        source_(source),
        manifest_(source.manifest()),
        out_(without_slashes(std::move(out))) {
    manifest_.world_size = world_size;
    manifest_.shards.assign(static_cast<size_t>(world_size), {});
  }

  Result<ReshardReport> run(const ToolRun& how) {
    LOCKSTEP_RETURN_IF_ERROR(check_output());
    LOCKSTEP_RETURN_IF_ERROR(check_digest());
    LOCKSTEP_RETURN_IF_ERROR(plan());
    Status status = write(how);
    if (!status.is_ok()) {
      // The first error counts; what is left has a name that is never read.
      if (is_partial_ours_) remove_tree(fs_, partial()).ignore();
      return as_output_error(status);
    }
    report_.path = out_;
    report_.state_digest = manifest_.state_digest;
    return report_;
  }

 private:
  std::string partial() const { return cat(out_, ".partial"); }

  Status check_output() const {
    LOCKSTEP_ASSIGN_OR_RETURN(const bool is_taken, exists(fs_, out_));
    if (is_taken)
      return already_exists_error(cat(out_, " is there already; remove it or choose another name"));
    const std::string parent = path_parent(out_);
    const std::string base = out_.substr(
        parent == "." && out_.rfind('/') == std::string::npos ? 0 : out_.rfind('/') + 1);
    const auto name = parse_generation_folder(base);
    if (!name) return Status::ok();
    if (*name != manifest_.name()) {
      return invalid_argument_error(cat(out_, ": the name of a checkpoint of step ", name->step,
                                        ", generation ", name->generation, ", for one named ",
                                        generation_folder(manifest_.name())));
    }
    return Status::ok();
  }

  /// Before anything is written.
  Status check_digest() const {
    std::vector<std::vector<uint64_t>> hashes;
    for (size_t k = 0; k < manifest_.schema.kinds.size(); ++k)
      hashes.push_back(source_.block_hashes(k));
    return compare_digest(hashes, "the checkpoint's blocks");
  }

  Status compare_digest(const std::vector<std::vector<uint64_t>>& hashes,
                        std::string_view whose) const {
    const Hash128 found = state_digest(manifest_.schema, hashes, manifest_.scalars);
    if (found == manifest_.state_digest) return Status::ok();
    return corruption_error(cat("the state digest of ", whose, " is ", found.hex(),
                                ", the manifest says ", manifest_.state_digest.hex()));
  }

  Status plan() {
    const auto parts = plan_reshard(manifest_.schema, manifest_.world_size);
    for (size_t i = 0; i < parts.size(); ++i) {
      LOCKSTEP_ASSIGN_OR_RETURN(ShardLayout layout, plan_shard(manifest_.schema, parts[i]));
      ShardEntry& entry = manifest_.shards[i];
      const ShardIdentity identity = manifest_.shard_identity(i);
      const std::string prefix = shard_prefix(manifest_.schema, layout, identity);
      entry.file = shard_file(identity.shard);
      entry.runs = parts[i];
      entry.bytes = prefix.size() + layout.data_bytes();
      entry.header_hash = xxh3_128(prefix);
      report_.bytes += entry.bytes;
      state_bytes_ += layout.table_begin;
      report_.largest_shard_bytes = std::max(report_.largest_shard_bytes, entry.bytes);
    }
    return check_coverage(manifest_.schema, manifest_.shards);
  }

  Status write(const ToolRun& how) {
    LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t free_bytes, fs_.free_bytes(path_parent(out_)));
    if (report_.bytes > free_bytes) {
      return resource_exhausted_error(
          cat(out_, " needs ", human_bytes(report_.bytes), ", free are ", human_bytes(free_bytes)));
    }
    LOCKSTEP_RETURN_IF_ERROR(remove_tree(fs_, partial()));
    LOCKSTEP_RETURN_IF_ERROR(fs_.make_dir(partial()));
    is_partial_ours_ = true;
    ByteProgress progress(how.on_progress, state_bytes_);
    LOCKSTEP_RETURN_IF_ERROR(run_parallel(manifest_.shards.size(), how.num_threads, [&] {
      return Worker([&, buffer = std::vector<std::byte>()](size_t task) mutable {
        return write_shard(task, &buffer, &progress);
      });
    }));
    LOCKSTEP_ASSIGN_OR_RETURN(const auto hashes, read_block_hashes(fs_, partial(), manifest_));
    LOCKSTEP_RETURN_IF_ERROR(compare_digest(hashes, "what was written"));
    return publish();
  }

  Status write_shard(size_t index, std::vector<std::byte>* buffer, ByteProgress* progress) {
    ShardEntry& entry = manifest_.shards[index];
    LOCKSTEP_ASSIGN_OR_RETURN(const ShardLayout layout, plan_shard(manifest_.schema, entry.runs));
    LOCKSTEP_ASSIGN_OR_RETURN(
        auto file, fs_.open_write(path_join(partial(), entry.file), OpenMode::kCreateExclusive));
    const std::string prefix =
        shard_prefix(manifest_.schema, layout, manifest_.shard_identity(index));
    LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(prefix))));
    std::vector<uint64_t> table;
    table.reserve(layout.num_blocks);
    for (const ShardExtent& extent : layout.extents) {
      const FlatSpace& space = space_of(manifest_.schema, extent.kind_index);
      for (BlockRun rest = extent.blocks; rest.num_blocks() > 0;) {
        const BlockRun piece = next_piece(space, rest, kReadPieceBytes);
        buffer->resize(run_bytes(space, piece));
        LOCKSTEP_RETURN_IF_ERROR(source_.read(extent.kind_index, piece, *buffer));
        LOCKSTEP_RETURN_IF_ERROR(file->write(*buffer));
        progress->add(buffer->size());
        rest.first = piece.end;
      }
      const auto& hashes = source_.block_hashes(extent.kind_index);
      table.insert(table.end(), hashes.begin() + extent.blocks.first,
                   hashes.begin() + extent.blocks.end);
    }
    entry.table_hash = xxh3_128(std::as_bytes(std::span(table)));
    LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(table))));
    LOCKSTEP_RETURN_IF_ERROR(file->sync());
    return file->close();
  }

  Status publish() {
    const std::string text = manifest_text(manifest_);
    LOCKSTEP_RETURN_IF_ERROR(check_reads_back(manifest_, text));
    LOCKSTEP_RETURN_IF_ERROR(write_and_sync_file(fs_, path_join(partial(), kManifestFile), text,
                                                 OpenMode::kCreateExclusive));
    LOCKSTEP_RETURN_IF_ERROR(fs_.sync_dir(partial()));
    LOCKSTEP_RETURN_IF_ERROR(fs_.rename(partial(), out_));
    is_partial_ours_ = false;
    return fs_.sync_dir(path_parent(out_));
  }

  FileSystem& fs_;
  const BlockSource& source_;
  Manifest manifest_;
  std::string out_;
  uint64_t state_bytes_ = 0;
  bool is_partial_ours_ = false;
  ReshardReport report_;
};

}  // namespace

std::vector<std::vector<KindRuns>> plan_reshard(const StateSchema& schema, int64_t world_size) {
  const auto num_parts = static_cast<uint64_t>(world_size);
  uint64_t total_bytes = 0;
  for (size_t k = 0; k < schema.kinds.size(); ++k)
    total_bytes += static_cast<uint64_t>(space_of(schema, k).num_bytes());
  std::vector<std::vector<KindRuns>> parts(num_parts);
  uint64_t begin = 0;
  for (size_t k = 0; k < schema.kinds.size(); ++k) {
    const FlatSpace& space = space_of(schema, k);
    const auto bytes = static_cast<uint64_t>(space.num_bytes());
    int64_t first = 0;
    for (uint64_t i = 0; i < num_parts && first < space.num_blocks(); ++i) {
      const uint64_t limit = part_begin(total_bytes, num_parts, i + 1);
      const int64_t end =
          i + 1 == num_parts ? space.num_blocks() : blocks_before(space, begin, limit);
      if (end <= first) continue;
      parts[i].push_back({schema.kinds[k], {{first, end}}});
      first = end;
    }
    begin += bytes;
  }
  return parts;
}

Result<ReshardReport> reshard_checkpoint(FileSystem& fs, const std::string& path,
                                         int64_t world_size, const std::string& out_path,
                                         const ToolRun& how) {
  if (world_size < 1 || world_size > kMaxWorldSize) {
    return invalid_argument_error(
        cat("a world of ", world_size, " ranks; expected 1 to ", kMaxWorldSize));
  }
  const Stopwatch watch;
  LOCKSTEP_ASSIGN_OR_RETURN(const BlockSource source, BlockSource::open(fs, path));
  LOCKSTEP_ASSIGN_OR_RETURN(ReshardReport report,
                            Resharding(fs, source, world_size, out_path).run(how));
  report.world_size = world_size;
  report.old_world_size = source.manifest().world_size;
  report.seconds = watch.elapsed_s();
  return report;
}

}  // namespace lockstep
