// What of a checkpoint goes where in another model. Pure.
#include <map>
#include <set>

#include "lockstep/checkpoint/params_load.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

using Kind = ModelDifference::Kind;

/// '*' stands for any run of letters. Linear in pattern times name, whatever the pattern.
bool matches(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, after_star = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      after_star = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++after_star;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::string text_of(const FlatSpace& space, const TensorSpec& spec) {
  return cat(space.name, " ", shape_text(spec.shape));
}

/// Every name of the checkpoint's tensors, tied ones too.
std::map<std::string, TensorSource> by_name(const StateSchema& schema) {
  std::map<std::string, TensorSource> tensors;
  for (const FlatSpace& space : schema.layout.spaces()) {
    for (const TensorPlace& place : space.tensors) {
      tensors[place.spec.name] = {&space, &place};
      for (const std::string& alias : place.spec.aliases) tensors[alias] = {&space, &place};
    }
  }
  return tensors;
}

TensorSource find(const std::map<std::string, TensorSource>& tensors, const TensorSpec& wanted) {
  if (const auto it = tensors.find(wanted.name); it != tensors.end()) return it->second;
  for (const std::string& alias : wanted.aliases) {
    if (const auto it = tensors.find(alias); it != tensors.end()) return it->second;
  }
  return {};
}

/// What keeps the values from being taken, if anything does.
std::optional<ModelDifference> misfit(const TensorSpec& wanted, const TensorSource& source) {
  const TensorSpec& found = source.place->spec;
  if (auto difference = compare_types(wanted.name, wanted, found.dtype, found.shape))
    return difference;
  const bool wants_buffer = wanted.role == SpaceRole::kBuffer;
  if (wants_buffer == (found.role == SpaceRole::kBuffer)) return std::nullopt;
  return ModelDifference{Kind::kRole, wanted.name, std::string(space_role_name(wanted.role)),
                         std::string(space_role_name(found.role))};
}

}  // namespace

bool matches_any(const std::string& name, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    if (matches(pattern, name)) return true;
  }
  return false;
}

ParamsPlan plan_params_load(const StateSchema& wanted, const StateSchema& found,
                            const AllowedDifferences& allowed) {
  ParamsPlan plan;
  const auto tensors = by_name(found);
  std::set<const TensorPlace*> used;
  const auto add = [&](ModelDifference difference, bool is_allowed) {
    (is_allowed ? plan.left_out : plan.refused).push_back(std::move(difference));
  };
  for (const FlatSpace& space : wanted.layout.spaces()) {
    std::vector<TensorSource>& sources = plan.sources.emplace_back();
    for (const TensorPlace& place : space.tensors) {
      const std::string& name = place.spec.name;
      TensorSource source = find(tensors, place.spec);
      const bool may_miss = matches_any(name, allowed.missing);
      if (source.place == nullptr) {
        add({Kind::kMissing, name, text_of(space, place.spec), "absent"}, may_miss);
      } else {
        used.insert(source.place);
        const std::string& theirs = source.place->spec.name;
        if (auto difference = misfit(place.spec, source)) {
          add(std::move(*difference), may_miss && matches_any(theirs, allowed.unexpected));
          source = {};
        }
      }
      sources.push_back(source);
    }
  }
  for (const FlatSpace& space : found.layout.spaces()) {
    for (const TensorPlace& place : space.tensors) {
      if (used.count(&place) != 0) continue;
      add({Kind::kUnexpected, place.spec.name, "absent", text_of(space, place.spec)},
          matches_any(place.spec.name, allowed.unexpected));
    }
  }
  return plan;
}

}  // namespace lockstep
