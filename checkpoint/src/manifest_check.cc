#include "manifest_check.h"

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

std::string scalars_text(const Scalars& scalars) {
  std::string text;
  for (const auto& [name, scalar] : scalars) text += cat(name, "=", scalar_text(scalar), "\n");
  return text;
}

std::string metric_names(const std::map<std::string, double>& metrics) {
  std::string text;
  for (const auto& [name, value] : metrics) text += cat(name, "\n");
  return text;
}

/// The member that reads back as another text, or nothing. Numbers need no look: they are in the
/// text, which is compared as a whole.
std::string_view changed_member(const Manifest& a, const Manifest& b) {
  if (a.schema.layout.canonical_text() != b.schema.layout.canonical_text()) return "tensors";
  if (a.schema.kinds != b.schema.kinds) return "kinds";
  if (scalars_text(a.scalars) != scalars_text(b.scalars)) return "scalars";
  if (metric_names(a.metrics) != metric_names(b.metrics)) return "metrics";
  if (a.recipe_text != b.recipe_text) return "recipe_text";
  if (a.recipe_hash != b.recipe_hash) return "recipe_hash";
  if (a.instruction_set != b.instruction_set) return "instruction_set";
  if (a.versions != b.versions) return "versions";
  if (a.utc_time != b.utc_time) return "utc_time";
  return {};
}

}  // namespace

Status check_reads_back(const Manifest& manifest, const std::string& text) {
  const auto read = parse_manifest(text, kManifestFile);
  if (!read.is_ok()) {
    return invalid_argument_error(
        cat("this state can't be saved, it could not be read again: ", read.status().message()));
  }
  std::string_view member = changed_member(manifest, *read);
  if (member.empty() && manifest_text(*read) != text) member = "something";
  if (member.empty()) return Status::ok();
  return invalid_argument_error(cat("this state can't be saved, ", member,
                                    " would be read as another text; texts must be UTF-8"));
}

}  // namespace lockstep
