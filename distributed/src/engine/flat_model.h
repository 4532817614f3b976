#pragma once
// FlatModel: a module's tensors laid into flat memory. After construction every parameter and
// buffer of the module is a view of its space's one storage, at the offset that the FlatLayout
// says. Must not know: ranks, gradients.

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/flat/layout.h"

namespace torch::nn {
class Module;
}

namespace lockstep {

/// A tensor of the module with its place in the layout.
struct PlacedTensor {
  at::Tensor tensor;  ///< the module's own handle: shares its TensorImpl
  int space_index = 0;
  int tensor_index = 0;        ///< within the space
  const void* data = nullptr;  ///< where it must lie
};

class FlatModel {
 public:
  /// Lays out and moves `module`'s tensors, keeping their values. Errors: kInvalidArgument naming
  /// the tensor (a dtype that has no name here, one that is not on `device`, an expanded tensor, two
  /// tensors that share memory without being one).
  static Result<FlatModel> make(torch::nn::Module& module, std::string_view device = "cpu");

  const FlatLayout& layout() const { return layout_; }
  /// One flat tensor a space, in the layout's order.
  const std::vector<at::Tensor>& storages() const { return storages_; }
  const std::vector<PlacedTensor>& tensors() const { return tensors_; }
  /// A view of `flat` (as long as the space) in the shape and order of a tensor of that space.
  at::Tensor view(const at::Tensor& flat, int space_index, int tensor_index) const;
  /// Throws UsageError naming the tensor when its memory is no longer the flat one.
  void check_still_flat() const;

 private:
  FlatLayout layout_;
  std::vector<at::Tensor> storages_;
  std::vector<PlacedTensor> tensors_;
};

}  // namespace lockstep
