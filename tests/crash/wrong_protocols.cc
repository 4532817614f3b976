#include "wrong_protocols.h"

#include <algorithm>
#include <map>

#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep::crash {
namespace {

constexpr uint64_t kOld = 1;
constexpr uint64_t kNew = 2;
constexpr double kWriteSeconds = 30;

using Files = std::map<std::string, std::string>;

/// A save by one rank as many write it. As it stands: correct.
struct NaiveSave {
  bool sync_files = true;
  bool sync_partial = true;
  bool sync_parent = true;
  bool data_before_commit = true;
  bool fresh_partial = true;
  bool delete_old_last = true;
  bool direct = false;  ///< shards go past the page cache
  GenerationName name = {2, 20};
  GenerationName old = {1, 10};
};

void must(const Status& status) {
  LOCKSTEP_CHECK(status.is_ok(), status.message());
}

/// A true save under a generation of choice: the one after that of a folder being deleted.
std::string save_as(FileSystem& fs, const std::string& run_dir, uint64_t seed,
                    const GenerationName& name) {
  const std::string doomed =
      path_join(RunPaths{run_dir}.checkpoints(), doomed_folder({{name.generation - 1, 1}, 1}));
  const auto saved =
      save_state(fs, 1, state_of(seed), name.step, [&](CheckpointerOptions& options) {
        options.run_dir = run_dir;
        options.on_save_step = [&](int step, int) {
          if (step == 1) must(fs.make_dir(doomed));
        };
      });
  must(saved.status());
  LOCKSTEP_CHECK(saved->generation == name.generation, "generation ", saved->generation);
  must(remove_tree(fs, doomed));
  return saved->path;
}

/// The files of a true save, by name.
Files true_files(uint64_t seed, const GenerationName& name) {
  MemoryFileSystem fs;
  const std::string folder = save_as(fs, "/run", seed, name);
  Files files;
  for (const auto& [path, content] : all_files(fs, folder))
    files[path.substr(folder.size() + 1)] = content;
  return files;
}

/// One that thinks that what went past the page cache is on the disk.
void write_direct(FileSystem& fs, const std::string& path, const std::string& content) {
  AlignedBuffer buffer = AlignedBuffer::make(bulk_align_up(content.size())).value();
  std::copy_n(std::as_bytes(std::span(content)).begin(), content.size(), buffer.bytes().begin());
  BulkOptions options;
  options.expected_bytes = content.size();
  const auto file = fs.create_bulk(path, options).value();
  must(file->start_write(0, buffer.bytes().first(bulk_align_up(content.size())), 0));
  must(file->wait_one(Deadline::after_s(kWriteSeconds)).status());
  must(file->set_size(content.size()));
  must(file->close());
}

void write(FileSystem& fs, const std::string& folder, const std::string& name,
           const std::string& content, const NaiveSave& how) {
  if (how.direct && name != kManifestFile)
    return write_direct(fs, path_join(folder, name), content);
  auto opened = fs.open_write(path_join(folder, name), OpenMode::kCreateExclusive);
  // One that thinks that what is there is what it wrote before.
  if (!how.fresh_partial && opened.status().code() == StatusCode::kAlreadyExists) return;
  auto file = std::move(opened).value();
  must(file->write(std::as_bytes(std::span(content))));
  if (how.sync_files) must(file->sync());
}

void write_shards(FileSystem& fs, const std::string& folder, const Files& files,
                  const NaiveSave& how) {
  for (const auto& [name, content] : files) {
    if (name != kManifestFile) write(fs, folder, name, content, how);
  }
}

void save_naively(FileSystem& fs, const std::string& run_dir, const Files& files,
                  const NaiveSave& how, std::atomic<int>& acknowledged) {
  const std::string root = RunPaths{run_dir}.checkpoints();
  const std::string target = path_join(root, generation_folder(how.name));
  const std::string old = path_join(root, generation_folder(how.old));
  const std::string partial = path_join(root, partial_folder({how.name, 1}));
  if (!how.delete_old_last) must(remove_tree(fs, old));
  const Status made = fs.make_dir(partial);
  if (how.fresh_partial) must(made);
  if (how.data_before_commit) write_shards(fs, partial, files, how);
  write(fs, partial, std::string(kManifestFile), files.at(std::string(kManifestFile)), how);
  if (how.sync_partial) must(fs.sync_dir(partial));
  must(fs.rename(partial, target));
  if (!how.data_before_commit) {
    write_shards(fs, target, files, how);
    must(fs.sync_dir(target));
  }
  if (how.sync_parent) must(fs.sync_dir(root));
  acknowledged = 1;
  if (how.delete_old_last) must(remove_tree(fs, old));
}

class Builder {
 public:
  explicit Builder(std::string run_dir) : run_dir_(std::move(run_dir)) {}

