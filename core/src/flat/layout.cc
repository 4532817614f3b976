#include "lockstep/core/flat/layout.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

// Larger than any real tensor, small enough that offsets in bytes can't overflow.
constexpr int64_t kMaxElems = int64_t{1} << 56;

constexpr std::array<SpaceRole, 3> kRoles = {SpaceRole::kTrainable, SpaceRole::kFrozen,
                                             SpaceRole::kBuffer};
constexpr std::array<Dtype, 11> kDtypes = {Dtype::kF32, Dtype::kF64, Dtype::kBF16, Dtype::kF16,
                                           Dtype::kI64, Dtype::kI32, Dtype::kI16,  Dtype::kI8,
                                           Dtype::kU8,  Dtype::kU64, Dtype::kBool};

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Names are fields of the line-based canonical text and of file formats: no control characters.
Status check_name(const std::string& name) {
  if (name.empty()) return invalid_argument_error("a tensor has an empty name");
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return invalid_argument_error(
          cat("the tensor name '", name, "' contains a control character; rename the parameter"));
  }
  return Status::ok();
}

Status check_shape(const TensorSpec& tensor) {
  int64_t elems = 1;
  for (const int64_t size : tensor.shape) {
    if (size < 0)
      return invalid_argument_error(
          cat("tensor '", tensor.name, "' has a dimension of size ", size));
    if (size > 0 && elems > kMaxElems / size)
      return invalid_argument_error(
          cat("tensor '", tensor.name, "' has more than ", kMaxElems, " elements"));
    elems *= size;
  }
  if (tensor.order.size() != tensor.shape.size())
    return invalid_argument_error(cat("tensor '", tensor.name, "' has ", tensor.shape.size(),
                                      " dimensions but an order of ", tensor.order.size()));
  std::vector<int64_t> sorted = tensor.order;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] != static_cast<int64_t>(i))
      return invalid_argument_error(cat("tensor '", tensor.name,
                                        "': its storage order is not a permutation of its ",
                                        tensor.shape.size(), " dimensions"));
  }
  return Status::ok();
}

Status check_tensors(const std::vector<TensorSpec>& tensors) {
  std::set<std::string> names;
  for (const TensorSpec& tensor : tensors) {
    std::vector<std::string> all = {tensor.name};
    all.insert(all.end(), tensor.aliases.begin(), tensor.aliases.end());
    for (const std::string& name : all) {
      LOCKSTEP_RETURN_IF_ERROR(check_name(name));
      if (!names.insert(name).second)
        return invalid_argument_error(cat("two tensors have the name '", name, "'"));
    }
    LOCKSTEP_RETURN_IF_ERROR(check_shape(tensor));
    if (tensor.role == SpaceRole::kTrainable && !is_floating(tensor.dtype))
      return invalid_argument_error(cat("parameter '", tensor.name, "' is trainable but of type ",
                                        dtype_name(tensor.dtype), "; only floating types can be"));
  }
  return Status::ok();
}

FlatSpace lay_out(SpaceRole role, Dtype dtype, std::vector<TensorPlace> tensors) {
  const int64_t align_elems = kTensorAlignBytes / dtype_size_bytes(dtype);
  int64_t offset = 0;
  for (TensorPlace& tensor : tensors) {
    tensor.offset_elems = offset;
    offset = round_up(offset + tensor.spec.num_elems(), align_elems);
  }
  // A space of nothing but empty tensors still gets memory, so that nobody has to treat it
  // specially.
  return FlatSpace{.name = flat_space_name(role, dtype),
                   .role = role,
                   .dtype = dtype,
                   .num_elems = std::max(offset, align_elems),
                   .tensors = std::move(tensors)};
}

std::string joined(const std::vector<int64_t>& numbers) {
  if (numbers.empty()) return "-";
  std::string out;
  for (const int64_t number : numbers) out += cat(out.empty() ? "" : ",", number);
  return out;
}

}  // namespace

int64_t TensorSpec::num_elems() const {
  int64_t elems = 1;
  for (const int64_t size : shape) elems *= size;
  return elems;
}

std::vector<int64_t> TensorSpec::strides() const {
  LOCKSTEP_CHECK(order.size() == shape.size(), "tensor '", name, "'");
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    const auto dim = static_cast<size_t>(order[i]);
    strides.at(dim) = stride;
    stride *= std::max<int64_t>(shape.at(dim), 1);
  }
  return strides;
}

ElemRun FlatSpace::elems_of(BlockRun blocks) const {
  LOCKSTEP_CHECK(0 <= blocks.first && blocks.first <= blocks.end && blocks.end <= num_blocks(),
                 "blocks [", blocks.first, ", ", blocks.end, ") of space ", name, ", which has ",
                 num_blocks());
  return {std::min(blocks.first * kBlockElems, num_elems),
          std::min(blocks.end * kBlockElems, num_elems)};
}

std::string flat_space_name(SpaceRole role, Dtype dtype) {
  return cat(space_role_name(role), ".", dtype_name(dtype));
}

std::string_view space_role_name(SpaceRole role) {
  switch (role) {
    case SpaceRole::kTrainable:
      return "trainable";
    case SpaceRole::kFrozen:
      return "frozen";
    case SpaceRole::kBuffer:
      return "buffer";
  }
  LOCKSTEP_CHECK(false, "space role number ", static_cast<int>(role));
}

std::string_view value_kind(SpaceRole role) {
  return role == SpaceRole::kBuffer ? "buffer" : "param";
}

Result<FlatLayout> FlatLayout::plan(const std::vector<TensorSpec>& tensors) {
  LOCKSTEP_RETURN_IF_ERROR(check_tensors(tensors));
  FlatLayout layout;
  for (const SpaceRole role : kRoles) {
    for (const Dtype dtype : kDtypes) {
      std::vector<TensorPlace> members;
      int64_t elems = 0;
      for (const TensorSpec& tensor : tensors) {
        if (tensor.role != role || tensor.dtype != dtype) continue;
        members.push_back({.spec = tensor, .offset_elems = 0});
        elems += tensor.num_elems() + kTensorAlignBytes;
        if (elems > kMaxElems)
          return invalid_argument_error(cat("space ", flat_space_name(role, dtype),
                                            " would have more than ", kMaxElems, " elements"));
      }
      if (!members.empty()) layout.spaces_.push_back(lay_out(role, dtype, std::move(members)));
    }
  }
  return layout;
}

const FlatSpace* FlatLayout::find(std::string_view space_name) const {
  for (const FlatSpace& space : spaces_) {
    if (space.name == space_name) return &space;
  }
  return nullptr;
}

std::string FlatLayout::canonical_text() const {
  std::string text = "lockstep-layout 1\n";
  for (const FlatSpace& space : spaces_) {
    text += cat("space ", space.name, " ", space.num_elems, "\n");
    for (const TensorPlace& tensor : space.tensors) {
      text += cat("tensor ", tensor.offset_elems, " ", joined(tensor.spec.shape), " ",
                  joined(tensor.spec.order), " ", tensor.spec.name, "\n");
      for (const std::string& alias : tensor.spec.aliases) text += cat("alias ", alias, "\n");
    }
  }
  return text;
}

}  // namespace lockstep
