#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "block_hashes.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/digest.h"
#include "run_folder.h"

namespace lockstep {
namespace {

/// A run of blocks for one thread to read.
struct Task {
  const ShardReader* reader = nullptr;
  size_t extent_index = 0;
  BlockRun blocks;
};

/// Names of the tensors that lie in a block, for people.
std::string tensors_in(const FlatSpace& space, int64_t block) {
  const ElemRun elems = space.elems_of({block, block + 1});
  std::vector<std::string> names;
  for (const TensorPlace& place : space.tensors) {
    const int64_t end = place.offset_elems + place.spec.num_elems();
    if (place.offset_elems < elems.end && end > elems.first) names.push_back(place.spec.name);
  }
  return join(names, ", ");
}

/// What the threads share.
class Verifier {
 public:
  Verifier(const Manifest& manifest, VerifyReport* report) : manifest_(manifest), report_(report) {}

  void add(const ShardReader& reader) {
    for (size_t i = 0; i < reader.layout().extents.size(); ++i) {
      const ShardExtent& extent = reader.layout().extents[i];
      const FlatSpace& space = space_of(manifest_.schema, extent.kind_index);
      for (BlockRun rest = extent.blocks; rest.num_blocks() > 0;) {
        const BlockRun piece = next_piece(space, rest, kReadPieceBytes);
        tasks_.push_back({&reader, i, piece});
        rest.first = piece.end;
      }
    }
  }

  Status run(int num_threads) {
    std::vector<std::thread> threads;
    for (int i = 0; i < std::max(num_threads, 1); ++i) threads.emplace_back([this] { work(); });
    for (std::thread& thread : threads) thread.join();
    return error_;
  }

 private:
  void work() {
    std::vector<std::byte> scratch;
    for (size_t i = next_++; i < tasks_.size(); i = next_++) {
      const Task& task = tasks_[i];
      const FlatSpace& space =
          space_of(manifest_.schema, task.reader->layout().extents[task.extent_index].kind_index);
      scratch.resize(run_bytes(space, task.blocks));
      if (!task.reader->read_blocks(task.extent_index, task.blocks, scratch).is_ok())
        look_closer(task, space);
      std::lock_guard lock(mutex_);
      report_->num_blocks += static_cast<uint64_t>(task.blocks.num_blocks());
      report_->bytes += scratch.size();
    }
  }

  /// Block by block: which of them are bad.
  void look_closer(const Task& task, const FlatSpace& space) {
    std::vector<std::byte> bytes;
    for (int64_t block = task.blocks.first; block < task.blocks.end; ++block) {
      bytes.resize(run_bytes(space, {block, block + 1}));
      const Status status = task.reader->read_blocks(task.extent_index, {block, block + 1}, bytes);
      if (status.is_ok()) continue;
      std::lock_guard lock(mutex_);
      if (!is_bad_content(status)) {
        error_ = status;
      } else {
        report_->problems.push_back(cat(status.message(), " (of ", tensors_in(space, block), ")"));
      }
    }
  }

  const Manifest& manifest_;
  VerifyReport* report_;
  std::vector<Task> tasks_;
  std::atomic<size_t> next_ = 0;
  std::mutex mutex_;
  Status error_;
};

/// Shards [first, end) of a manifest.
struct ShardRange {
  size_t first = 0;
  size_t end = 0;
};

/// Opens these shards, reads all that is in them, and closes them. Whether all could be opened.
Result<bool> verify_shards(FileSystem& fs, const std::string& path, const Manifest& manifest,
                           ShardRange range, int num_threads, VerifyReport* report) {
  std::vector<ShardReader> readers;
  for (size_t i = range.first; i < range.end; ++i) {
    auto reader = ShardReader::open(fs, path, manifest.schema, manifest.shards[i],
                                    manifest.shard_identity(i));
    if (reader.is_ok()) {
      readers.push_back(std::move(*reader));
    } else if (is_bad_content(reader.status())) {
      report->problems.push_back(reader.status().message());
    } else {
      return reader.status();
    }
  }
  Verifier verifier(manifest, report);
  for (const ShardReader& reader : readers) verifier.add(reader);
  LOCKSTEP_RETURN_IF_ERROR(verifier.run(num_threads));
  return readers.size() == range.end - range.first;
}

Status check_digest(FileSystem& fs, const std::string& path, const Manifest& manifest,
                    VerifyReport* report) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto hashes, read_block_hashes(fs, path, manifest));
  const Hash128 digest = state_digest(manifest.schema, hashes, manifest.scalars);
  if (digest != manifest.state_digest) {
    report->problems.push_back(cat(path, ": the state digest is ", digest.hex(),
                                   ", the manifest says ", manifest.state_digest.hex()));
  }
  return Status::ok();
}

