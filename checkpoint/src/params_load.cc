// The protocol of a load.
//  1. Rank 0 reads the manifest and sends its text to all.
//  2. Every rank plans what goes where. Vote: a difference that is not allowed stops here.
//  3. Every rank reads the blocks that its own part needs, into scratch memory; the values are
//  copied once the block's hash was right.
//  4. Vote.
#include "lockstep/checkpoint/params_load.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "block_hashes.h"
#include "collective.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr size_t kMaxDifferenceLines = 20;

/// Elements of a space of the checkpoint, verified block by block.
class ValueReader {
 public:
  ValueReader(FileSystem& fs, const std::string& folder, const Manifest& manifest)
      : fs_(fs), folder_(folder), manifest_(manifest), readers_(manifest.shards.size()) {}

  /// Lists where the blocks lie: from the manifest alone, no file is opened.
  Status plan() {
    for (size_t shard = 0; shard < manifest_.shards.size(); ++shard) {
      LOCKSTEP_ASSIGN_OR_RETURN(const ShardLayout layout,
                                plan_shard(manifest_.schema, manifest_.shards[shard].runs));
      for (size_t e = 0; e < layout.extents.size(); ++e) {
        const ShardExtent& extent = layout.extents[e];
        places_[{extent.kind_index, extent.blocks.end}] = {shard, e};
      }
    }
    return Status::ok();
  }

  Status read(const FlatSpace& space, ElemRun elems, std::span<std::byte> out) {
    const auto kind = std::find(manifest_.schema.kinds.begin(), manifest_.schema.kinds.end(),
                                StateKind{space.name, std::string(value_kind(space.role))});
    if (kind == manifest_.schema.kinds.end())
      return corruption_error(cat(folder_, ": no values of ", space.name));
    const auto kind_index = static_cast<size_t>(kind - manifest_.schema.kinds.begin());
    const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(space.dtype));
    for (int64_t first = elems.first; first < elems.end;) {
      LOCKSTEP_RETURN_IF_ERROR(
          hold(kind_index, space, {first / kBlockElems, (elems.end - 1) / kBlockElems + 1}));
      const int64_t end = std::min(elems.end, space.elems_of(held_).end);
      const int64_t skip = first - space.elems_of(held_).first;
      std::memcpy(out.data() + static_cast<size_t>(first - elems.first) * elem_bytes,
                  scratch_.data() + static_cast<size_t>(skip) * elem_bytes,
                  static_cast<size_t>(end - first) * elem_bytes);
      first = end;
    }
    return Status::ok();
  }

  uint64_t bytes_read() const { return bytes_read_; }

 private:
  struct Place {
    size_t shard;
    size_t extent;
  };

  /// Makes scratch memory hold the first of `wanted`, and what follows it in its shard. Small
  /// neighbours share a block: what is held already is not read again.
  Status hold(size_t kind_index, const FlatSpace& space, BlockRun wanted) {
    if (held_kind_ == kind_index && held_.first <= wanted.first && wanted.first < held_.end)
      return Status::ok();
    // Coverage: there is a place for each block.
    const auto [key, place] = *places_.upper_bound({kind_index, wanted.first});
    const BlockRun run =
        next_piece(space, {wanted.first, std::min(key.second, wanted.end)}, kReadPieceBytes);
    LOCKSTEP_ASSIGN_OR_RETURN(const ShardReader* shard, opened(place.shard));
    held_ = {};
    scratch_.resize(run_bytes(space, run));
    LOCKSTEP_RETURN_IF_ERROR(shard->read_blocks(place.extent, run, scratch_));
    bytes_read_ += scratch_.size();
    held_ = run;
    held_kind_ = kind_index;
    return Status::ok();
  }

  Result<const ShardReader*> opened(size_t index) {
    std::optional<ShardReader>& reader = readers_[index];
    if (reader && reader->is_open()) return &*reader;
    if (open_.size() == kMaxOpenShards) {
      readers_[open_.front()]->close();
      open_.erase(open_.begin());
    }
    if (reader) {
      LOCKSTEP_RETURN_IF_ERROR(reader->reopen());
    } else {
      auto fresh = ShardReader::open(fs_, folder_, manifest_.schema, manifest_.shards[index],
                                     manifest_.shard_identity(index));
      LOCKSTEP_RETURN_IF_ERROR(fresh.status());
      reader.emplace(std::move(*fresh));
    }
    open_.push_back(index);
    return &*reader;
  }

  FileSystem& fs_;
  const std::string& folder_;
  const Manifest& manifest_;
  std::vector<std::optional<ShardReader>> readers_;
  std::vector<size_t> open_;
  std::map<std::pair<size_t, int64_t>, Place> places_;  // by (kind, end block)
  std::vector<std::byte> scratch_;
  size_t held_kind_ = 0;
  BlockRun held_;  // that are in scratch_
  uint64_t bytes_read_ = 0;
};

