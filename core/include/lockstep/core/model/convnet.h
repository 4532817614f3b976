#pragma once
// convnet: the small image classifier of the main job. Two 3x3 convolutions of 32 and 64 channels,
// each followed by a 2x2 max pool and ReLU, then 128 hidden units. 421,642 parameters for 1x28x28
// images and 10 classes.

#include <memory>

#include "lockstep/core/base/status.h"
#include "lockstep/core/data/dataset.h"
#include "lockstep/core/model/model.h"

namespace lockstep {

struct ConvnetOptions {
  double dropout = 0;       ///< before the last layer, in [0, 1)
  bool batch_norm = false;  ///< after each convolution
};

/// Shapes: inputs [b, channels, height, width], height and width at least 4; outputs [b, classes].
/// Initial weights are drawn from the library's generator: seed it before. Errors: kInvalidArgument
/// for other inputs, or a dropout outside [0, 1).
Result<std::unique_ptr<TrainableModel>> make_convnet(const ConvnetOptions& options,
                                                     const SampleSpec& spec);

}  // namespace lockstep
