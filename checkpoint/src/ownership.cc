#include "ownership.h"

#include <algorithm>
#include <map>

#include "json_reader.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

struct OwnedRun {
  BlockRun blocks;
  size_t shard = 0;
};

/// Of each kind, by first block.
std::map<std::pair<std::string, std::string>, std::vector<OwnedRun>> runs_by_kind(
    const Manifest& manifest) {
  std::map<std::pair<std::string, std::string>, std::vector<OwnedRun>> runs;
  for (size_t shard = 0; shard < manifest.shards.size(); ++shard) {
    for (const KindRuns& entry : manifest.shards[shard].runs) {
      auto& of_kind = runs[{entry.kind.space, entry.kind.kind}];
      for (const BlockRun& blocks : entry.runs) of_kind.push_back({blocks, shard});
    }
  }
  for (auto& [kind, of_kind] : runs) {
    std::sort(of_kind.begin(), of_kind.end(),
              [](const OwnedRun& a, const OwnedRun& b) { return a.blocks.first < b.blocks.first; });
  }
  return runs;
}

/// Adds what each run holds of the tensor.
void add_owners(const std::vector<OwnedRun>& runs, TensorOwners* tensor,
                std::map<size_t, uint64_t>* owners) {
  const int64_t elem_bytes = dtype_size_bytes(tensor->space->dtype);
  const int64_t first = tensor->place->offset_elems;
  const int64_t end = first + tensor->place->spec.num_elems();
  auto run = std::partition_point(runs.begin(), runs.end(), [&](const OwnedRun& r) {
    return r.blocks.end * kBlockElems <= first;
  });
  for (; run != runs.end() && run->blocks.first * kBlockElems < end; ++run) {
    const int64_t held = std::min(end, run->blocks.end * kBlockElems) -
                         std::max(first, run->blocks.first * kBlockElems);
    (*owners)[run->shard] += static_cast<uint64_t>(held * elem_bytes);
    tensor->bytes += static_cast<uint64_t>(held * elem_bytes);
  }
}

}  // namespace

Ownership plan_ownership(const Manifest& manifest) {
  Ownership ownership;
  ownership.shard_bytes.assign(manifest.shards.size(), 0);
  const auto runs = runs_by_kind(manifest);
  for (const auto& [kind, of_kind] : runs) {
    const FlatSpace* space = manifest.schema.layout.find(kind.first);
    for (const OwnedRun& run : of_kind)
      ownership.shard_bytes[run.shard] += run_bytes(*space, run.blocks);
  }
  for (const FlatSpace& space : manifest.schema.layout.spaces()) {
    for (const TensorPlace& place : space.tensors) {
      TensorOwners tensor{&space, &place, 0, {}};
      std::map<size_t, uint64_t> owners;
      for (auto it = runs.lower_bound({space.name, ""});
           it != runs.end() && it->first.first == space.name; ++it) {
        add_owners(it->second, &tensor, &owners);
      }
      tensor.owners.assign(owners.begin(), owners.end());
      ownership.tensors.push_back(std::move(tensor));
    }
  }
  return ownership;
}

std::string ownership_json(const Ownership& ownership) {
  std::string bytes;
  for (uint64_t of_shard : ownership.shard_bytes) bytes += cat(bytes.empty() ? "" : ",", of_shard);
  std::string tensors;
  for (const TensorOwners& tensor : ownership.tensors) {
    std::string owners;
    for (const auto& [shard, held] : tensor.owners)
      owners += cat(owners.empty() ? "" : ",", "[", shard, ",", held, "]");
    tensors +=
        cat(tensors.empty() ? "" : ",\n  ", "{\"name\":", json_quoted(tensor.place->spec.name),
            ",\"space\":", json_quoted(tensor.space->name), ",\"bytes\":", tensor.bytes,
            ",\"shards\":[", owners, "]}");
  }
  return cat("{\"shard_bytes\":[", bytes, "],\n \"tensors\":[\n  ", tensors, "]}");
}

}  // namespace lockstep
