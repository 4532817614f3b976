#pragma once
// Every file and folder name of a run directory is built here and parsed here, and nowhere else.
// Parsing accepts exactly what building writes: a name that merely looks alike (other padding, a
// sign, a suffix, a number of 2^53 or more) is not ours. Pure text: touches no file. Thread-safety:
// all functions may be called from any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep {

inline constexpr std::string_view kCheckpointsFolder = "checkpoints";
inline constexpr std::string_view kAttemptsFolder = "attempts";
inline constexpr std::string_view kQuarantineFolder = "quarantine";
inline constexpr std::string_view kManifestFile = "manifest.json";
/// Lies in a partial folder while it is written: proof that all ranks see one folder. Never in a
/// committed one.
inline constexpr std::string_view kTokenFile = "token";

/// What the name of a checkpoint's folder says.
struct GenerationName {
  int64_t generation = 0;
  int64_t step = 0;
  bool operator==(const GenerationName&) const = default;
};
/// "gen-000007-step-0000000100": a committed checkpoint.
std::string generation_folder(const GenerationName& name);
std::optional<GenerationName> parse_generation_folder(std::string_view name);

/// A folder that is never read: one being written by `attempt`, or one being deleted by it.
struct TransientName {
  GenerationName checkpoint;
  int64_t attempt = 0;
  bool operator==(const TransientName&) const = default;
};
/// ".gen-000008-step-0000000200.a0003.partial": attempt 3 writes it; the next attempt removes it.
std::string partial_folder(const TransientName& name);
std::optional<TransientName> parse_partial_folder(std::string_view name);
/// ".gen-000001-step-0000000010.a0003.doomed": attempt 3 deletes it; whoever finds it goes on
/// deleting.
std::string doomed_folder(const TransientName& name);
std::optional<TransientName> parse_doomed_folder(std::string_view name);

struct ShardName {
  int64_t index = 0;
  int64_t num_shards = 0;
  bool operator==(const ShardName&) const = default;
};
/// "shard-00000-of-00004.safetensors"
std::string shard_file(const ShardName& name);
std::optional<ShardName> parse_shard_file(std::string_view name);

/// "0003"
std::string attempt_file(int64_t attempt);
std::optional<int64_t> parse_attempt_file(std::string_view name);

/// "checkpoints-aside-a0003": where attempt 3 moved earlier checkpoints when told to start afresh.
std::string aside_folder(int64_t attempt);
std::optional<int64_t> parse_aside_folder(std::string_view name);

/// A tensor of a shard file: "<kind>/<space>@<first block>-<end block>".
struct RunTensorName {
  std::string kind;
  std::string space;
  int64_t first_block = 0;
  int64_t end_block = 0;
  bool operator==(const RunTensorName&) const = default;
};
std::string run_tensor(const RunTensorName& name);
std::optional<RunTensorName> parse_run_tensor(std::string_view name);
/// The U64 tensor of a shard file with the XXH3-64 of each block; the only one whose name has no
/// '/'.
inline constexpr std::string_view kChecksumTensor = "block_xxh3_64";

/// The folders of a run.
struct RunPaths {
  std::string run_dir;
  std::string checkpoints() const;
  std::string attempts() const;
  std::string quarantine() const;
  std::string generation(const GenerationName& name) const;
  std::string attempt(int64_t attempt) const;
};

}  // namespace lockstep
