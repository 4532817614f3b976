#include "lockstep/checkpoint/model_difference.h"

#include <algorithm>
#include <map>

#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

using Kind = ModelDifference::Kind;

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kMissing:
      return "missing";
    case Kind::kUnexpected:
      return "unexpected";
    case Kind::kShape:
      return "shape";
    case Kind::kDtype:
      return "dtype";
    case Kind::kOrder:
      return "storage order";
    case Kind::kRole:
      return "role";
    case Kind::kAliases:
      return "tied names";
    case Kind::kOffset:
      return "place";
    case Kind::kState:
      return "state";
  }
  return "";
}

struct PlacedTensor {
  const FlatSpace* space;
  const TensorPlace* place;
};

std::map<std::string, PlacedTensor> tensors_by_name(const StateSchema& schema) {
  std::map<std::string, PlacedTensor> tensors;
  for (const FlatSpace& space : schema.layout.spaces()) {
    for (const TensorPlace& place : space.tensors) tensors[place.spec.name] = {&space, &place};
  }
  return tensors;
}

std::string tensor_text(const PlacedTensor& tensor) {
  return cat(tensor.space->name, " ", shape_text(tensor.place->spec.shape));
}

/// The most telling difference of two tensors of one name, if any.
void compare_tensors(const PlacedTensor& wanted, const PlacedTensor& found,
                     std::vector<ModelDifference>* out) {
  const TensorSpec& a = wanted.place->spec;
  const TensorSpec& b = found.place->spec;
  const auto add = [&](Kind kind, std::string want, std::string have) {
    out->push_back({kind, a.name, std::move(want), std::move(have)});
  };
  if (auto difference = compare_types(a.name, a, b.dtype, b.shape)) {
    out->push_back(std::move(*difference));
  } else if (a.role != b.role) {
    add(Kind::kRole, wanted.space->name, found.space->name);
  } else if (a.order != b.order) {
    add(Kind::kOrder, shape_text(a.order), shape_text(b.order));
  } else if (a.aliases != b.aliases) {
    add(Kind::kAliases, join(a.aliases, ", "), join(b.aliases, ", "));
  } else if (wanted.place->offset_elems != found.place->offset_elems) {
    add(Kind::kOffset, cat("offset ", wanted.place->offset_elems),
        cat("offset ", found.place->offset_elems));
  }
}

void compare_kinds(const StateSchema& wanted, const StateSchema& found,
                   std::vector<ModelDifference>* out) {
  const auto has = [](const StateSchema& schema, const StateKind& kind) {
    return std::find(schema.kinds.begin(), schema.kinds.end(), kind) != schema.kinds.end();
  };
  for (const StateKind& kind : wanted.kinds) {
    if (!has(found, kind))
      out->push_back({Kind::kState, cat(kind.kind, "/", kind.space), "present", "absent"});
  }
  for (const StateKind& kind : found.kinds) {
    if (!has(wanted, kind))
      out->push_back({Kind::kState, cat(kind.kind, "/", kind.space), "absent", "present"});
  }
}

}  // namespace

std::optional<ModelDifference> compare_types(const std::string& name, const TensorSpec& wanted,
                                             Dtype found_dtype,
                                             const std::vector<int64_t>& found_shape) {
  if (wanted.shape != found_shape)
    return ModelDifference{Kind::kShape, name, shape_text(wanted.shape), shape_text(found_shape)};
  if (wanted.dtype != found_dtype) {
    return ModelDifference{Kind::kDtype, name, std::string(dtype_name(wanted.dtype)),
                           std::string(dtype_name(found_dtype))};
  }
  return std::nullopt;
}

std::vector<ModelDifference> compare_models(const StateSchema& wanted, const StateSchema& found) {
  std::vector<ModelDifference> differences;
  const auto wanted_tensors = tensors_by_name(wanted);
  const auto found_tensors = tensors_by_name(found);
  for (const auto& [name, tensor] : wanted_tensors) {
    const auto it = found_tensors.find(name);
    if (it == found_tensors.end()) {
      differences.push_back({Kind::kMissing, name, tensor_text(tensor), "absent"});
    } else {
      compare_tensors(tensor, it->second, &differences);
    }
  }
  for (const auto& [name, tensor] : found_tensors) {
    if (wanted_tensors.count(name) == 0) {
      differences.push_back({Kind::kUnexpected, name, "absent", tensor_text(tensor)});
    }
  }
  compare_kinds(wanted, found, &differences);
  return differences;
}

std::string differences_text(const std::vector<ModelDifference>& differences, size_t max_lines,
                             std::string_view found_in) {
  std::string text;
  for (size_t i = 0; i < differences.size() && i < max_lines; ++i) {
    const ModelDifference& d = differences[i];
    text += cat("\n  ", kind_name(d.kind), ": ", d.name, ": the model has ", d.wanted, ", ",
                found_in, " ", d.found);
  }
  if (differences.size() > max_lines)
    text += cat("\n  and ", differences.size() - max_lines, " more");
  return text;
}

}  // namespace lockstep
