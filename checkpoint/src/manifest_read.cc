#include <algorithm>
#include <bit>
#include <charconv>
#include <set>

#include "json_reader.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

// The end of every manifest of every version: this, 32 digits, and the closing.
constexpr std::string_view kHashMember = " \"manifest_hash\":\"";
constexpr std::string_view kClosing = "\"\n}\n";

Status check_own_hash(std::string_view text, std::string_view where) {
  const size_t tail_size = kHashMember.size() + 32 + kClosing.size();
  if (text.size() < tail_size) {
    return corruption_error(cat(where, ": ", text.size(), " bytes are too few for a manifest"));
  }
  const std::string_view body = text.substr(0, text.size() - tail_size);
  const std::string expected = cat(kHashMember, xxh3_128(body).hex(), kClosing);
  if (text.substr(body.size()) != expected) {
    return corruption_error(
        cat(where, ": the bytes do not have the hash that the last member names"));
  }
  return Status::ok();
}

std::optional<SpaceRole> parse_role(std::string_view text) {
  for (SpaceRole role : {SpaceRole::kTrainable, SpaceRole::kFrozen, SpaceRole::kBuffer}) {
    if (text == space_role_name(role)) return role;
  }
  return std::nullopt;
}

Hash128 read_hash(JsonFields& fields, std::string_view key) {
  const auto hash = parse_hash128(fields.text(key));
  if (!hash) fields.fail(key, "is not 32 lower-case hex digits");
  return hash.value_or(Hash128{});
}

std::map<std::string, double> read_metrics(JsonFields& fields) {
  std::map<std::string, double> metrics;
  for (const auto& [name, json] : fields.object("metrics")) {
    JsonFields metric(json, cat(fields.path(), ": metrics.", name));
    metrics[name] = std::bit_cast<double>(metric.hex64("bits"));
    metric.any("value");  // for people; the bits count
    if (!metric.status().is_ok()) fields.fail("metrics", metric.status().message());
  }
  return metrics;
}

Scalars read_scalars(JsonFields& fields) {
  Scalars scalars;
  for (const auto& [name, json] : fields.object("scalars")) {
    const auto* text = std::get_if<std::string>(&json.value);
    const auto scalar = text ? parse_scalar(*text) : std::nullopt;
    if (!scalar) {
      fields.fail("scalars", cat("has no valid value for \"", name, "\""));
    } else {
      scalars[name] = *scalar;
    }
  }
  return scalars;
}

std::map<std::string, std::string> read_text_map(JsonFields& fields, std::string_view key) {
  std::map<std::string, std::string> out;
  for (const auto& [name, json] : fields.object(key)) {
    const auto* text = std::get_if<std::string>(&json.value);
    if (text == nullptr) fields.fail(key, cat("has no text for \"", name, "\""));
    out[name] = text ? *text : std::string();
  }
  return out;
}

/// One element of "spaces" as it stands in the file; the layout is planned anew from it and
/// compared.
struct RawSpace {
  std::string name;
  int64_t num_elems = 0;
  std::vector<std::string> kinds;
  std::vector<TensorSpec> specs;
  std::vector<int64_t> offsets;
};

