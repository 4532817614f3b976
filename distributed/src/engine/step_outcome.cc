#include "step_outcome.h"

#include <cmath>

#include "lockstep/core/flat/norms.h"

namespace lockstep {
namespace {

double gradient_norm_of_sum(const std::vector<StepMessage>& messages,
                            std::span<const DataParallel::TrainableSpace> spaces) {
  std::vector<size_t> next(messages.size(), 0);
  std::vector<double> totals;
  for (const DataParallel::TrainableSpace& space : spaces) {
    std::vector<double> sums(static_cast<size_t>(space.space->num_blocks()));
    for (size_t r = 0; r < messages.size(); ++r) {
      for (BlockRun run : space.plan->owned(static_cast<int>(r))) {
        for (int64_t b = run.first; b < run.end; ++b) {
          sums[static_cast<size_t>(b)] = messages[r].block_sums[next[r]++];
        }
      }
    }
    totals.push_back(fold_block_sums(sums));
  }
  return std::sqrt(fold_block_sums(totals));
}

}  // namespace

void settle_step(const std::vector<StepMessage>& messages,
                 std::span<const DataParallel::TrainableSpace> spaces,
                 const std::vector<std::string>& parameter_names, StepGradients* out) {
  double weighted_loss = 0;
  for (const StepMessage& message : messages) {
    for (size_t i = 0; i < message.losses.size(); ++i) {
      double loss = message.losses[i];
      if (!std::isfinite(loss) && out->first_bad_micro_batch < 0) {
        out->first_bad_micro_batch = static_cast<int64_t>(out->micro_batch_losses.size());
      }
      out->micro_batch_losses.push_back(loss);
      weighted_loss += loss * message.weights[i];
      out->total_weight += message.weights[i];
    }
    out->flags |= message.flags;
  }
  out->mean_loss = weighted_loss / out->total_weight;
  out->gradient_norm = gradient_norm_of_sum(messages, spaces) / out->total_weight;
  out->is_finite = out->first_bad_micro_batch < 0 && std::isfinite(out->gradient_norm);
  for (size_t p = 0; p < parameter_names.size(); ++p) {
    bool used = false;
    for (const StepMessage& message : messages) used = used || message.parameter_used[p];
    if (!used) out->unused_parameters.push_back(parameter_names[p]);
  }
}

}  // namespace lockstep
