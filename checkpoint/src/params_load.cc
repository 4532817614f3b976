// The protocol of a load.
//  1. Rank 0 reads the manifest and sends its text to all.
//  2. Every rank plans what goes where. Vote: a difference that is not allowed stops here.
//  3. Every rank reads the blocks that its own part needs, into scratch memory; the values are
//  copied once the block's hash was right.
//  4. Vote.
#include "lockstep/checkpoint/params_load.h"

#include <algorithm>

#include "collective.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"
#include "tensor_reader.h"

namespace lockstep {
namespace {

StateKind values_of(const FlatSpace& space) {
  return {space.name, std::string(value_kind(space.role))};
}

/// Fills `out` with elements of a tensor in its storage order, which may be another than the
/// source's.
Status fill_tensor(const TensorSpec& spec, const StoredTensor& source, ElemRun elems,
                   std::span<std::byte> out, TensorReader& reader) {
  const TensorSpec& from = source.place->spec;
  if (spec.order == from.order) {
    return fill_elems(*source.place, 1, elems, out,
                      [&](ElemRun piece) { return reader.read_stored(source, piece); });
  }
  // Both are products of the last dimensions: the larger is a multiple of the smaller.
  const int64_t unit = std::max(row_major_unit(spec), row_major_unit(from));
  std::vector<std::byte> stored;
  return fill_elems(
      *source.place, unit, elems, out, [&](ElemRun piece) -> Result<std::span<const std::byte>> {
        LOCKSTEP_ASSIGN_OR_RETURN(const auto row_major, reader.read_row_major(source, piece));
        stored.resize(row_major.size());
        from_row_major(spec, row_major, stored);
        return std::span<const std::byte>(stored);
      });
}

/// Fills what of this rank's part belongs to tensors that have a source.
Status fill(const ParamsLoadRequest& request, const ParamsPlan& plan, const StateSchema& found,
            TensorReader& reader) {
  const auto& spaces = request.schema->layout.spaces();
  for (const StateSlice& slice : request.into->slices) {
    for (size_t s = 0; s < spaces.size(); ++s) {
      if (slice.kind != values_of(spaces[s])) continue;
      const auto take = [&](size_t t, ElemRun elems, std::span<std::byte> out) {
        const TensorSource& source = plan.sources[s][t];
        if (source.place == nullptr) return Status::ok();
        const auto kind =
            std::find(found.kinds.begin(), found.kinds.end(), values_of(*source.space));
        if (kind == found.kinds.end())
          return corruption_error(cat(request.path, ": no values of ", source.space->name));
        const auto kind_index = static_cast<size_t>(kind - found.kinds.begin());
        return fill_tensor(spaces[s].tensors[t].spec,
                           {source.place->spec.name, kind_index, source.place}, elems, out, reader);
      };
      LOCKSTEP_RETURN_IF_ERROR(visit_tensors(spaces[s], slice, take));
    }
  }
  return Status::ok();
}

Status check_plan(const ParamsPlan& plan, const std::string& path) {
  if (plan.refused.empty()) return Status::ok();
  return invalid_argument_error(
      cat(path, " does not have the tensors of this model, ", plan.refused.size(),
          " differences:", differences_text(plan.refused),
          "\nTensors that are to stay as the model makes them: --allow-missing NAMES; those of the "
          "checkpoint that are not wanted: --allow-unexpected NAMES; one of another shape or dtype "
          "needs both (\"head.*\")"));
}

}  // namespace

Result<ParamsLoaded> load_params(FileSystem& fs, ControlPlane& plane,
                                 const ParamsLoadRequest& request) {
  LOCKSTEP_CHECK(request.schema != nullptr && request.into != nullptr,
                 "a load needs the model's schema and this rank's part");
  const auto control_deadline = [&] { return Deadline::after_s(request.control_timeout_s); };
  Result<std::string> text = std::string();
  if (plane.world_rank() == 0) {
    std::string content;
    const Status status =
        caught([&] { return read_manifest(fs, request.path, &content).status(); });
    text = status.is_ok() ? Result<std::string>(std::move(content)) : status;
  }
  LOCKSTEP_ASSIGN_OR_RETURN(
      const std::string manifest_text,
      share_long(plane, "manifest to load from", text, Deadline::after_s(request.data_timeout_s)));
  const auto source = caught([&]() -> Result<BlockSource> {
    LOCKSTEP_ASSIGN_OR_RETURN(
        Manifest manifest, parse_manifest(manifest_text, path_join(request.path, kManifestFile)));
    return BlockSource::open_lazily(fs, request.path, std::move(manifest));
  });
  ParamsPlan plan;
  Status mine = source.status();
  if (mine.is_ok()) {
    plan = plan_params_load(*request.schema, source->manifest().schema, request.allowed);
    mine = check_plan(plan, request.path);
  }
  LOCKSTEP_RETURN_IF_ERROR(
      plane.vote("checkpoint has the model's tensors", mine, control_deadline()));

  const Manifest& manifest = source->manifest();
  TensorReader reader(*source);
  mine = caught([&] { return fill(request, plan, manifest.schema, reader); });
  LOCKSTEP_RETURN_IF_ERROR(
      plane.vote("reading parameters", mine, Deadline::after_s(request.data_timeout_s)));
  ParamsLoaded loaded;
  loaded.generation = manifest.generation;
  loaded.step = manifest.step;
  loaded.state_digest = manifest.state_digest;
  for (const auto& sources : plan.sources) {
    loaded.num_tensors +=
        std::count_if(sources.begin(), sources.end(),
                      [](const TensorSource& one) { return one.place != nullptr; });
  }
  loaded.left_out = std::move(plan.left_out);
  loaded.own_bytes_read = reader.bytes_read();
  return loaded;
}

}  // namespace lockstep