Result<RawSpace> read_space(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  RawSpace space;
  space.name = fields.text("name");
  const auto role = parse_role(fields.text("role"));
  if (!role) fields.fail("role", "is not trainable, frozen or buffer");
  const std::string dtype_text = fields.text("dtype");
  const auto dtype = parse_dtype(dtype_text);
  if (!dtype) fields.fail("dtype", "is not known");
  space.num_elems = fields.count("num_elems");
  space.kinds = fields.texts("kinds");
  for (const Json& item : fields.array("tensors")) {
    JsonFields tensor(item, cat(path, ".tensors[", space.specs.size(), "]"));
    TensorSpec spec{tensor.text("name"),        tensor.texts("aliases"),
                    dtype.value_or(Dtype::kU8), tensor.counts("shape"),
                    tensor.counts("order"),     role.value_or(SpaceRole::kBuffer)};
    space.offsets.push_back(tensor.count("offset_elems"));
    LOCKSTEP_RETURN_IF_ERROR(tensor.status());
    if (checked_num_elems(spec.shape) < 0)
      return corruption_error(cat(tensor.path(), ": shape too large"));
    space.specs.push_back(std::move(spec));
  }
  LOCKSTEP_RETURN_IF_ERROR(fields.status());
  const bool bad_kind =
      std::any_of(space.kinds.begin(), space.kinds.end(), [](const std::string& kind) {
        return kind.empty() || kind.find_first_of("/@") != std::string::npos;
      });
  if (space.kinds.size() > kMaxKindsOfSpace) {
    return corruption_error(
        cat(path, ": ", space.kinds.size(), " kinds; at most ", kMaxKindsOfSpace));
  }
  if (bad_kind || std::set(space.kinds.begin(), space.kinds.end()).size() != space.kinds.size()) {
    return corruption_error(cat(path, ": kinds are empty, repeated, or hold '/' or '@'"));
  }
  return space;
}

Result<StateSchema> read_schema(const Json::Array& spaces, std::string_view where) {
  std::vector<RawSpace> raw;
  std::vector<TensorSpec> specs;
  for (const Json& item : spaces) {
    LOCKSTEP_ASSIGN_OR_RETURN(RawSpace space,
                              read_space(item, cat(where, ": spaces[", raw.size(), "]")));
    specs.insert(specs.end(), space.specs.begin(), space.specs.end());
    raw.push_back(std::move(space));
  }
  auto layout = FlatLayout::plan(specs);
  if (!layout.is_ok()) return corruption_error(cat(where, ": ", layout.status().message()));
  StateSchema schema{std::move(*layout), {}};
  if (schema.layout.spaces().size() != raw.size()) {
    return corruption_error(cat(where, ": a space is listed twice or has no tensors"));
  }
  for (size_t i = 0; i < raw.size(); ++i) {
    const FlatSpace& space = schema.layout.spaces()[i];
    std::vector<int64_t> offsets;
    for (const TensorPlace& place : space.tensors) offsets.push_back(place.offset_elems);
    if (space.name != raw[i].name || space.num_elems != raw[i].num_elems ||
        offsets != raw[i].offsets) {
      return corruption_error(
          cat(where, ": spaces[", i, "]: name, num_elems or offsets are not those that its ",
              "tensors give (expected ", space.name, ", ", space.num_elems, " elements)"));
    }
    for (const std::string& kind : raw[i].kinds) schema.kinds.push_back({space.name, kind});
  }
  return schema;
}

Result<std::vector<BlockRun>> read_block_runs(const Json::Array& items, const std::string& path) {
  std::vector<BlockRun> runs;
  for (const Json& item : items) {
    const auto* pair = std::get_if<Json::Array>(&item.value);
    if (pair == nullptr || pair->size() != 2 || json_count((*pair)[0]) < 0 ||
        json_count((*pair)[1]) < 0) {
      return corruption_error(cat(path, ": blocks are not pairs [first, end]"));
    }
    runs.push_back({json_count((*pair)[0]), json_count((*pair)[1])});
  }
  return runs;
}

/// Each of `kinds` is one of the schema's and not among `taken`: to be known before its runs are
/// copied.
bool are_new_kinds(const StateSchema& schema, const std::string& space,
                   const std::vector<std::string>& kinds, const std::vector<KindRuns>& taken) {
  std::set<std::string> seen;
  for (const KindRuns& entry : taken) {
    if (entry.kind.space == space) seen.insert(entry.kind.kind);
  }
  return std::all_of(kinds.begin(), kinds.end(), [&](const std::string& kind) {
    return seen.insert(kind).second && std::find(schema.kinds.begin(), schema.kinds.end(),
                                                 StateKind{space, kind}) != schema.kinds.end();
  });
}

