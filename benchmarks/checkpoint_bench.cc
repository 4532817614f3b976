// Times checkpoints against the disk and the memory themselves, in turns within a round. Under
// mpirun:
//   mpirun -n 2 build/release/bin/checkpoint_bench --dir FOLDER --mib 1024 >FILE.json
// Each round: raw write, save in front, memory copy, start of a save behind training, raw read,
// cold restore, each by all ranks at once; a time is that of the slowest rank from a common barrier
// on. How figures are derived: benchmarks/README.md.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "disk_probe.h"
#include "lockstep/checkpoint/checkpointer.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/world.h"
#include "spread.h"

namespace lockstep {
namespace {

struct BenchOptions {
  std::string dir;
  int64_t mib = 1024;
  int num_rounds = 5;
  uint64_t staging_mib = 0;
  bool with_tools = false;
  ProbeShape probe;
};

void require(const Status& status) {
  LOCKSTEP_CHECK(status.is_ok(), status.to_string());
}

/// Parameters and two optimizer slots of one tensor of floats; each rank owns a run of blocks.
class BenchState {
 public:
  BenchState(int64_t mib, int world_rank, int world_size) {
    constexpr int64_t kSlots = 3;
    TensorSpec tensor{
        "weight", {}, Dtype::kF32, {mib * (1 << 20) / 4 / kSlots}, {0}, SpaceRole::kTrainable};
    schema_.layout = FlatLayout::plan({tensor}).value();
    const FlatSpace& space = schema_.layout.spaces().front();
    const int64_t blocks = space.num_blocks();
    const BlockRun run{blocks * world_rank / world_size, blocks * (world_rank + 1) / world_size};
    for (const char* kind : {"param", "adamw.exp_avg", "adamw.exp_avg_sq"}) {
      schema_.kinds.push_back({space.name, kind});
      std::vector<float>& values =
          memory_.emplace_back(static_cast<size_t>(space.elems_of(run).num_elems()));
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1021);
      owned_.slices.push_back(
          {schema_.kinds.back(), run, std::as_writable_bytes(std::span(values))});
    }
  }
  BenchState(const BenchState&) = delete;
  BenchState& operator=(const BenchState&) = delete;

  const StateSchema& schema() const { return schema_; }
  const OwnedState& owned() const { return owned_; }
  uint64_t own_bytes() const {
    uint64_t bytes = 0;
    for (const StateSlice& slice : owned_.slices) bytes += slice.bytes.size();
    return bytes;
  }
  bool is_intact() const {
    return std::all_of(memory_.begin(), memory_.end(), [](const std::vector<float>& values) {
      for (size_t i = 0; i < values.size(); ++i) {
        if (values[i] != static_cast<float>(i % 1021)) return false;
      }
      return true;
    });
  }
  void spoil() {
    for (auto& values : memory_) std::fill(values.begin(), values.end(), -1.0F);
  }

 private:
  StateSchema schema_;
  OwnedState owned_;
  std::vector<std::vector<float>> memory_;
};

uint64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::stoull(line.substr(key.size() + 1)) * 1024;
  }
  throw std::runtime_error(key + " is not in /proc/self/status");
}

/// By how much the process grew at most while `body` ran.
uint64_t growth_bytes(const std::function<void()>& body) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
  const uint64_t before = status_bytes("VmRSS:");
  body();
  return std::max(status_bytes("VmHWM:"), before) - before;
}

class Bench {
 public:
  Bench(World& world, const BenchOptions& options)
      : world_(world),
        options_(options),
        state_(options.mib, world.world_rank(), world.world_size()),
        probe_path_(path_join(options.dir, cat("probe-", world.world_rank()))),
        checkpointer_(open()) {
    auto buffer = AlignedBuffer::make(options.probe.piece_bytes * options.probe.in_flight);
    require(buffer.status());
    probe_buffer_ = std::move(*buffer);
    auto copy = AlignedBuffer::make(state_.own_bytes());
    require(copy.status());
    copy_ = std::move(*copy);
    std::fill(copy_.bytes().begin(), copy_.bytes().end(), std::byte{1});
    std::fill(probe_buffer_.bytes().begin(), probe_buffer_.bytes().end(), std::byte{2});
  }

