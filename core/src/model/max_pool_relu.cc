#include "max_pool_relu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "max_pool_relu_kernel.h"

namespace lockstep {
namespace {

constexpr at::MemoryFormat kChannelsLast = at::MemoryFormat::ChannelsLast;

PoolShape pool_shape(at::IntArrayRef in_sizes) {
  return {.num_images = in_sizes[0],
          .in_height = in_sizes[2],
          .in_width = in_sizes[3],
          .num_channels = in_sizes[1]};
}

class MaxPoolRelu : public torch::autograd::Function<MaxPoolRelu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x_bcyx) {
    std::vector<int64_t> sizes = {x_bcyx.size(0), x_bcyx.size(1), x_bcyx.size(2) / 2,
                                  x_bcyx.size(3) / 2};
    at::Tensor out = at::empty(sizes, x_bcyx.options().memory_format(kChannelsLast));
    at::Tensor choices =
        at::empty(sizes, out.options().dtype(at::kByte).memory_format(kChannelsLast));
    max_pool_relu_forward(best_kernel_variant(), pool_shape(x_bcyx.sizes()),
                          x_bcyx.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                          choices.mutable_data_ptr<uint8_t>());
    context->save_for_backward({choices});
    return out;
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               const torch::autograd::tensor_list& out_grads) {
    at::Tensor choices = context->get_saved_variables()[0];
    at::Tensor out_grad = out_grads[0].contiguous(kChannelsLast);
    std::vector<int64_t> sizes = {choices.size(0), choices.size(1), 2 * choices.size(2),
                                  2 * choices.size(3)};
    at::Tensor in_grad = at::empty(sizes, out_grad.options().memory_format(kChannelsLast));
    max_pool_relu_backward(best_kernel_variant(), pool_shape(sizes),
                           out_grad.const_data_ptr<float>(), choices.const_data_ptr<uint8_t>(),
                           in_grad.mutable_data_ptr<float>());
    return {in_grad};
  }
};

bool is_fast_case(const at::Tensor& x_bcyx) {
  return x_bcyx.is_cpu() && x_bcyx.scalar_type() == at::kFloat && x_bcyx.dim() == 4 &&
         x_bcyx.size(2) % 2 == 0 && x_bcyx.size(3) % 2 == 0 &&
         x_bcyx.is_contiguous(kChannelsLast) && at::get_num_threads() == 1;
}

}  // namespace

at::Tensor max_pool_relu(const at::Tensor& x_bcyx) {
  if (is_fast_case(x_bcyx)) return MaxPoolRelu::apply(x_bcyx);
  return at::relu(at::max_pool2d(x_bcyx, 2));
}

}  // namespace lockstep
