#include "lockstep/checkpoint/names.h"

#include <charconv>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

/// As in the manifest. The number after the largest is still a number: counting on can't overflow.
constexpr int64_t kEndOfNumbers = int64_t{1} << 53;

std::string padded(int64_t value, size_t digits) {
  std::string text = cat(value);
  return text.size() >= digits ? text : std::string(digits - text.size(), '0') + text;
}

/// Reads a name from left to right; after a mismatch every later call fails too.
class NameScanner {
 public:
  explicit NameScanner(std::string_view text) : rest_(text) {}

  NameScanner& literal(std::string_view expected) {
    good_ = good_ && rest_.starts_with(expected);
    if (good_) rest_.remove_prefix(expected.size());
    return *this;
  }

  NameScanner& number(int64_t* value) {
    if (!good_ || rest_.empty() || rest_[0] < '0' || rest_[0] > '9') {
      good_ = false;
      return *this;
    }
    auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), *value);
    good_ = error == std::errc() && *value < kEndOfNumbers;
    if (good_) rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    return *this;
  }

  bool finished() const { return good_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool good_ = true;
};

std::string transient_folder(const TransientName& name, std::string_view suffix) {
  return cat(".", generation_folder(name.checkpoint), ".a", attempt_file(name.attempt), suffix);
}

std::optional<TransientName> parse_transient(std::string_view text, std::string_view suffix) {
  TransientName name;
  NameScanner scan(text);
  scan.literal(".gen-").number(&name.checkpoint.generation).literal("-step-");
  scan.number(&name.checkpoint.step).literal(".a").number(&name.attempt).literal(suffix);
  if (!scan.finished() || transient_folder(name, suffix) != text) return std::nullopt;
  return name;
}

}  // namespace

std::string generation_folder(const GenerationName& name) {
  return cat("gen-", padded(name.generation, 6), "-step-", padded(name.step, 10));
}

std::optional<GenerationName> parse_generation_folder(std::string_view text) {
  GenerationName name;
  NameScanner scan(text);
  scan.literal("gen-").number(&name.generation).literal("-step-").number(&name.step);
  if (!scan.finished() || generation_folder(name) != text) return std::nullopt;
  return name;
}

std::string partial_folder(const TransientName& name) {
  return transient_folder(name, ".partial");
}
std::optional<TransientName> parse_partial_folder(std::string_view text) {
  return parse_transient(text, ".partial");
}
std::string doomed_folder(const TransientName& name) {
  return transient_folder(name, ".doomed");
}
std::optional<TransientName> parse_doomed_folder(std::string_view text) {
  return parse_transient(text, ".doomed");
}

std::string shard_file(const ShardName& name) {
  return cat("shard-", padded(name.index, 5), "-of-", padded(name.num_shards, 5), ".safetensors");
}

std::optional<ShardName> parse_shard_file(std::string_view text) {
  ShardName name;
  NameScanner scan(text);
  scan.literal("shard-").number(&name.index).literal("-of-").number(&name.num_shards);
  scan.literal(".safetensors");
  if (!scan.finished() || shard_file(name) != text) return std::nullopt;
  return name;
}

std::string attempt_file(int64_t attempt) {
  return padded(attempt, 4);
}

std::optional<int64_t> parse_attempt_file(std::string_view text) {
  int64_t attempt = 0;
  if (!NameScanner(text).number(&attempt).finished() || attempt_file(attempt) != text) {
    return std::nullopt;
  }
  return attempt;
}

std::string aside_folder(int64_t attempt) {
  return cat(kCheckpointsFolder, "-aside-a", attempt_file(attempt));
}

std::optional<int64_t> parse_aside_folder(std::string_view text) {
  int64_t attempt = 0;
  NameScanner scan(text);
  scan.literal(kCheckpointsFolder).literal("-aside-a").number(&attempt);
  if (!scan.finished() || aside_folder(attempt) != text) return std::nullopt;
  return attempt;
}

std::string run_tensor(const RunTensorName& name) {
  return cat(name.kind, "/", name.space, "@", name.first_block, "-", name.end_block);
}

std::optional<RunTensorName> parse_run_tensor(std::string_view text) {
  const size_t slash = text.find('/');
  const size_t at = text.rfind('@');
  if (slash == std::string_view::npos || at == std::string_view::npos || at < slash) {
    return std::nullopt;
  }
  RunTensorName name{std::string(text.substr(0, slash)),
                     std::string(text.substr(slash + 1, at - slash - 1)), 0, 0};
  NameScanner scan(text.substr(at + 1));
  scan.number(&name.first_block).literal("-").number(&name.end_block);
  if (!scan.finished() || run_tensor(name) != text) return std::nullopt;
  return name;
}

std::string RunPaths::checkpoints() const {
  return path_join(run_dir, kCheckpointsFolder);
}
std::string RunPaths::attempts() const {
  return path_join(run_dir, kAttemptsFolder);
}
std::string RunPaths::quarantine() const {
  return path_join(checkpoints(), kQuarantineFolder);
}
std::string RunPaths::generation(const GenerationName& name) const {
  return path_join(checkpoints(), generation_folder(name));
}
std::string RunPaths::attempt(int64_t attempt) const {
  return path_join(attempts(), attempt_file(attempt));
}

}  // namespace lockstep