/// Elements [first, end) of `spec` in its storage order out of all of `from`, in its own.
void copy_in_order(const TensorSpec& spec, const TensorSpec& from, ElemRun elems,
                   const std::vector<std::byte>& all, std::span<std::byte> out) {
  const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(spec.dtype));
  const std::vector<int64_t> strides = spec.strides();
  const std::vector<int64_t> from_strides = from.strides();
  for (int64_t i = elems.first; i < elems.end; ++i) {
    int64_t rest = i, at = 0;
    for (int64_t dim : spec.order) {  // outermost first
      const auto d = static_cast<size_t>(dim);
      at += rest / strides[d] * from_strides[d];
      rest %= strides[d];
    }
    std::memcpy(out.data() + static_cast<size_t>(i - elems.first) * elem_bytes,
                all.data() + static_cast<size_t>(at) * elem_bytes, elem_bytes);
  }
}

/// Fills what of `slice` belongs to tensors that have a source.
Status fill_slice(const FlatSpace& space, const std::vector<TensorSource>& sources,
                  const StateSlice& slice, ValueReader& reader) {
  const ElemRun own = space.elems_of(slice.blocks);
  const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(space.dtype));
  for (size_t t = 0; t < space.tensors.size(); ++t) {
    const TensorPlace& place = space.tensors[t];
    const int64_t first = std::max(own.first, place.offset_elems);
    const int64_t end = std::min(own.end, place.offset_elems + place.spec.num_elems());
    if (sources[t].place == nullptr || first >= end) continue;
    const TensorPlace& source = *sources[t].place;
    const auto out = slice.bytes.subspan(static_cast<size_t>(first - own.first) * elem_bytes,
                                         static_cast<size_t>(end - first) * elem_bytes);
    const ElemRun within{first - place.offset_elems, end - place.offset_elems};
    const int64_t base = source.offset_elems;
    if (place.spec.order == source.spec.order) {
      LOCKSTEP_RETURN_IF_ERROR(
          reader.read(*sources[t].space, {base + within.first, base + within.end}, out));
      continue;
    }
    std::vector<std::byte> all(static_cast<size_t>(source.spec.num_elems()) * elem_bytes);
    LOCKSTEP_RETURN_IF_ERROR(
        reader.read(*sources[t].space, {base, base + source.spec.num_elems()}, all));
    copy_in_order(place.spec, source.spec, within, all, out);
  }
  return Status::ok();
}

Status fill(const ParamsLoadRequest& request, const ParamsPlan& plan, ValueReader& reader) {
  LOCKSTEP_RETURN_IF_ERROR(reader.plan());
  const auto& spaces = request.schema->layout.spaces();
  for (const StateSlice& slice : request.into->slices) {
    for (size_t s = 0; s < spaces.size(); ++s) {
      if (slice.kind != StateKind{spaces[s].name, std::string(value_kind(spaces[s].role))})
        continue;
      LOCKSTEP_RETURN_IF_ERROR(fill_slice(spaces[s], plan.sources[s], slice, reader));
    }
  }
  return Status::ok();
}

Status check_plan(const ParamsPlan& plan, const std::string& path) {
  if (plan.refused.empty()) return Status::ok();
  return invalid_argument_error(
      cat(path, " does not have the tensors of this model, ", plan.refused.size(),
          " differences:", differences_text(plan.refused, kMaxDifferenceLines),
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
  const auto manifest =
      caught([&] { return parse_manifest(manifest_text, path_join(request.path, kManifestFile)); });
  ParamsPlan plan;
  Status mine = manifest.status();
  if (mine.is_ok()) {
    plan = plan_params_load(*request.schema, manifest->schema, request.allowed);
    mine = check_plan(plan, request.path);
  }
  LOCKSTEP_RETURN_IF_ERROR(
      plane.vote("checkpoint has the model's tensors", mine, control_deadline()));

  ValueReader reader(fs, request.path, *manifest);
  mine = caught([&] { return fill(request, plan, reader); });
  LOCKSTEP_RETURN_IF_ERROR(
      plane.vote("reading parameters", mine, Deadline::after_s(request.data_timeout_s)));
  ParamsLoaded loaded;
  loaded.generation = manifest->generation;
  loaded.step = manifest->step;
  loaded.state_digest = manifest->state_digest;
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
