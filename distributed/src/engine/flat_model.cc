#include "flat_model.h"

#include <ATen/ops/as_strided.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

std::optional<Dtype> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Dtype::kF32;
    case at::kDouble:
      return Dtype::kF64;
    case at::kBFloat16:
      return Dtype::kBF16;
    case at::kHalf:
      return Dtype::kF16;
    case at::kLong:
      return Dtype::kI64;
    case at::kInt:
      return Dtype::kI32;
    case at::kShort:
      return Dtype::kI16;
    case at::kChar:
      return Dtype::kI8;
    case at::kByte:
      return Dtype::kU8;
    case at::kBool:
      return Dtype::kBool;
    default:
      return std::nullopt;
  }
}

at::ScalarType scalar_type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return at::kFloat;
    case Dtype::kF64:
      return at::kDouble;
    case Dtype::kBF16:
      return at::kBFloat16;
    case Dtype::kF16:
      return at::kHalf;
    case Dtype::kI64:
      return at::kLong;
    case Dtype::kI32:
      return at::kInt;
    case Dtype::kI16:
      return at::kShort;
    case Dtype::kI8:
      return at::kChar;
    case Dtype::kU8:
      return at::kByte;
    case Dtype::kBool:
      return at::kBool;
    case Dtype::kU64:
      break;
  }
  LOCKSTEP_CHECK(false, "no LibTorch type for ", dtype_name(dtype));
  return at::kFloat;
}

// The storage order of a tensor, outermost first: kept when the tensor is row-major, channels-last
// or any other dense permutation; row-major otherwise (an expanded or sliced tensor is stored
// densely from now on).
std::vector<int64_t> storage_order(const at::Tensor& tensor) {
  std::vector<int64_t> order(static_cast<size_t>(tensor.dim()));
  std::iota(order.begin(), order.end(), 0);
  if (tensor.dim() == 4 && tensor.is_contiguous(at::MemoryFormat::ChannelsLast) &&
      tensor.suggest_memory_format() == at::MemoryFormat::ChannelsLast) {
    return {0, 2, 3, 1};
  }
  if (tensor.is_contiguous() || !tensor.is_non_overlapping_and_dense()) return order;
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return tensor.stride(a) > tensor.stride(b); });
  return order;
}

struct Found {
  at::Tensor tensor;
  TensorSpec spec;
};

Status collect(const std::string& name, const at::Tensor& tensor, bool is_parameter,
               const at::Device& device, std::vector<Found>* found, std::map<const void*, size_t>* by_identity) {
  if (!tensor.defined()) return Status::ok();
  if (auto it = by_identity->find(tensor.unsafeGetTensorImpl()); it != by_identity->end()) {
    (*found)[it->second].spec.aliases.push_back(name);
    return Status::ok();
  }
  auto dtype = dtype_of(tensor.scalar_type());
  if (!dtype) {
    return invalid_argument_error(
        cat("tensor '", name, "' has dtype ", c10::toString(tensor.scalar_type()),
            ", which has no flat space; convert it, or keep it out of the module"));
  }
  if (tensor.device() != device) {
    return invalid_argument_error(cat("tensor '", name, "' lies on device ", tensor.device().str(),
                                      ", but training is to be on ", device.str(),
                                      ": move the module there first (module.to(...))"));
  }
  TensorSpec spec;
  spec.name = name;
  spec.dtype = *dtype;
  spec.shape = tensor.sizes().vec();
  spec.order = storage_order(tensor);
  spec.role = !is_parameter ? SpaceRole::kBuffer
                            : (tensor.requires_grad() ? SpaceRole::kTrainable : SpaceRole::kFrozen);
  by_identity->emplace(tensor.unsafeGetTensorImpl(), found->size());
  found->push_back({tensor, std::move(spec)});
  return Status::ok();
}