  nlohmann::json run() {
    for (int round = 0; round <= options_.num_rounds; ++round) run_round();
    for (auto& [name, values] : seconds_) values.erase(values.begin());  // the first warms up
    nlohmann::json report;
    for (const auto& [name, values] : seconds_) report["seconds"][name] = values;
    const auto ratio = [&](const char* name, const char* above, const char* below,
                           double factor = 1) {
      std::vector<double> each;
      for (size_t i = 0; i < seconds_[above].size(); ++i)
        each.push_back(factor * seconds_[above][i] / seconds_[below][i]);
      report["ratios"][name] = spread(each);
    };
    ratio("save_rate_to_raw_write_rate", "raw_write", "save");
    ratio("load_rate_to_raw_read_rate", "raw_read", "load");
    ratio("stall_to_copy_time", "stall", "copy");
    if (options_.with_tools) {
      ratio("verify_rate_to_raw_read_rate", "raw_read", "verify");
      ratio("diff_rate_to_raw_read_rate", "raw_read", "diff", 2);  // reads both checkpoints
    }
    report["io_method"] = io_method_;
    report["staging_bytes"] = staging_bytes_;
    report["bytes_read_to_own_bytes"] =
        static_cast<double>(own_bytes_read_) / static_cast<double>(state_.own_bytes());
    report["bytes_written_to_unique_bytes"] =
        static_cast<double>(total_bytes_) /
        static_cast<double>(3 * state_.schema().layout.spaces().front().num_bytes());
    report["growth_bytes"] = growth_bytes_;
    report["parts_ms"] = parts_ms_;
    return report;
  }

 private:
  Checkpointer open() {
    CheckpointerOptions options;
    options.fs = &posix_file_system();
    options.plane = &world_.control_plane();
    options.run_dir = path_join(options_.dir, "run");
    options.log = Log::silent();
    options.retention.keep_any = {keep_latest(2)};
    options.staging_budget_bytes = options_.staging_mib << 20;
    auto checkpointer = Checkpointer::open(options);
    require(checkpointer.status());
    return std::move(*checkpointer);
  }

  SaveRequest request() {
    SaveRequest request;
    request.schema = &state_.schema();
    request.owned = &state_.owned();
    request.step = ++step_;
    return request;
  }

  /// Seconds of `body` on the slowest rank.
  void time(const char* name, const std::function<void()>& body) {
    const Deadline soon = Deadline::after_s(600);
    Communicator& communicator = world_.communicator();
    require(communicator.barrier("start of a measurement", soon));
    double mine = 0;
    const uint64_t growth = growth_bytes([&] {
      const Stopwatch watch;
      body();
      mine = watch.elapsed_s();
    });
    if (growth > growth_bytes_[name]) growth_bytes_[name] = growth;
    std::vector<double> all(static_cast<size_t>(world_.world_size()));
    require(communicator.all_gather(std::as_bytes(std::span(&mine, 1)),
                                    std::as_writable_bytes(std::span(all)), "times", soon));
    seconds_[name].push_back(*std::max_element(all.begin(), all.end()));
  }

