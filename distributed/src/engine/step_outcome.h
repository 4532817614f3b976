#pragma once
// From the messages of all ranks to what the step came to. Pure: every rank computes it from the
// same bytes, in micro-batch and block order, so that it is the same on every rank and for every
// number of them.

#include <span>
#include <string>
#include <vector>

#include "lockstep/distributed/data_parallel.h"
#include "step_message.h"

namespace lockstep {

/// Fills `out` (whose step is set) from `messages`, in rank order.
void settle_step(const std::vector<StepMessage>& messages,
                 std::span<const DataParallel::TrainableSpace> spaces,
                 const std::vector<std::string>& parameter_names, StepGradients* out);

}  // namespace lockstep
