#include "block_hashes.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"
#include "parallel.h"
#include "tensor_reader.h"

namespace lockstep {
namespace {

/// What goes into the file, and the header that says so.
struct ExportPlan {
  std::vector<StoredTensor> tensors;
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
  uint64_t data_bytes = 0;
};

ExportPlan plan_export(const Manifest& manifest, bool all) {
  ExportPlan plan;
  plan.metadata = {{"format", "pt"},
                   {"step", cat(manifest.step)},
                   {"state_digest", manifest.state_digest.hex()}};
  for (StoredTensor& tensor : stored_tensors(manifest.schema)) {
    if (!all && manifest.schema.kinds[tensor.kind_index].kind != "param") continue;
    const TensorSpec& spec = tensor.place->spec;
    const uint64_t begin = plan.data_bytes;
    plan.data_bytes += static_cast<uint64_t>(spec.num_elems() * dtype_size_bytes(spec.dtype));
    plan.entries.push_back({tensor.name, spec.dtype, spec.shape, begin, plan.data_bytes});
    for (const std::string& alias : spec.aliases) plan.metadata[cat("alias.", alias)] = spec.name;
    plan.tensors.push_back(std::move(tensor));
  }
  return plan;
}

Status write_tensors(FileSystem& fs, const std::string& path, const BlockSource& source,
                     const ExportPlan& plan, const std::string& prefix, const ToolRun& how) {
  TensorReader reader(source);
  ByteProgress progress(how.on_progress, plan.data_bytes);
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs.open_write(path, OpenMode::kTruncate));
  LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(prefix))));
  for (const StoredTensor& tensor : plan.tensors) {
    const TensorSpec& spec = tensor.place->spec;
    for (int64_t first = 0; first < spec.num_elems();) {
      const ElemRun elems = next_elems(*tensor.place, first, row_major_unit(spec), kReadPieceBytes);
      LOCKSTEP_ASSIGN_OR_RETURN(const auto bytes, reader.read_row_major(tensor, elems));
      LOCKSTEP_RETURN_IF_ERROR(file->write(bytes));
      progress.add(bytes.size());
      first = elems.end;
    }
  }
  LOCKSTEP_RETURN_IF_ERROR(file->sync());
  return file->close();
}

}  // namespace

Result<ExportReport> export_checkpoint(FileSystem& fs, const std::string& path,
                                       const std::string& out_path, bool all, const ToolRun& how) {
  LOCKSTEP_ASSIGN_OR_RETURN(const bool is_taken, exists(fs, out_path));
  if (is_taken)
    return already_exists_error(
        cat(out_path, " is there already; remove it or choose another name"));
  LOCKSTEP_ASSIGN_OR_RETURN(const BlockSource source, BlockSource::open(fs, path));
  const ExportPlan plan = plan_export(source.manifest(), all);
  const std::string prefix = safetensors_prefix(plan.entries, plan.metadata);
  const std::string partial = cat(out_path, ".partial");
  if (Status status = write_tensors(fs, partial, source, plan, prefix, how); !status.is_ok()) {
    fs.remove(partial).ignore();  // the first error counts
    return as_output_error(status);
  }
  LOCKSTEP_RETURN_IF_ERROR(fs.rename(partial, out_path));
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(path_parent(out_path)));
  return ExportReport{out_path, static_cast<int64_t>(plan.tensors.size()),
                      prefix.size() + plan.data_bytes};
}

}  // namespace lockstep
