#include "lockstep/checkpoint/weights_file.h"

#include <algorithm>
#include <map>

#include "block_hashes.h"
#include "lockstep/checkpoint/model_difference.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"
#include "tensor_reader.h"

namespace lockstep {
namespace {

class WeightsFile {
 public:
  WeightsFile(std::unique_ptr<ReadableFile> file, SafetensorsHeader header, std::string path)
      : file_(std::move(file)), header_(std::move(header)), path_(std::move(path)) {
    for (const SafetensorsEntry& entry : header_.tensors) by_name_[entry.name] = &entry;
  }

  /// Entries under the tensor's name and aliases.
  std::vector<const SafetensorsEntry*> entries_of(const TensorSpec& spec) const {
    std::vector<const SafetensorsEntry*> entries;
    const auto add = [&](const std::string& name) {
      const auto it = by_name_.find(name);
      if (it != by_name_.end()) entries.push_back(it->second);
    };
    add(spec.name);
    for (const std::string& alias : spec.aliases) add(alias);
    return entries;
  }

  /// OK when the file is of a model with this layout.
  Status check_fit(const FlatLayout& layout) const {
    std::vector<ModelDifference> differences;
    size_t num_used = 0;
    for (const FlatSpace& space : layout.spaces()) {
      for (const TensorPlace& place : space.tensors) {
        const TensorSpec& spec = place.spec;
        const auto entries = entries_of(spec);
        num_used += entries.size();
        if (entries.empty() && space.role != SpaceRole::kBuffer)
          differences.push_back({ModelDifference::Kind::kMissing, spec.name,
                                 type_text(spec.dtype, spec.shape), "absent"});
        for (const SafetensorsEntry* entry : entries) {
          auto difference = compare_types(entry->name, spec, entry->dtype, entry->shape);
          if (difference) differences.push_back(std::move(*difference));
        }
      }
    }
    if (num_used < by_name_.size()) add_unexpected(layout, &differences);
    if (differences.empty()) return Status::ok();
    return invalid_argument_error(cat(
        path_, ": these weights are of another model, ", differences.size(),
        " differences:", differences_text(differences, kMaxDifferenceLines, "the file"),
        "\nMake the file with the names, shapes and dtypes that ckpt export of such a run writes"));
  }

  /// Tied names must not say different things.
  Status check_tied(const TensorSpec& spec) const {
    const auto entries = entries_of(spec);
    std::vector<std::byte> a;
    std::vector<std::byte> b;
    for (size_t i = 1; i < entries.size(); ++i) {
      const uint64_t bytes = entries[0]->end - entries[0]->begin;
      for (uint64_t at = 0; at < bytes; at += kReadPieceBytes) {
        a.resize(std::min(kReadPieceBytes, bytes - at));
        b.resize(a.size());
        LOCKSTEP_RETURN_IF_ERROR(read(*entries[0], at, a));
        LOCKSTEP_RETURN_IF_ERROR(read(*entries[i], at, b));
        if (a == b) continue;
        return invalid_argument_error(cat(path_, ": ", entries[0]->name, " and ", entries[i]->name,
                                          " are one tensor in this model, but differ in the file"));
      }
    }
    return Status::ok();
  }

  Status read(const SafetensorsEntry& entry, uint64_t skip, std::span<std::byte> out) const {
    return file_->read(header_.data_offset + entry.begin + skip, out);
  }

 private:
  static std::string type_text(Dtype dtype, const std::vector<int64_t>& shape) {
    return cat(dtype_name(dtype), " ", shape_text(shape));
  }

  void add_unexpected(const FlatLayout& layout, std::vector<ModelDifference>* differences) const {
    auto rest = by_name_;
    for (const FlatSpace& space : layout.spaces()) {
      for (const TensorPlace& place : space.tensors) {
        rest.erase(place.spec.name);
        for (const std::string& alias : place.spec.aliases) rest.erase(alias);
      }
    }
    for (const auto& [name, entry] : rest) {
      differences->push_back({ModelDifference::Kind::kUnexpected, name, "absent",
                              type_text(entry->dtype, entry->shape)});
    }
  }

  std::unique_ptr<ReadableFile> file_;
  SafetensorsHeader header_;
  std::string path_;
  std::map<std::string, const SafetensorsEntry*> by_name_;
};

/// Reads the elements [first, end) of a tensor, in storage order, to where `to` begins.
Status read_part(const WeightsFile& file, const SafetensorsEntry& entry, const TensorPlace& place,
                 ElemRun part, std::span<std::byte> to) {
  const TensorSpec& spec = place.spec;
  const int64_t elem_bytes = dtype_size_bytes(spec.dtype);
  const int64_t unit = row_major_unit(spec);
  if (unit == 1) return file.read(entry, static_cast<uint64_t>(part.first * elem_bytes), to);
  std::vector<std::byte> row_major;
  std::vector<std::byte> stored;
  return fill_elems(
      place, unit, part, to, [&](ElemRun elems) -> Result<std::span<const std::byte>> {
        row_major.resize(static_cast<size_t>(elems.num_elems() * elem_bytes));
        stored.resize(row_major.size());
        LOCKSTEP_RETURN_IF_ERROR(
            file.read(entry, static_cast<uint64_t>(elems.first * elem_bytes), row_major));
        from_row_major(spec, row_major, stored);
        return std::span<const std::byte>(stored);
      });
}

}  // namespace

Result<ImportedWeights> import_weights(FileSystem& fs, const std::string& path,
                                       const StateSchema& schema, const OwnedState& into) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto opened, fs.open_read(fs.follow_links(path)));
  LOCKSTEP_ASSIGN_OR_RETURN(SafetensorsHeader header, read_safetensors_header(*opened, path));
  const WeightsFile file(std::move(opened), std::move(header), path);
  LOCKSTEP_RETURN_IF_ERROR(file.check_fit(schema.layout));
  ImportedWeights imported;
  for (const FlatSpace& space : schema.layout.spaces()) {
    for (const TensorPlace& place : space.tensors) {
      if (file.entries_of(place.spec).empty()) {
        imported.kept.push_back(place.spec.name);
        continue;
      }
      LOCKSTEP_RETURN_IF_ERROR(file.check_tied(place.spec));
      ++imported.num_tensors;
      imported.bytes +=
          static_cast<uint64_t>(place.spec.num_elems() * dtype_size_bytes(place.spec.dtype));
    }
  }
  for (const StateSlice& slice : into.slices) {
    const FlatSpace* space = schema.layout.find(slice.kind.space);
    LOCKSTEP_CHECK(space != nullptr, "a slice of an unknown space ", slice.kind.space);
    if (slice.kind.kind != value_kind(space->role)) continue;
    LOCKSTEP_RETURN_IF_ERROR(
        visit_tensors(*space, slice, [&](size_t t, ElemRun part, std::span<std::byte> to) {
          const TensorPlace& place = space->tensors[t];
          const auto entries = file.entries_of(place.spec);
          return entries.empty() ? Status::ok()
                                 : read_part(file, *entries.front(), place, part, to);
        }));
  }
  return imported;
}

}  // namespace lockstep
