#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"
#include "tensor_reader.h"

namespace lockstep {
namespace {

Status write_tensors(FileSystem& fs, const std::string& path, TensorReader& reader,
                     const std::vector<TensorReader::Tensor>& tensors, const std::string& prefix) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs.open_write(path, OpenMode::kTruncate));
  LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(prefix))));
  for (const TensorReader::Tensor& tensor : tensors) {
    LOCKSTEP_ASSIGN_OR_RETURN(const auto bytes, reader.read_row_major(tensor));
    if (!bytes.empty()) LOCKSTEP_RETURN_IF_ERROR(file->write(bytes));
  }
  LOCKSTEP_RETURN_IF_ERROR(file->sync());
  return file->close();
}

}  // namespace

Result<ExportReport> export_checkpoint(FileSystem& fs, const std::string& path,
                                       const std::string& out_path, bool all) {
  LOCKSTEP_ASSIGN_OR_RETURN(const bool is_taken, exists(fs, out_path));
  if (is_taken)
    return already_exists_error(
        cat(out_path, " is there already; remove it or choose another name"));
  LOCKSTEP_ASSIGN_OR_RETURN(TensorReader reader, TensorReader::open(fs, path));
  const Manifest& manifest = reader.manifest();
  std::vector<TensorReader::Tensor> chosen;
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                 {"step", cat(manifest.step)},
                                                 {"state_digest", manifest.state_digest.hex()}};
  uint64_t offset = 0;
  for (const TensorReader::Tensor& tensor : reader.tensors()) {
    if (!all && manifest.schema.kinds[tensor.kind_index].kind != "param") continue;
    const TensorSpec& spec = tensor.place->spec;
    const uint64_t end =
        offset + static_cast<uint64_t>(spec.num_elems() * dtype_size_bytes(spec.dtype));
    entries.push_back({tensor.name, spec.dtype, spec.shape, offset, end});
    for (const std::string& alias : spec.aliases) metadata[cat("alias.", alias)] = spec.name;
    chosen.push_back(tensor);
    offset = end;
  }
  const std::string prefix = safetensors_prefix(entries, metadata);
  const std::string partial = cat(out_path, ".partial");
  if (Status status = write_tensors(fs, partial, reader, chosen, prefix); !status.is_ok()) {
    fs.remove(partial).ignore();  // the first error counts
    return as_output_error(status);
  }
  LOCKSTEP_RETURN_IF_ERROR(fs.rename(partial, out_path));
  LOCKSTEP_RETURN_IF_ERROR(fs.sync_dir(path_parent(out_path)));
  return ExportReport{out_path, static_cast<int64_t>(chosen.size()), prefix.size() + offset};
}

}  // namespace lockstep
