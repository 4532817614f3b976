#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "block_hashes.h"
#include "block_stream.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/digest.h"
#include "parallel.h"
#include "run_folder.h"

namespace lockstep {
namespace {

constexpr uint64_t kTaskBytes = uint64_t{32} << 20;
constexpr double kReadTimeoutS = 600;

/// Blocks of one shard for one thread to read.
struct Task {
  const ShardReader* reader = nullptr;
  std::vector<ReadItem> items;
  uint64_t bytes = 0;
  uint64_t num_blocks = 0;
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
  Verifier(FileSystem& fs, const Manifest& manifest, VerifyReport* report)
      : fs_(fs), manifest_(manifest), report_(report) {}

  void add(const ShardReader& reader) {
    Task task{&reader, {}, 0, 0};
    for (size_t i = 0; i < reader.layout().extents.size(); ++i) {
      const ShardExtent& extent = reader.layout().extents[i];
      const FlatSpace& space = space_of(manifest_.schema, extent.kind_index);
      for (BlockRun rest = extent.blocks; rest.num_blocks() > 0;) {
        const BlockRun piece = next_piece(space, rest, kTaskBytes);
        task.items.push_back({i, piece, {}});
        task.bytes += run_bytes(space, piece);
        task.num_blocks += static_cast<uint64_t>(piece.num_blocks());
        rest.first = piece.end;
        if (task.bytes >= kTaskBytes)
          tasks_.push_back(std::exchange(task, Task{&reader, {}, 0, 0}));
      }
    }
    if (!task.items.empty()) tasks_.push_back(std::move(task));
  }

  Status run(int num_threads, ByteProgress* progress) {
    BlockStreamOptions options;
    options.may_read_cache = false;
    options.timeout_s = kReadTimeoutS;
    return run_parallel(tasks_.size(), num_threads, [&] {
      auto stream = std::make_shared<BlockStream>(fs_, options);
      return Worker([this, stream, progress](size_t index) {
        const Task& task = tasks_[index];
        const Status status = stream->read(*task.reader, task.items);
        if (!status.is_ok()) LOCKSTEP_RETURN_IF_ERROR(look_closer(task, status));
        progress->add(task.bytes);
        std::lock_guard lock(mutex_);
        report_->num_blocks += task.num_blocks;
        report_->bytes += task.bytes;
        return Status::ok();
      });
    });
  }

 private:
  /// Block by block: which of them are bad.
  Status look_closer(const Task& task, const Status& first_look) {
    if (!is_bad_content(first_look)) return first_look;
    bool has_found = false;
    std::vector<std::byte> bytes;
    for (const ReadItem& item : task.items) {
      const ShardExtent& extent = task.reader->layout().extents[item.extent_index];
      const FlatSpace& space = space_of(manifest_.schema, extent.kind_index);
      for (int64_t block = item.blocks.first; block < item.blocks.end; ++block) {
        bytes.resize(run_bytes(space, {block, block + 1}));
        const Status status =
            task.reader->read_blocks(item.extent_index, {block, block + 1}, bytes);
        if (status.is_ok()) continue;
        if (!is_bad_content(status)) return status;
        has_found = true;
        add_problem(cat(status.message(), " (of ", tensors_in(space, block), ")"));
      }
    }
    if (!has_found)
      add_problem(
          cat(first_look.message(), "; read a second time, perhaps from memory, it is good"));
    return Status::ok();
  }

  void add_problem(std::string problem) {
    std::lock_guard lock(mutex_);
    report_->problems.push_back(std::move(problem));
  }

  FileSystem& fs_;
  const Manifest& manifest_;
  VerifyReport* report_;
  std::vector<Task> tasks_;
  std::mutex mutex_;
};

/// Shards [first, end) of a manifest.
struct ShardRange {
  size_t first = 0;
  size_t end = 0;
};

/// Opens these shards, reads all that is in them, and closes them. Whether all could be opened.
Result<bool> verify_shards(FileSystem& fs, const std::string& path, const Manifest& manifest,
                           ShardRange range, int num_threads, ByteProgress* progress,
                           VerifyReport* report) {
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
  Verifier verifier(fs, manifest, report);
  for (const ShardReader& reader : readers) verifier.add(reader);
  LOCKSTEP_RETURN_IF_ERROR(verifier.run(num_threads, progress));
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

Status check_names(FileSystem& fs, const std::string& path, const Manifest& manifest,
                   VerifyReport* report) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto stray, stray_files(fs, path, manifest));
  for (const std::string& name : stray) {
    report->problems.push_back(
        cat(path_join(path, name), ": the manifest does not name it; remove it"));
  }
  return Status::ok();
}

}  // namespace

Result<VerifyReport> verify_checkpoint(FileSystem& fs, const std::string& path,
                                       const ToolRun& how) {
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
  ByteProgress progress(how.on_progress, manifest->shard_bytes());
  bool has_all_tables = true;
  for (size_t first = 0; first < manifest->shards.size(); first += kMaxOpenShards) {
    const size_t end = std::min(first + kMaxOpenShards, manifest->shards.size());
    LOCKSTEP_ASSIGN_OR_RETURN(
        const bool has_tables,
        verify_shards(fs, path, *manifest, {first, end}, how.num_threads, &progress, &report));
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
      summary.bytes = manifest->shard_bytes();
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
