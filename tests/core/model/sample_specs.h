#pragma once
// What a sample of the data sets that models are tested for looks like.

#include "lockstep/core/data/dataset.h"

namespace lockstep {

inline const SampleSpec kFashion{.input_shape = {1, 28, 28}, .num_classes = 10};

}  // namespace lockstep
