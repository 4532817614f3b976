#include "lockstep/checkpoint/ckpt_tools_print.h"

#include <cmath>

#include "json_reader.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"
#include "ownership.h"

namespace lockstep {
namespace {

template <typename Items, typename ToText>
std::string array(const Items& items, const ToText& to_text) {
  std::string out;
  for (const auto& item : items) out += cat(out.empty() ? "" : ",\n ", to_text(item));
  return cat("[", out, "]");
}

std::string number(double value) {
  return std::isfinite(value) ? cat(value) : "null";
}

std::string metrics_text(const std::map<std::string, double>& metrics) {
  std::vector<std::string> parts;
  for (const auto& [name, value] : metrics) parts.push_back(cat(name, " ", value));
  return join(parts, ", ");
}

std::string metrics_json(const std::map<std::string, double>& metrics) {
  std::vector<std::string> parts;
  for (const auto& [name, value] : metrics)
    parts.push_back(cat(json_quoted(name), ":", number(value)));
  return cat("{", join(parts, ","), "}");
}

std::string summary_json(const CheckpointSummary& c) {
  return cat("{\"path\":", json_quoted(c.path), ",\"generation\":", c.generation,
             ",\"step\":", c.step, ",\"epoch\":", c.epoch, ",\"world_size\":", c.world_size,
             ",\"bytes\":", c.bytes, ",\"utc_time\":", json_quoted(c.utc_time),
             ",\"state_digest\":\"", c.state_digest.hex(),
             "\",\"metrics\":", metrics_json(c.metrics), ",\"is_quarantined\":", c.is_quarantined,
             ",\"problem\":", json_quoted(c.problem), "}");
}

/// "  adamw.exp_avg/trainable.F32: blocks 0-3, 7-9": what one rank wrote of one kind, ends not
/// included.
std::string runs_line(const KindRuns& entry) {
  std::vector<std::string> runs;
  for (const BlockRun& run : entry.runs) runs.push_back(cat(run.first, "-", run.end));
  return cat("  ", entry.kind.kind, "/", entry.kind.space, ": blocks ", join(runs, ", "), "\n");
}

std::string tensor_diff_text(const TensorDiff& diff) {
  if (!diff.only_in.empty()) return cat("  ", diff.name, ": only in ", diff.only_in, "\n");
  if (!diff.mismatch.empty()) return cat("  ", diff.name, ": ", diff.mismatch, "\n");
  return cat("  ", diff.name, ": ", diff.num_different, " of ", diff.num_elems,
             " elements differ, by at most ", diff.largest, "\n");
}

std::string tensor_diff_json(const TensorDiff& diff) {
  return cat("{\"name\":", json_quoted(diff.name), ",\"only_in\":", json_quoted(diff.only_in),
             ",\"mismatch\":", json_quoted(diff.mismatch), ",\"num_elems\":", diff.num_elems,
             ",\"num_different\":", diff.num_different, ",\"largest\":", number(diff.largest), "}");
}

}  // namespace

std::string list_text(const std::vector<CheckpointSummary>& checkpoints) {
  if (checkpoints.empty()) return "no checkpoints\n";
  std::string out;
  for (const CheckpointSummary& c : checkpoints) {
    out += cat("step ", c.step, "  generation ", c.generation, "  ",
               c.is_quarantined ? "QUARANTINED  " : "");
    if (!c.problem.empty()) {
      out += cat("BAD: ", c.problem, "\n");
    } else {
      out += cat("epoch ", c.epoch, "  ", c.world_size, " ranks  ", human_bytes(c.bytes), "  ",
                 c.utc_time, "  ", metrics_text(c.metrics), "\n");
    }
    out += cat("  ", c.path, "\n");
  }
  return out;
}

std::string list_json(const std::vector<CheckpointSummary>& checkpoints) {
  return cat(array(checkpoints, summary_json), "\n");
}

std::string inspect_text(const Manifest& m, InspectDetail detail) {
  std::string out = cat("step ", m.step, ", epoch ", m.epoch, ", generation ", m.generation,
                        ", attempt ", m.attempt, "\nsaved by ", m.world_size, " ranks at ",
                        m.utc_time, " (", m.instruction_set);
  for (const auto& [library, version] : m.versions) out += cat(", ", library, " ", version);
  out += cat(")\nstate digest ", m.state_digest.hex(), "\nrecipe hash ", m.recipe_hash, ", seed ",
             hex64(m.seed), "\nmetrics: ", metrics_text(m.metrics), "\n");
  for (const auto& [name, value] : m.scalars)
    out += cat("scalar ", name, " = ", scalar_text(value), "\n");
  for (const FlatSpace& space : m.schema.layout.spaces()) {
    std::vector<std::string> kinds;
    for (const StateKind& kind : m.schema.kinds) {
      if (kind.space == space.name) kinds.push_back(kind.kind);
    }
    out += cat(space.name, ": ", space.tensors.size(), " tensors, ", space.num_elems, " elements, ",
               space.num_blocks(), " blocks of ", join(kinds, ", "), "\n");
    if (detail == InspectDetail::kPicture) continue;
    for (const TensorPlace& place : space.tensors) {
      out += cat("  ", place.spec.name, " ", shape_text(place.spec.shape), " at ",
                 place.offset_elems, "\n");
    }
  }
  out += ownership_picture(plan_ownership(m), {});
  if (detail == InspectDetail::kPicture) return out;
  for (const ShardEntry& shard : m.shards) {
    out += cat(shard.file, ": ", human_bytes(shard.bytes), "\n");
    for (const KindRuns& entry : shard.runs) out += runs_line(entry);
  }
  return out;
}

std::string inspect_json(const Manifest& manifest) {
  std::string text = manifest_text(manifest);
  text.resize(text.rfind('}'));
  while (text.ends_with('\n')) text.pop_back();
  return cat(text, ",\n \"owners\":", ownership_json(plan_ownership(manifest)), "\n}\n");
}

std::string verify_text(const VerifyReport& report) {
  const double rate =
      report.seconds > 0 ? static_cast<double>(report.bytes) / report.seconds * 1e-9 : 0;
  std::string out = cat(report.path, ": ", report.is_good() ? "good" : "BAD", ", ",
                        report.num_blocks, " blocks, ", human_bytes(report.bytes), " in ",
                        fixed(report.seconds, 2), " s (", fixed(rate, 2), " GB/s)\n");
  for (const std::string& problem : report.problems) out += cat("  ", problem, "\n");
  return out;
}

std::string verify_json(const VerifyReport& report) {
  return cat("{\"path\":", json_quoted(report.path), ",\"is_good\":", report.is_good(),
             ",\"num_blocks\":", report.num_blocks, ",\"bytes\":", report.bytes,
             ",\"seconds\":", number(report.seconds), ",\"problems\":",
             array(report.problems, [](const std::string& p) { return json_quoted(p); }), "}\n");
}

std::string diff_text(const DiffReport& report) {
  if (report.is_equal())
    return cat("equal, bit for bit: ", report.num_compared, " tensors and all scalars\n");
  std::string out =
      cat(report.tensors.size(), " tensors and ", report.scalars.size(), " scalars differ\n");
  for (const TensorDiff& diff : report.tensors) out += tensor_diff_text(diff);
  for (const std::string& scalar : report.scalars) out += cat("  ", scalar, "\n");
  return out;
}

std::string diff_json(const DiffReport& report) {
  return cat("{\"is_equal\":", report.is_equal(), ",\"num_compared\":", report.num_compared,
             ",\"tensors\":", array(report.tensors, tensor_diff_json), ",\"scalars\":",
             array(report.scalars, [](const std::string& s) { return json_quoted(s); }), "}\n");
}

std::string export_text(const ExportReport& report) {
  return cat(report.path, ": ", report.num_tensors, " tensors, ", human_bytes(report.bytes), "\n");
}

std::string export_json(const ExportReport& report) {
  return cat("{\"path\":", json_quoted(report.path), ",\"num_tensors\":", report.num_tensors,
             ",\"bytes\":", report.bytes, "}\n");
}

std::string reshard_text(const ReshardReport& report) {
  return cat(report.path, ": ", report.old_world_size, " shards are now ", report.world_size, ", ",
             human_bytes(report.bytes), ", the largest ", human_bytes(report.largest_shard_bytes),
             ", state digest ", report.state_digest.hex(), ", in ", fixed(report.seconds, 2),
             " s\n");
}

std::string reshard_json(const ReshardReport& report) {
  return cat("{\"path\":", json_quoted(report.path), ",\"world_size\":", report.world_size,
             ",\"old_world_size\":", report.old_world_size, ",\"bytes\":", report.bytes,
             ",\"largest_shard_bytes\":", report.largest_shard_bytes, ",\"state_digest\":\"",
             report.state_digest.hex(), "\",\"seconds\":", number(report.seconds), "}\n");
}

std::string prune_text(const PruneReport& report) {
  const char* verb = report.is_dry_run ? "would delete" : "deleted";
  std::string out;
  for (const PruneItem& item : report.items) {
    const bool is_kept = !item.kept_because.empty();
    out += cat(is_kept ? "kept" : verb, "  step ", item.name.step, "  generation ",
               item.name.generation, "  ", human_bytes(item.bytes));
    if (is_kept) out += cat("  (", join(item.kept_because, "; "), ")");
    out += "\n";
  }
  if (report.leftover_bytes > 0) {
    out += cat(verb, "  what was left of interrupted saves and deletions  ",
               human_bytes(report.leftover_bytes), "\n");
  }
  return out + cat(verb, " ", report.num_doomed(), " of ", report.items.size(), " checkpoints, ",
                   human_bytes(report.freed_bytes()), "\n");
}

std::string prune_json(const PruneReport& report) {
  const auto item_json = [](const PruneItem& item) {
    return cat("{\"path\":", json_quoted(item.path), ",\"generation\":", item.name.generation,
               ",\"step\":", item.name.step, ",\"bytes\":", item.bytes,
               ",\"is_deleted\":", item.kept_because.empty(), ",\"kept_because\":",
               array(item.kept_because, [](const std::string& why) { return json_quoted(why); }),
               "}");
  };
  return cat("{\"run_dir\":", json_quoted(report.run_dir), ",\"is_dry_run\":", report.is_dry_run,
             ",\"num_deleted\":", report.num_doomed(), ",\"freed_bytes\":", report.freed_bytes(),
             ",\"leftover_bytes\":", report.leftover_bytes,
             ",\"checkpoints\":", array(report.items, item_json), "}\n");
}

}  // namespace lockstep