Result<ShardEntry> read_shard(const Json& json, const std::string& path,
                              const StateSchema& schema) {
  JsonFields fields(json, path);
  ShardEntry shard;
  shard.file = fields.text("file");
  shard.bytes = static_cast<uint64_t>(fields.count("bytes"));
  shard.header_hash = read_hash(fields, "header_hash");
  shard.table_hash = read_hash(fields, "table_hash");
  for (const Json& item : fields.array("runs")) {
    JsonFields group(item, cat(path, ".runs"));
    const std::string space = group.text("space");
    const std::vector<std::string> kinds = group.texts("kinds");
    LOCKSTEP_ASSIGN_OR_RETURN(std::vector<BlockRun> runs,
                              read_block_runs(group.array("blocks"), group.path()));
    LOCKSTEP_RETURN_IF_ERROR(group.status());
    if (!are_new_kinds(schema, space, kinds, shard.runs)) {
      return corruption_error(
          cat(path, ": runs: kinds that \"", space, "\" does not have, or that are listed twice"));
    }
    for (const std::string& kind : kinds) shard.runs.push_back({{space, kind}, runs});
  }
  LOCKSTEP_RETURN_IF_ERROR(fields.status());
  if (auto layout = plan_shard(schema, shard.runs); !layout.is_ok())
    return layout.status().with_context(path);
  return shard;
}

Status read_shards(const Json::Array& items, std::string_view where, Manifest* manifest) {
  for (const Json& item : items) {
    const size_t index = manifest->shards.size();
    const std::string path = cat(where, ": shards[", index, "]");
    LOCKSTEP_ASSIGN_OR_RETURN(ShardEntry shard, read_shard(item, path, manifest->schema));
    const ShardName expected{static_cast<int64_t>(index), manifest->world_size};
    if (shard.file != shard_file(expected)) {
      return corruption_error(cat(path, ": expected the file ", shard_file(expected)));
    }
    manifest->shards.push_back(std::move(shard));
  }
  if (static_cast<int64_t>(manifest->shards.size()) != manifest->world_size) {
    return corruption_error(
        cat(where, ": ", manifest->shards.size(), " shards of a world of ", manifest->world_size));
  }
  return check_coverage(manifest->schema, manifest->shards).with_context(where);
}

}  // namespace

Result<Manifest> parse_manifest(std::string_view text, std::string_view where) {
  LOCKSTEP_RETURN_IF_ERROR(check_own_hash(text, where));
  LOCKSTEP_ASSIGN_OR_RETURN(const Json root, parse_json(text, where));
  const Json* version = root.find("format_version");
  const int64_t found_version = version ? json_count(*version) : -1;
  if (found_version > kManifestFormatVersion) {
    return unsupported_error(cat(where, ": format version ", found_version,
                                 "; this program reads up to ", kManifestFormatVersion,
                                 ". Use the version of lockstep that wrote it"));
  }
  JsonFields fields(root, std::string(where));
  Manifest manifest;
  if (fields.text("format") != "lockstep.checkpoint")
    fields.fail("format", "is not lockstep.checkpoint");
  if (fields.count("format_version") != kManifestFormatVersion)
    fields.fail("format_version", "is unknown");
  manifest.generation = fields.count("generation");
  if (const Json* parent = fields.any("parent_generation");
      parent != nullptr && !std::holds_alternative<std::monostate>(parent->value)) {
    manifest.parent_generation = json_count(*parent);
    if (*manifest.parent_generation < 0) fields.fail("parent_generation", "is not a count or null");
  }
  manifest.step = fields.count("step");
  manifest.epoch = fields.count("epoch");
  manifest.attempt = fields.count("attempt");
  manifest.world_size = fields.count("world_size");
  manifest.seed = fields.hex64("seed");
  manifest.utc_time = fields.text("utc_time");
  manifest.state_digest = read_hash(fields, "state_digest");
  manifest.instruction_set = fields.text("instruction_set");
  manifest.versions = read_text_map(fields, "versions");
  manifest.metrics = read_metrics(fields);
  manifest.scalars = read_scalars(fields);
  manifest.recipe_hash = fields.text("recipe_hash");
  manifest.recipe_text = fields.text("recipe_text");
  if (fields.count("block_elems") != kBlockElems)
    fields.fail("block_elems", "is not this format's");
  if (fields.count("tensor_align_bytes") != kTensorAlignBytes) {
    fields.fail("tensor_align_bytes", "is not this format's");
  }
  const Json::Array& spaces = fields.array("spaces");
  const Json::Array& shards = fields.array("shards");
  fields.text("manifest_hash");
  LOCKSTEP_RETURN_IF_ERROR(fields.status());
  LOCKSTEP_ASSIGN_OR_RETURN(manifest.schema, read_schema(spaces, where));
  LOCKSTEP_RETURN_IF_ERROR(read_shards(shards, where, &manifest));
  return manifest;
}

