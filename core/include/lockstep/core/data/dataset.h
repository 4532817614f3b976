#pragma once
// Dataset: numbered samples that never change while a run lasts. What it returns for a sample
// depends on the sample's number and the recipe alone (never on a rank, an order of calls or the
// library's random numbers); randomness, where a data set wants it, comes from Rng(seed, sample
// number) (rng.h).

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/data/batch.h"

namespace lockstep {

/// What a model has to know of a data set's samples.
struct SampleSpec {
  std::vector<int64_t> input_shape;  ///< of one sample, e.g. {1, 28, 28} or {10}
  int64_t num_classes = 0;           ///< targets are class indices 0 .. num_classes - 1
  bool operator==(const SampleSpec&) const = default;
};

/// Thread-safety: all functions are const and may be called from several threads at once.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t num_samples() const = 0;
  virtual const SampleSpec& spec() const = 0;
  /// The named samples, in the order named, in row-major tensors.
  /// Requires: each index in [0, num_samples()); indices may repeat. Errors: those of the source,
  /// with its path.
  virtual Result<Batch> batch(std::span<const int64_t> sample_indices) const = 0;
  /// One line that tells this content and pre-processing from any other: part of the recipe hash.
  /// Equal text means equal samples. It holds no path, so that a copied file is the same data set.
  virtual std::string identity() const = 0;
};

/// The two parts of a data set; both have the same SampleSpec.
struct DatasetSplits {
  std::unique_ptr<Dataset> train;
  std::unique_ptr<Dataset> test;
};

}  // namespace lockstep