/// Files that the manifest does not name. They can't change what is restored, but nobody who writes
/// checkpoints puts them there. NFS keeps files that are open while they are deleted as ".nfs...".
Status check_names(FileSystem& fs, const std::string& path, const Manifest& manifest,
                   VerifyReport* report) {
  std::set<std::string> known = {std::string(kManifestFile)};
  for (const ShardEntry& shard : manifest.shards) known.insert(shard.file);
  LOCKSTEP_ASSIGN_OR_RETURN(const auto entries, fs.list(path));
  for (const DirectoryEntry& entry : entries) {
    if (known.count(entry.name) != 0 || entry.name.starts_with(".nfs")) continue;
    report->problems.push_back(
        cat(path_join(path, entry.name), ": the manifest does not name it; remove it"));
  }
  return Status::ok();
}

}  // namespace

Result<VerifyReport> verify_checkpoint(FileSystem& fs, const std::string& path, int num_threads) {
  const Stopwatch watch;
  VerifyReport report;
  report.path = path;
  LOCKSTEP_RETURN_IF_ERROR(fs.list(path).status());
  const auto manifest = read_manifest(fs, path, nullptr);
  if (!manifest.is_ok()) {
    if (!is_bad_content(manifest.status())) return manifest.status();
    report.problems.push_back(manifest.status().message());
    return report;
  }
  bool has_all_tables = true;
  for (size_t first = 0; first < manifest->shards.size(); first += kMaxOpenShards) {
    const size_t end = std::min(first + kMaxOpenShards, manifest->shards.size());
    LOCKSTEP_ASSIGN_OR_RETURN(
        const bool has_tables,
        verify_shards(fs, path, *manifest, {first, end}, num_threads, &report));
    has_all_tables = has_all_tables && has_tables;
  }
  if (has_all_tables) LOCKSTEP_RETURN_IF_ERROR(check_digest(fs, path, *manifest, &report));
  LOCKSTEP_RETURN_IF_ERROR(check_names(fs, path, *manifest, &report));
  std::sort(report.problems.begin(), report.problems.end());
  report.seconds = watch.elapsed_s();
  return report;
}

Result<std::vector<CheckpointSummary>> list_checkpoints(FileSystem& fs,
                                                        const std::string& run_dir) {
  const RunPaths paths{run_dir};
  LOCKSTEP_RETURN_IF_ERROR(fs.list(paths.checkpoints()).status());
  LOCKSTEP_ASSIGN_OR_RETURN(const RunFolder folder, list_run_folder(fs, paths));
  std::vector<CheckpointSummary> summaries;
  const auto add = [&](const GenerationName& name, const std::string& path, bool is_quarantined) {
    CheckpointSummary summary{path, is_quarantined, {}, name.generation, name.step, 0, 0, 0, {}, {},
                              {}};
    const auto manifest = read_manifest(fs, path, nullptr);
    if (manifest.is_ok()) {
      summary.epoch = manifest->epoch;
      summary.world_size = manifest->world_size;
      summary.utc_time = manifest->utc_time;
      summary.metrics = manifest->metrics;
      summary.state_digest = manifest->state_digest;
      for (const ShardEntry& shard : manifest->shards) summary.bytes += shard.bytes;
    } else {
      summary.problem = manifest.status().message();
    }
    summaries.push_back(std::move(summary));
  };
  for (auto it = folder.committed.rbegin(); it != folder.committed.rend(); ++it) {
    add(*it, paths.generation(*it), false);
  }
  for (auto it = folder.quarantined.rbegin(); it != folder.quarantined.rend(); ++it) {
    add(*it, path_join(paths.quarantine(), generation_folder(*it)), true);
  }
  return summaries;
}

}  // namespace lockstep