Result<Manifest> read_manifest(FileSystem& fs, const std::string& folder, std::string* text) {
  const std::string path = path_join(folder, kManifestFile);
  LOCKSTEP_ASSIGN_OR_RETURN(std::string content, read_whole_file(fs, path, kMaxManifestBytes));
  LOCKSTEP_ASSIGN_OR_RETURN(Manifest manifest, parse_manifest(content, path));
  std::string_view folder_name = folder;
  while (folder_name.ends_with('/')) folder_name.remove_suffix(1);
  if (auto slash = folder_name.rfind('/'); slash != std::string_view::npos)
    folder_name.remove_prefix(slash + 1);
  if (auto name = parse_generation_folder(folder_name); name && *name != manifest.name()) {
    return corruption_error(cat(path, ": is the manifest of ", generation_folder(manifest.name())));
  }
  if (text != nullptr) *text = std::move(content);
  return manifest;
}

Status check_coverage(const StateSchema& schema, const std::vector<ShardEntry>& shards) {
  struct Piece {
    BlockRun blocks;
    size_t shard;
  };
  for (size_t index = 0; index < schema.kinds.size(); ++index) {
    const StateKind& kind = schema.kinds[index];
    std::vector<Piece> pieces;
    for (size_t shard = 0; shard < shards.size(); ++shard) {
      for (const KindRuns& entry : shards[shard].runs) {
        if (entry.kind != kind) continue;
        for (const BlockRun& run : entry.runs) pieces.push_back({run, shard});
      }
    }
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.blocks.first < b.blocks.first; });
    pieces.push_back({{space_of(schema, index).num_blocks(), 0}, shards.size()});
    int64_t covered = 0;
    for (const Piece& piece : pieces) {
      if (piece.blocks.first != covered) {
        const bool missing = piece.blocks.first > covered;
        return corruption_error(
            cat("block ", missing ? covered : piece.blocks.first, " of ", kind.kind, "/",
                kind.space, missing ? " is in no shard" : " is in two shards", " (seen at ",
                piece.shard < shards.size() ? cat("shard ", piece.shard) : "the end", ")"));
      }
      covered = piece.blocks.end;
    }
  }
  return Status::ok();
}

std::optional<Scalar> parse_scalar(std::string_view text) {
  if (text.size() < 2) return std::nullopt;
  const std::string_view tag = text.substr(0, 2);
  const std::string_view rest = text.substr(2);
  if (tag == "s:") return Scalar(std::string(rest));
  std::optional<Scalar> scalar;
  if (tag == "f:") {
    uint64_t bits = 0;
    if (parse_hex64(rest, &bits)) scalar = std::bit_cast<double>(bits);
  } else if (tag == "i:") {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error == std::errc() && end == rest.data() + rest.size()) scalar = value;
  }
  if (!scalar || scalar_text(*scalar) != text) return std::nullopt;
  return scalar;
}

std::optional<Hash128> parse_hash128(std::string_view text) {
  Hash128 hash;
  if (text.size() != 32 || !parse_hex64(text.substr(0, 16), &hash.high) ||
      !parse_hex64(text.substr(16), &hash.low)) {
    return std::nullopt;
  }
  return hash;
}

}  // namespace lockstep
