#include "parallel_start.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr double kMaxBucketMib = 1 << 20;
constexpr int64_t kMaxMicroBatches = 1 << 20;

}  // namespace

void set_compute_mode(int intra_op_threads) {
  if (at::get_num_threads() != intra_op_threads) at::set_num_threads(intra_op_threads);
  auto& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  context.setDeterministicFillUninitializedMemory(false);
  context.setBenchmarkCuDNN(false);
  context.setFlushDenormal(false);
}

Status check_options(const DataParallelOptions& options, int world_size) {
  if (options.micro_batches_per_step < 1 || options.leaf_micro_batches < 1 ||
      options.intra_op_threads < 1) {
    return invalid_argument_error(cat("micro_batches_per_step (", options.micro_batches_per_step,
                                      "), leaf_micro_batches (", options.leaf_micro_batches,
                                      ") and intra_op_threads (", options.intra_op_threads,
                                      ") must be at least 1"));
  }
  if (!(options.timeout_s > 0) ||
      !(options.bucket_mib >= 0 && options.bucket_mib <= kMaxBucketMib)) {
    return invalid_argument_error(cat("timeout_s (", options.timeout_s,
                                      ") must be positive and bucket_mib (", options.bucket_mib,
                                      ") from 0 to ", kMaxBucketMib));
  }
  if (options.micro_batches_per_step > kMaxMicroBatches) {
    return invalid_argument_error(cat("micro_batches_per_step (", options.micro_batches_per_step,
                                      ") must be at most ", kMaxMicroBatches));
  }
  if (options.leaf_dtype != LeafDtype::kExact && options.reduction != Reduction::kTree) {
    return invalid_argument_error(
        "leaves rounded to bf16 are added along the tree; the native reduction knows none");
  }
  int64_t leaves = (options.micro_batches_per_step - 1) / options.leaf_micro_batches + 1;
  if (world_size > leaves) {
    return invalid_argument_error(
        cat(world_size, " ranks, but a step has only ", leaves,
            " leaves to share out (micro_batches_per_step = ", options.micro_batches_per_step,
            ", leaf_micro_batches = ", options.leaf_micro_batches, "); start at most ", leaves,
            " ranks, or raise micro_batches_per_step (and lower micro_batch_size to keep the "
            "global batch)"));
  }
  return Status::ok();
}

Status check_dtypes(const FlatLayout& layout) {
  for (const FlatSpace& space : layout.spaces()) {
    if (space.role == SpaceRole::kBuffer &&
        (space.dtype == Dtype::kBF16 || space.dtype == Dtype::kF16)) {
      return invalid_argument_error(cat("buffer '", space.tensors[0].spec.name, "' is ",
                                        dtype_name(space.dtype),
                                        "; its mean over micro-batches needs F32 or F64"));
    }
    if (space.role != SpaceRole::kTrainable || space.dtype == Dtype::kF32 ||
        space.dtype == Dtype::kF64) {
      continue;
    }
    return invalid_argument_error(cat("trainable parameter '", space.tensors[0].spec.name, "' is ",
                                      dtype_name(space.dtype),
                                      "; trainable parameters must be F32 or F64"));
  }
  return Status::ok();
}

std::vector<std::string> fingerprint(const FlatLayout& layout, const DataParallelOptions& options) {
  std::vector<std::string> lines = split(layout.canonical_text(), '\n');
  lines.push_back(cat("seed ", options.seed));
  lines.push_back(cat("micro_batches_per_step ", options.micro_batches_per_step));
  lines.push_back(cat("leaf_micro_batches ", options.leaf_micro_batches));
  lines.push_back(cat("reduction ", options.reduction == Reduction::kTree ? "tree" : "native"));
  lines.push_back(cat("leaves rounded to bf16 ", options.leaf_dtype == LeafDtype::kBf16));
  lines.push_back(cat("bucket_mib ", options.bucket_mib));
  lines.push_back(cat("timeout_s ", options.timeout_s));
  lines.push_back(cat("broadcast_initial_weights ", options.broadcast_initial_weights));
  lines.push_back(cat("intra_op_threads ", options.intra_op_threads));
  lines.push_back(cat("on a GPU ", options.accelerator != nullptr));
  if (options.accelerator != nullptr) {
    for (const auto& [name, value] : options.accelerator->facts())
      lines.push_back(cat(name, " ", value));
  }
  lines.push_back(cat("LibTorch ", TORCH_VERSION));
  lines.push_back(cat("instruction set ", instruction_set()));
  return lines;
}

}  // namespace lockstep
