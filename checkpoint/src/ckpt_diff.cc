#include <cmath>
#include <cstring>

#include "elem_values.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"
#include "tensor_reader.h"

namespace lockstep {
namespace {

using TensorsByName = std::map<std::string, TensorReader::Tensor>;

TensorsByName by_name(const TensorReader& reader) {
  TensorsByName tensors;
  for (TensorReader::Tensor& tensor : reader.tensors()) tensors[tensor.name] = tensor;
  return tensors;
}

std::string type_text(const TensorSpec& spec) {
  return cat(dtype_name(spec.dtype), " ", shape_text(spec.shape));
}

void compare_elems(Dtype dtype, const std::vector<std::byte>& a, const std::vector<std::byte>& b,
                   TensorDiff* diff) {
  const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(dtype));
  for (size_t i = 0; i < a.size(); i += elem_bytes) {
    if (std::memcmp(a.data() + i, b.data() + i, elem_bytes) == 0) continue;
    ++diff->num_different;
    const double distance =
        std::abs(elem_as_double(dtype, a.data() + i) - elem_as_double(dtype, b.data() + i));
    if (std::isnan(distance) || distance > diff->largest) diff->largest = distance;
  }
}

Status compare_tensor(TensorReader& a, TensorReader& b, const TensorReader::Tensor& in_a,
                      const TensorReader::Tensor& in_b, DiffReport* report) {
  const TensorSpec& spec_a = in_a.place->spec;
  const TensorSpec& spec_b = in_b.place->spec;
  TensorDiff diff;
  diff.name = in_a.name;
  diff.num_elems = spec_a.num_elems();
  ++report->num_compared;
  if (spec_a.dtype != spec_b.dtype || spec_a.shape != spec_b.shape) {
    diff.mismatch = cat(type_text(spec_a), " and ", type_text(spec_b));
    report->tensors.push_back(std::move(diff));
    return Status::ok();
  }
  LOCKSTEP_ASSIGN_OR_RETURN(const auto bytes_a, a.read_row_major(in_a));
  LOCKSTEP_ASSIGN_OR_RETURN(const auto bytes_b, b.read_row_major(in_b));
  compare_elems(spec_a.dtype, bytes_a, bytes_b, &diff);
  if (diff.num_different > 0) report->tensors.push_back(std::move(diff));
  return Status::ok();
}

void compare_scalars(const Scalars& a, const Scalars& b, DiffReport* report) {
  Scalars all = a;
  all.insert(b.begin(), b.end());
  const auto text = [](const Scalars& scalars, const std::string& name) {
    const auto it = scalars.find(name);
    return it == scalars.end() ? std::string("absent") : scalar_text(it->second);
  };
  for (const auto& [name, value] : all) {
    const std::string text_a = text(a, name);
    const std::string text_b = text(b, name);
    if (text_a != text_b) report->scalars.push_back(cat(name, ": ", text_a, " and ", text_b));
  }
}

}  // namespace

Result<DiffReport> diff_checkpoints(FileSystem& fs, const std::string& path_a,
                                    const std::string& path_b) {
  LOCKSTEP_ASSIGN_OR_RETURN(TensorReader a, TensorReader::open(fs, path_a));
  LOCKSTEP_ASSIGN_OR_RETURN(TensorReader b, TensorReader::open(fs, path_b));
  const TensorsByName in_a = by_name(a);
  const TensorsByName in_b = by_name(b);
  DiffReport report;
  for (const auto& [name, tensor] : in_a) {
    const auto it = in_b.find(name);
    if (it == in_b.end()) {
      report.tensors.push_back({name, "a", {}, tensor.place->spec.num_elems(), 0, 0});
    } else {
      LOCKSTEP_RETURN_IF_ERROR(compare_tensor(a, b, tensor, it->second, &report));
    }
  }
  for (const auto& [name, tensor] : in_b) {
    if (in_a.count(name) == 0) {
      report.tensors.push_back({name, "b", {}, tensor.place->spec.num_elems(), 0, 0});
    }
  }
  compare_scalars(a.manifest().scalars, b.manifest().scalars, &report);
  return report;
}

}  // namespace lockstep
