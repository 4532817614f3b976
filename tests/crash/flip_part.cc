// Single bits: each bit of each file of a checkpoint is turned over once, and a start that is told
// to read that checkpoint must refuse it without having handed out a false byte.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/forwarding_file_system.h"
#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "operations.h"
#include "parts.h"

namespace lockstep::crash {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 26;

/// What the bytes of a shard are: [begin, end) and a name, in order.
struct ByteClass {
  size_t begin = 0;
  size_t end = 0;
  std::string name;
};

std::vector<ByteClass> classes_of(const std::string& file, const std::string& content) {
  if (!file.ends_with(".safetensors")) return {{0, content.size(), "manifest"}};
  size_t header_size = 0;
  for (size_t i = 8; i-- > 0;) header_size = header_size << 8 | static_cast<uint8_t>(content[i]);
  const size_t data = 8 + header_size;
  const size_t end_of_json = content.find_last_not_of(' ', data - 1) + 1;
  std::vector<ByteClass> classes = {{0, 8, "shard header length"},
                                    {8, end_of_json, "shard header"},
                                    {end_of_json, data, "shard header padding"}};
  const auto header = nlohmann::json::parse(content.begin() + 8,
                                            content.begin() + static_cast<ptrdiff_t>(end_of_json));
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = data + tensor["data_offsets"][0].get<size_t>();
    const size_t end = data + tensor["data_offsets"][1].get<size_t>();
    const bool is_table = name == kChecksumTensor;
    classes.push_back(
        {begin, end,
         is_table ? "checksum table" : cat("data of ", name.substr(0, name.find('@')))});
  }
  return classes;
}

/// Turns over one bit of the token between writing and reading it.
class FlippedToken final : public ForwardingFileSystem {
 public:
  FlippedToken(FileSystem& base, size_t bit) : ForwardingFileSystem(base), bit_(bit) {}
  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
    if (path.ends_with(std::string("/") + std::string(kTokenFile)) && !is_done_) {
      is_done_ = true;
      std::string content = read_whole_file(base_, path, kMaxFileBytes).value();
      content[bit_ / 8] = static_cast<char>(content[bit_ / 8] ^ (1 << (bit_ % 8)));
      overwrite_file(base_, path, content);
    }
    return base_.open_read(path);
  }

 private:
  size_t bit_;
  bool is_done_ = false;
};

class FlipPart {
 public:
  explicit FlipPart(const PartOptions& options)
      : every_(static_cast<size_t>(options.number("every", 1))),
        part_(static_cast<size_t>(options.number("part", 0))),
        parts_(static_cast<size_t>(options.number("parts", 1))) {
    operation("keep-latest").prepare(fs_, kRunDir);
    folder_ = RunPaths{kRunDir}.generation({3, 30});
  }

  PartResult run() {
    const auto files = all_files(fs_, folder_);
    size_t total = 0;
    for (const auto& [path, content] : files) total += content.size() * 8;
    size_t done = 0;
    for (const auto& [path, content] : files) {
      for (const ByteClass& each : classes_of(path, content)) {
        for (size_t bit = each.begin * 8; bit < each.end * 8; ++bit) {
          ++done;
          if (done % every_ != 0 || done / every_ % parts_ != part_) continue;
          flip(path, content, bit, each.name);
          tell_progress(static_cast<int64_t>(done), static_cast<int64_t>(total));
        }
      }
      overwrite_file(fs_, path, content);
    }
    if (part_ == 0) {
      flip_attempts();
      flip_tokens();
    }
    return std::move(result_);
  }

 private:
  static std::string flipped(const std::string& content, size_t bit) {
    std::string copy = content;
    copy[bit / 8] = static_cast<char>(copy[bit / 8] ^ (1 << (bit % 8)));
    return copy;
  }

  /// Whether each byte is either untouched or true.
  static bool holds_nothing_false(TestState& read) {
    TestState& truth = state_of(1);
    for (size_t k = 0; k < read.schema().kinds.size(); ++k) {
      for (size_t i = 0; i < read.kind(k).size(); ++i) {
        if (read.kind(k)[i] != std::byte{0} && read.kind(k)[i] != truth.kind(k)[i]) return false;
      }
    }
    return true;
  }