// Two tensors in the same memory that are not one tensor would part when they are moved.
Status check_apart(const std::vector<Found>& found) {
  struct Extent {
    const std::byte *first, *end;
    const std::string* name;
  };
  std::vector<Extent> extents;
  for (const Found& item : found) {
    int64_t span_elems = 1;
    for (int64_t i = 0; i < item.tensor.dim(); ++i) {
      if (item.tensor.size(i) > 1 && item.tensor.stride(i) == 0) {
        return invalid_argument_error(cat("tensor '", item.spec.name, "' is expanded: dimension ",
                                          i, " repeats the same memory; register a clone() of it"));
      }
      span_elems += (item.tensor.size(i) - 1) * item.tensor.stride(i);
    }
    if (item.tensor.numel() == 0) continue;
    const auto* first = static_cast<const std::byte*>(item.tensor.const_data_ptr());
    extents.push_back({first, first + span_elems * item.tensor.element_size(), &item.spec.name});
  }
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.first < b.first; });
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i - 1].end <= extents[i].first) continue;
    return invalid_argument_error(
        cat("tensors '", *extents[i - 1].name, "' and '", *extents[i].name,
            "' share memory; tie parameters by registering one tensor under both names, or give "
            "one of them a clone()"));
  }
  return Status::ok();
}

}  // namespace

Result<FlatModel> FlatModel::make(torch::nn::Module& module, std::string_view device_name) {
  const at::Device device{std::string(device_name)};
  std::vector<Found> found;
  std::map<const void*, size_t> by_identity;
  for (const auto& item : module.named_parameters()) {
    LOCKSTEP_RETURN_IF_ERROR(collect(item.key(), item.value(), true, device, &found, &by_identity));
  }
  for (const auto& item : module.named_buffers()) {
    LOCKSTEP_RETURN_IF_ERROR(collect(item.key(), item.value(), false, device, &found, &by_identity));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_apart(found));
  std::vector<TensorSpec> specs;
  std::map<std::string, at::Tensor> by_name;
  for (const auto& item : found) {
    specs.push_back(item.spec);
    by_name[item.spec.name] = item.tensor;
  }
  FlatModel model;
  LOCKSTEP_ASSIGN_OR_RETURN(model.layout_, FlatLayout::plan(specs));
  at::NoGradGuard no_grad;
  const auto& spaces = model.layout_.spaces();
  for (size_t s = 0; s < spaces.size(); ++s) {
    at::Tensor flat =
        at::zeros({spaces[s].num_elems},
                  at::TensorOptions(scalar_type_of(spaces[s].dtype)).device(device));
    model.storages_.push_back(flat);
    for (size_t t = 0; t < spaces[s].tensors.size(); ++t) {
      at::Tensor tensor = by_name.at(spaces[s].tensors[t].spec.name);
      at::Tensor place = model.view(flat, static_cast<int>(s), static_cast<int>(t));
      place.copy_(tensor);
      tensor.set_data(place);
      model.tensors_.push_back(
          {tensor, static_cast<int>(s), static_cast<int>(t), tensor.const_data_ptr()});
    }
  }
  return model;
}

at::Tensor FlatModel::view(const at::Tensor& flat, int space_index, int tensor_index) const {
  const TensorPlace& place =
      layout_.spaces()[static_cast<size_t>(space_index)].tensors[static_cast<size_t>(tensor_index)];
  return at::as_strided(flat, place.spec.shape, place.spec.strides(), place.offset_elems);
}

void FlatModel::check_still_flat() const {
  for (const PlacedTensor& item : tensors_) {
    LOCKSTEP_CHECK(item.tensor.const_data_ptr() == item.data, "the memory of '",
                   layout_.spaces()[static_cast<size_t>(item.space_index)]
                       .tensors[static_cast<size_t>(item.tensor_index)]
                       .spec.name,
                   "' was replaced after DataParallel took over the module; convert, load or reset "
                   "the module before, not after");
  }
}

}  // namespace lockstep