  void run_round() {
    const uint64_t bytes = state_.own_bytes() / 4096 * 4096;
    time("raw_write",
         [&] { probe_write_s(probe_path_, bytes, probe_buffer_.bytes(), options_.probe); });
    time("save", [&] {
      const auto report = checkpointer_.save(request());
      require(report.status());
      earlier_path_ = report->path;
      io_method_ = report->io_method;
      total_bytes_ = report->total_bytes;
      parts_ms_ = {{"prepare", report->prepare_ms},
                   {"write", report->write_ms},
                   {"sync", report->sync_ms},
                   {"vote", report->vote_ms},
                   {"commit", report->commit_ms}};
    });
    time("copy", [&] {
      std::byte* to = copy_.bytes().data();
      for (const StateSlice& slice : state_.owned().slices) {
        std::memcpy(to, slice.bytes.data(), slice.bytes.size());
        to += slice.bytes.size();
      }
    });
    time("stall", [&] { checkpointer_.start_save(request()); });
    time("background", [&] {
      const auto report = checkpointer_.finish_save();
      require(report.status());
      staging_bytes_ = report->staging_bytes;
      path_ = report->path;
    });
    time("raw_read",
         [&] { probe_read_s(probe_path_, bytes, probe_buffer_.bytes(), options_.probe); });
    state_.spoil();
    drop_checkpoints_from_cache();
    time("load", [&] {
      RestoreRequest request;
      request.schema = &state_.schema();
      request.into = &state_.owned();
      const auto restored = checkpointer_.restore(request);
      require(restored.status());
      own_bytes_read_ = (*restored)->own_bytes_read;
    });
    LOCKSTEP_CHECK(state_.is_intact(), "the state came back changed");
    if (options_.with_tools) run_tools();
  }

  void run_tools() {
    FileSystem& fs = posix_file_system();
    ToolRun on_all_processors;
    on_all_processors.num_threads = num_usable_cpus();
    time("verify", [&] {
      const auto report = verify_checkpoint(fs, path_, on_all_processors);
      require(report.status());
      LOCKSTEP_CHECK(report->problems.empty(), report->problems.front());
    });
    drop_checkpoints_from_cache();
    time("diff", [&] {
      const auto report = diff_checkpoints(fs, earlier_path_, path_, on_all_processors);
      require(report.status());
      LOCKSTEP_CHECK(report->tensors.empty(), "the same state differs from itself");
    });
  }

  void drop_checkpoints_from_cache() {
    if (world_.world_rank() != 0) return;
    for (const std::string& path : {earlier_path_, path_}) {
      const auto entries = posix_file_system().list(path);
      require(entries.status());
      for (const DirectoryEntry& entry : *entries) drop_from_cache(path_join(path, entry.name));
    }
  }

  World& world_;
  const BenchOptions& options_;
  BenchState state_;
  std::string probe_path_;
  Checkpointer checkpointer_;
  AlignedBuffer probe_buffer_;
  AlignedBuffer copy_;
  int64_t step_ = 0;
  std::string path_;
  std::string earlier_path_;
  std::string io_method_;
  uint64_t total_bytes_ = 0;
  uint64_t own_bytes_read_ = 0;
  uint64_t staging_bytes_ = 0;
  nlohmann::json parts_ms_;
  std::map<std::string, uint64_t> growth_bytes_;  // of rank 0, the most over the rounds
  std::map<std::string, std::vector<double>> seconds_;
};

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::BenchOptions options;
  CLI::App app{"Times checkpoints against the disk and the memory themselves"};
  app.add_option("--dir", options.dir, "an existing folder on the disk to measure")->required();
  app.add_option("--mib", options.mib, "bytes of state over all ranks");
  app.add_option("--rounds", options.num_rounds, "rounds");
  app.add_option("--staging-mib", options.staging_mib, "staging budget of a rank (0: its shard)");
  app.add_flag("--tools", options.with_tools, "time verify and diff too; with one rank");
  app.add_option("--probe-piece-bytes", options.probe.piece_bytes, "a raw transfer");
  app.add_option("--probe-in-flight", options.probe.in_flight, "raw transfers under way");
  CLI11_PARSE(app, argc, argv);
  auto world = lockstep::World::join(argc, argv);
  if (!world.is_ok()) {
    std::fprintf(stderr, "%s\n", world.status().to_string().c_str());
    return 70;
  }
  nlohmann::json report = lockstep::Bench(*world, options).run();
  report["benchmark"] = "checkpoint";
  report["world_size"] = world->world_size();
  report["mib"] = options.mib;
  if (world->world_rank() == 0) std::printf("%s\n", report.dump(2).c_str());
  return world->shutdown().is_ok() ? 0 : 70;
}
