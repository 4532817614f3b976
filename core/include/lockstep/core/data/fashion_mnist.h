#pragma once
// Fashion-MNIST: 28x28 grey images of 10 kinds of clothing, as the Debian package
// dataset-fashion-mnist has them: four gzip IDX files in one folder. All images are held in memory
// as bytes (47 MB for the training part).

#include <string>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/status.h"
#include "lockstep/core/data/dataset.h"

namespace lockstep {

/// A pixel p becomes (p/255 - kFashionMnistMean) / kFashionMnistStd: mean and standard deviation of
/// the pixels of the 60,000 training images, rounded to four digits. Constants, so that a part of
/// the files means the same.
inline constexpr double kFashionMnistMean = 0.2860;
inline constexpr double kFashionMnistStd = 0.3530;

/// Opens the folder's train-* and t10k-* files. Shapes: inputs {1, 28, 28}, 10 classes.
/// Errors: those of read_idx_gz (a missing file says where to get it); kCorruption for a label
/// above 9 (with its index) and for different numbers of images and labels.
Result<DatasetSplits> open_fashion_mnist(FileSystem& fs, const std::string& folder);

}  // namespace lockstep