  Control naive(std::string name, const NaiveSave& how, bool is_wrong = true) const {
    Control control;
    control.name = std::move(name);
    control.is_wrong = is_wrong;
    control.operation.name = control.name;
    control.operation.states = {kOld, kNew};
    control.operation.prepare = [old = how.old](FileSystem& fs, const std::string& run_dir) {
      save_as(fs, run_dir, kOld, old);
    };
    control.protocol = [files = true_files(kNew, how.name), how, run_dir = run_dir_](
                           FileSystem& fs, std::atomic<int>& acknowledged) {
      save_naively(fs, run_dir, files, how, acknowledged);
    };
    return control;
  }

  /// An earlier writer left its folder with a torn shard; the next one goes on in it.
  Control reused_partial() const {
    NaiveSave how;
    how.fresh_partial = false;
    Control control = naive("reused partial directory", how);
    control.operation.prepare = [base = control.operation.prepare, how](
                                    FileSystem& fs, const std::string& run_dir) {
      base(fs, run_dir);
      const std::string partial =
          path_join(RunPaths{run_dir}.checkpoints(), partial_folder({how.name, 1}));
      must(make_dirs_durable(fs, partial));
      overwrite_file(fs, path_join(partial, shard_file({0, 1})), "torn");
    };
    return control;
  }

  Control overwrite_in_place() const {
    Control control = naive("overwrite in place", {});
    control.protocol = [files = true_files(kNew, {1, 10}), run_dir = run_dir_](
                           FileSystem& fs, std::atomic<int>& acknowledged) {
      const std::string folder = RunPaths{run_dir}.generation({1, 10});
      for (const auto& [name, content] : files)
        must(write_and_sync_file(fs, path_join(folder, name), content, OpenMode::kTruncate));
      acknowledged = 1;
    };
    return control;
  }

  /// The first save of a run whose folders were just made.
  Control folder_chain(std::string name, bool sync_chain) const {
    Control control = naive(std::move(name), {}, !sync_chain);
    control.operation.states = {0, kNew};
    control.operation.prepare = [](FileSystem&, const std::string&) {};
    control.protocol = [save = control.protocol, run_dir = run_dir_, sync_chain](
                           FileSystem& fs, std::atomic<int>& acknowledged) {
      if (sync_chain) {
        must(make_dirs_durable(fs, RunPaths{run_dir}.checkpoints()));
      } else {
        std::string path;
        for (const std::string& part : split(RunPaths{run_dir}.checkpoints().substr(1), '/')) {
          path += "/" + part;
          const Status made = fs.make_dir(path);
          if (made.code() != StatusCode::kAlreadyExists) must(made);
        }
      }
      save(fs, acknowledged);
    };
    return control;
  }

 private:
  std::string run_dir_;
};

}  // namespace

std::vector<Control> controls(const std::string& run_dir) {
  const Builder builder(run_dir);
  NaiveSave by_step;  // the run went back from step 10 to step 5, and its generations are its steps
  by_step.old = {10, 10};
  by_step.name = {5, 5};
  NaiveSave by_generation = by_step;
  by_generation.name = {12, 5};
  NaiveSave nothing_synced;
  nothing_synced.sync_files = false;
  nothing_synced.sync_partial = false;
  NaiveSave no_sync_of_data;
  no_sync_of_data.sync_files = false;
  NaiveSave direct_without_sync;
  direct_without_sync.direct = true;
  NaiveSave no_sync_of_partial;
  no_sync_of_partial.sync_partial = false;
  NaiveSave no_sync_of_rename;
  no_sync_of_rename.sync_parent = false;
  NaiveSave marker_first;
  marker_first.data_before_commit = false;
  NaiveSave delete_first;
  delete_first.delete_old_last = false;
  return {
      builder.naive("the right order", {}, /*is_wrong=*/false),
      builder.naive("newest by generation", by_generation, /*is_wrong=*/false),
      builder.folder_chain("synced directory chain", true),
      builder.naive("rename without sync", nothing_synced),
      builder.naive("rename without sync: its own name", no_sync_of_rename),
      builder.naive("rename without sync: the partial directory", no_sync_of_partial),
      builder.overwrite_in_place(),
      builder.naive("marker before data", marker_first),
      builder.reused_partial(),
      builder.naive("delete old before new is durable", delete_first),
      builder.naive("newest by step", by_step),
      builder.folder_chain("unsynced directory chain", false),
      builder.naive("data written but never synced", no_sync_of_data),
      builder.naive("data written with direct I/O but never synced", direct_without_sync),
  };
}

}  // namespace lockstep::crash