  void flip(const std::string& path, const std::string& content, size_t bit,
            const std::string& byte_class) {
    overwrite_file(fs_, path, flipped(content, bit));
    TestState read(campaign_schema(), 0);
    const auto restored = start_alone(fs_, kRunDir, read, [&](RestoreRequest& request) {
      request.mode = ResumeMode::kPath;
      request.path = folder_;
    });
    ++result_.count("flips");
    ++by_class_[byte_class];
    result_.note("flips", byte_class, cat(by_class_[byte_class]));
    const StatusCode code = restored.status().code();
    if (code != StatusCode::kCorruption && code != StatusCode::kUnsupported) {
      result_.violate(cat(path, " (", byte_class, ") bit ", bit,
                          ": not detected: ", restored.status().to_string()));
    } else if (!holds_nothing_false(read)) {
      result_.violate(cat(path, " (", byte_class, ") bit ", bit, ": a false byte was handed out"));
    }
    // Each start made an attempt file: ten thousand of them would make this slow.
    if (result_.count("flips") % 64 == 0) forget_attempts();
  }

  void forget_attempts() {
    const std::string folder = RunPaths{kRunDir}.attempts();
    const auto entries = fs_.list(folder).value();
    for (size_t i = 0; i + 1 < entries.size(); ++i)
      fs_.remove(path_join(folder, entries[i].name)).ignore();
    fs_.sync_dir(folder).ignore();
  }

  /// An attempt file names a process: no bit of it may keep the state from coming back whole,
  /// unless the start is refused.
  void flip_attempts() {
    forget_attempts();
    const auto files = all_files(fs_, RunPaths{kRunDir}.attempts());
    for (const auto& [path, content] : files) {
      for (size_t bit = 0; bit < content.size() * 8; bit += std::min<size_t>(every_, 8)) {
        overwrite_file(fs_, path, flipped(content, bit));
        TestState read(campaign_schema(), 0);
        const auto restored = start_alone(fs_, kRunDir, read);
        ++result_.count("flips_attempt_file");
        if (restored.is_ok() && !(restored->has_value() && read == state_of(1)))
          result_.violate(cat(path, " bit ", bit, ": another state came back"));
        overwrite_file(fs_, path, content);
        const auto now = all_files(fs_, RunPaths{kRunDir}.attempts());
        for (const auto& [other, text] : now) {
          if (other != path) fs_.remove(other).ignore();
        }
      }
    }
  }

  /// A rank that reads another token than rank 0 wrote does not see the same disk.
  void flip_tokens() {
    constexpr size_t kTokenBits = 16 * 8;
    for (size_t bit = 0; bit < kTokenBits; bit += std::min<size_t>(every_, 8)) {
      const auto copy = fs_.after_crash(
          std::vector<CrashFate>(fs_.unsynced().size(), {CrashFate::Kind::kKept, 0}));
      FlippedToken flipping(*copy, bit);
      std::atomic<int> acknowledged = 0;
      const Status status = with_ranks(2, [&](World& world) {
        return operation("keep-latest")
            .run({flipping, world.control_plane(), kRunDir, acknowledged, {}});
      });
      ++result_.count("flips_token");
      std::string wrong = judge(*copy, kRunDir, operation("keep-latest"), acknowledged);
      if (status.code() != StatusCode::kIoError || acknowledged != 0)
        wrong = cat("not noticed: ", status.to_string());
      if (!wrong.empty()) result_.violate(cat("token bit ", bit, ": ", wrong));
    }
  }

  size_t every_;
  size_t part_;
  size_t parts_;
  MemoryFileSystem fs_;
  std::string folder_;
  std::map<std::string, int64_t> by_class_;
  PartResult result_;
};

}  // namespace

PartResult run_flip_part(const PartOptions& options) {
  return FlipPart(options).run();
}

}  // namespace lockstep::crash
