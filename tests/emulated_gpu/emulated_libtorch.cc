// LibTorch's operations on the emulated GPU: its kernels for GPUs give way to those for the
// processor, on the same memory. What allocates, makes views or copies stays LibTorch's own, with
// its allocator and its streams.
#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::emulated_gpu {
namespace {

// The same memory as a tensor of the processor, once the GPU has come to it.
at::Tensor on_host(const at::Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       tensor.options().device(at::kCPU).requires_grad(false).pinned_memory(false));
}

at::Tensor on_gpu(const at::Tensor& tensor) {
  at::Tensor there =
      at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(at::kCUDA));
  on_host(there).copy_(tensor);
  return there;
}

/// Tensors of one call and what stands for them on the processor.
class Twins {
 public:
  at::Tensor host_of(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cuda()) return tensor;
    twins_.emplace_back(tensor, on_host(tensor));
    return twins_.back().second;
  }
  at::Tensor gpu_of(const at::Tensor& tensor) const {
    if (!tensor.defined()) return tensor;
    for (const auto& [gpu, host] : twins_) {
      if (host.is_same(tensor)) return gpu;
    }
    return on_gpu(tensor);
  }

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> twins_;
};

template <typename F>
c10::IValue with_tensors(const c10::IValue& value, const F& replace) {
  if (value.isTensor()) return replace(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(replace(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
      list.push_back(tensor ? std::optional(replace(*tensor)) : std::nullopt);
    return list;
  }
  return value;
}

void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/,
                 torch::jit::Stack* stack) {
  c10::cuda::getCurrentCUDAStream().synchronize();
  Twins twins;
  const auto replace_top = [&](size_t count, const auto& replace) {
    for (size_t i = stack->size() - count; i < stack->size(); ++i)
      (*stack)[i] = with_tensors((*stack)[i], replace);
  };
  replace_top(op.schema().arguments().size(),
              [&](const at::Tensor& t) { return twins.host_of(t); });
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  replace_top(op.schema().returns().size(), [&](const at::Tensor& t) { return twins.gpu_of(t); });
}

/// Copies that LibTorch does without a kernel are its own.
at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  const bool is_plain = to.scalar_type() == from.scalar_type() && to.sizes() == from.sizes() &&
                        to.strides() == from.strides() && to.is_non_overlapping_and_dense();
  if (is_plain) return at::native::copy_(to, from, non_blocking);
  c10::cuda::getCurrentCUDAStream().synchronize();
  at::Tensor to_here = to.is_cuda() ? on_host(to) : to;
  at::native::copy_(to_here, from.is_cuda() ? on_host(from) : from, false);
  return to;
}

bool is_about_memory(const std::string& name) {
  static const std::set<std::string> names = {
      "aten::empty",          "aten::empty_strided", "aten::as_strided",   "aten::view",
      "aten::_reshape_alias", "aten::resize_",       "aten::set_",         "aten::unfold",
      "aten::copy_",          "aten::is_set_to",     "aten::view_as_real", "aten::view_as_complex",
      "aten::is_pinned",      "aten::_pin_memory"};
  return names.contains(name);
}

struct Registered {
  Registered() {
    c10::WarningUtils::WarningHandlerGuard quiet(&ignored);
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const c10::OperatorName& name :
         dispatcher.getAllOpNamesForDispatchKey(c10::DispatchKey::CUDA)) {
      const auto op = dispatcher.findSchema(name);
      if (!op || is_about_memory(name.name) || !op->hasKernelForDispatchKey(c10::DispatchKey::CPU))
        continue;
      handles.push_back(dispatcher.registerImpl(
          name, c10::DispatchKey::CUDA, c10::KernelFunction::makeFromBoxedFunction<&run_on_host>(),
          std::nullopt, nullptr, "an emulated GPU"));
    }
    handles.push_back(
        dispatcher.registerImpl({"aten::copy_", ""}, c10::DispatchKey::CUDA,
                                c10::KernelFunction::makeFromUnboxedRuntimeFunction(&copy),
                                std::nullopt, nullptr, "an emulated GPU"));
    at::globalContext().setUserEnabledCuDNN(false);
  }

  struct Ignored : c10::WarningHandler {
    void process(const c10::Warning& /*warning*/) override {}
  } ignored;
  std::vector<c10::RegistrationHandleRAII> handles;
};

// After LibTorch's own, which this library is linked to; to the end of the process.
[[maybe_unused]] const Registered& registered = *new Registered;

}  // namespace
}  // namespace lockstep::emulated_gpu
