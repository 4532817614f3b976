#pragma once
// The manifest: the one file that says what a checkpoint is. It is written last and covers every
// other byte by hashes, so a folder with a whole manifest, whose shards have the sizes and hashes
// it names, is a whole checkpoint. Format: FORMAT.md, "Manifest"; schema: manifest.schema.json.
// Pure but for read_manifest(). Thread-safety: values.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/checkpoint/shard_file.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {

/// Written by this version, and the newest that it reads.
inline constexpr int64_t kManifestFormatVersion = 1;
inline constexpr uint64_t kMaxManifestBytes = uint64_t{1} << 30;
/// Kinds of values over one space. Shards list runs once for all kinds that share them, so this
/// bounds what reading a manifest can take, to a small multiple of its bytes.
inline constexpr size_t kMaxKindsOfSpace = 64;

struct Manifest {
  int64_t generation = 0;
  std::optional<int64_t> parent_generation;  ///< the checkpoint that the run went on from
  int64_t step = 0;
  int64_t epoch = 0;
  int64_t attempt = 0;
  int64_t world_size = 0;  ///< ranks that saved; equal to the number of shards
  uint64_t seed = 0;
  std::string recipe_hash;
  std::string recipe_text;
  Hash128 state_digest;
  std::string instruction_set;
  std::map<std::string, std::string> versions;  ///< library name to version
  std::string utc_time;
  std::map<std::string, double> metrics;  ///< at that step
  Scalars scalars;
  StateSchema schema;
  std::vector<ShardEntry> shards;  ///< shard i at index i

  GenerationName name() const { return {generation, step}; }
  ShardIdentity shard_identity(size_t index) const;
  uint64_t shard_bytes() const;  ///< of all shards' files
};

/// The whole file. The same manifest always gives the same text.
/// Requires: texts in UTF-8; counts below 2^53.
std::string manifest_text(const Manifest& manifest);

/// Parses and checks everything that the text alone can show: its hash, every member, the layout,
/// and that the shards hold each block of each kind exactly once. `where` names the file in errors.
/// Errors: kCorruption; kUnsupported when the hash is right and the format version is newer.
Result<Manifest> parse_manifest(std::string_view text, std::string_view where);

/// Reads `folder`/manifest.json and parses it; the folder's name, when it is a generation's, must
/// agree with it. `text`, when given, gets the file's bytes. Errors: as parse_manifest; kNotFound;
/// kIoError.
Result<Manifest> read_manifest(FileSystem& fs, const std::string& folder, std::string* text);

/// OK when over all shards each block of each kind is listed exactly once.
/// Errors: kCorruption naming the kind, the block and the shards.
Status check_coverage(const StateSchema& schema, const std::vector<ShardEntry>& shards);

/// Parses what scalar_text() wrote, exactly.
std::optional<Scalar> parse_scalar(std::string_view text);
/// Parses what Hash128::hex() wrote, exactly.
std::optional<Hash128> parse_hash128(std::string_view text);

}  // namespace lockstep
