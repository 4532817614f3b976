// Writes the manifest by hand rather than through a JSON library, so that its bytes are a function
// of its content: member order, spacing and line breaks are fixed here (one line for each space,
// tensor and shard).
#include <bit>
#include <cmath>

#include "json_reader.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

template <typename Items, typename ToText>
std::string listed(const Items& items, std::string_view separator, const ToText& to_text) {
  std::string out;
  for (const auto& item : items) {
    if (!out.empty()) out += separator;
    out += to_text(item);
  }
  return out;
}

std::string texts(const std::vector<std::string>& values) {
  return cat("[", listed(values, ",", [](const std::string& v) { return json_quoted(v); }), "]");
}

std::string metric_text(const std::pair<const std::string, double>& metric) {
  const std::string value = std::isfinite(metric.second) ? cat(metric.second) : "null";
  return cat(json_quoted(metric.first), ":{\"bits\":\"",
             hex64(std::bit_cast<uint64_t>(metric.second)), "\",\"value\":", value, "}");
}

std::string tensor_text(const TensorPlace& place) {
  return cat(
      "   {\"name\":", json_quoted(place.spec.name), ",\"aliases\":", texts(place.spec.aliases),
      ",\"shape\":", json_numbers(place.spec.shape), ",\"order\":", json_numbers(place.spec.order),
      ",\"offset_elems\":", place.offset_elems, "}");
}

std::string space_text(const StateSchema& schema, const FlatSpace& space) {
  std::vector<std::string> kinds;
  for (const StateKind& kind : schema.kinds) {
    if (kind.space == space.name) kinds.push_back(kind.kind);
  }
  return cat("  {\"name\":", json_quoted(space.name), ",\"role\":\"", space_role_name(space.role),
             "\",\"dtype\":\"", dtype_name(space.dtype), "\",\"num_elems\":", space.num_elems,
             ",\"kinds\":", texts(kinds), ",\"tensors\":[\n",
             listed(space.tensors, ",\n", tensor_text), "]}");
}

/// Kinds of one space with equal runs share one member: the list grows with shards and runs, not
/// with slots.
std::string runs_text(const ShardEntry& shard) {
  std::vector<bool> written(shard.runs.size());
  std::vector<std::string> parts;
  for (size_t i = 0; i < shard.runs.size(); ++i) {
    if (written[i]) continue;
    std::vector<std::string> kinds;
    for (size_t j = i; j < shard.runs.size(); ++j) {
      if (shard.runs[j].kind.space != shard.runs[i].kind.space ||
          shard.runs[j].runs != shard.runs[i].runs) {
        continue;
      }
      kinds.push_back(shard.runs[j].kind.kind);
      written[j] = true;
    }
    const auto pair = [](const BlockRun& run) { return cat("[", run.first, ",", run.end, "]"); };
    parts.push_back(cat("{\"space\":", json_quoted(shard.runs[i].kind.space),
                        ",\"kinds\":", texts(kinds), ",\"blocks\":[",
                        listed(shard.runs[i].runs, ",", pair), "]}"));
  }
  return join(parts, ",");
}

std::string shard_text(const ShardEntry& shard) {
  return cat("  {\"file\":", json_quoted(shard.file), ",\"bytes\":", shard.bytes,
             ",\"header_hash\":\"", shard.header_hash.hex(), "\",\"table_hash\":\"",
             shard.table_hash.hex(), "\",\"runs\":[", runs_text(shard), "]}");
}

}  // namespace

ShardIdentity Manifest::shard_identity(size_t index) const {
  return {name(), {static_cast<int64_t>(index), static_cast<int64_t>(shards.size())}};
}

uint64_t Manifest::shard_bytes() const {
  uint64_t bytes = 0;
  for (const ShardEntry& shard : shards) bytes += shard.bytes;
  return bytes;
}

std::string manifest_text(const Manifest& manifest) {
  const auto text_member = [](const auto& member) {
    return cat(json_quoted(member.first), ":", json_quoted(member.second));
  };
  const auto scalar_member = [](const auto& member) {
    return cat(json_quoted(member.first), ":", json_quoted(scalar_text(member.second)));
  };
  std::string out =
      cat("{\n \"format\":\"lockstep.checkpoint\",\n \"format_version\":", kManifestFormatVersion,
          ",\n \"generation\":", manifest.generation, ",\n \"parent_generation\":",
          manifest.parent_generation ? cat(*manifest.parent_generation) : "null",
          ",\n \"step\":", manifest.step, ",\n \"epoch\":", manifest.epoch,
          ",\n \"attempt\":", manifest.attempt, ",\n \"world_size\":", manifest.world_size,
          ",\n \"seed\":\"", hex64(manifest.seed),
          "\",\n \"utc_time\":", json_quoted(manifest.utc_time), ",\n \"state_digest\":\"",
          manifest.state_digest.hex(), "\",\n");
  out += cat(" \"instruction_set\":", json_quoted(manifest.instruction_set), ",\n \"versions\":{",
             listed(manifest.versions, ",", text_member), "},\n \"metrics\":{",
             listed(manifest.metrics, ",", metric_text), "},\n \"scalars\":{",
             listed(manifest.scalars, ",", scalar_member), "},\n");
  out += cat(" \"recipe_hash\":", json_quoted(manifest.recipe_hash),
             ",\n \"recipe_text\":", json_quoted(manifest.recipe_text),
             ",\n \"block_elems\":", kBlockElems, ",\n \"tensor_align_bytes\":", kTensorAlignBytes,
             ",\n");
  out += cat(" \"spaces\":[\n",
             listed(manifest.schema.layout.spaces(), ",\n",
                    [&](const FlatSpace& space) { return space_text(manifest.schema, space); }),
             "],\n \"shards\":[\n", listed(manifest.shards, ",\n", shard_text), "],\n");
  return cat(out, " \"manifest_hash\":\"", xxh3_128(out).hex(), "\"\n}\n");
}

}  // namespace lockstep
