#include "lockstep/core/data/fashion_mnist.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/idx.h"

namespace lockstep {
namespace {

constexpr int64_t kSide = 28;
constexpr int64_t kPixels = kSide * kSide;
constexpr int64_t kNumClasses = 10;

class FashionMnist final : public Dataset {
 public:
  FashionMnist(IdxArray images, IdxArray labels)
      : images_(std::move(images)), labels_(std::move(labels)) {
    for (size_t value = 0; value < normalised_.size(); ++value)
      normalised_[value] = static_cast<float>(
          (static_cast<double>(value) / 255 - kFashionMnistMean) / kFashionMnistStd);
    identity_ = cat("fashion_mnist v1 mean=", kFashionMnistMean, " std=", kFashionMnistStd,
                    " samples=", num_samples(),
                    " images=", xxh3_128(std::as_bytes(std::span(images_.values))).hex(),
                    " labels=", xxh3_128(std::as_bytes(std::span(labels_.values))).hex());
  }

  int64_t num_samples() const override { return labels_.dims[0]; }
  const SampleSpec& spec() const override { return spec_; }
  std::string identity() const override { return identity_; }

  Result<Batch> batch(std::span<const int64_t> sample_indices) const override {
    int64_t size = static_cast<int64_t>(sample_indices.size());
    Batch batch{.inputs = at::empty({size, 1, kSide, kSide}, at::kFloat),
                .targets = at::empty({size}, at::kLong),
                .num_samples = size};
    float* pixel = batch.inputs.mutable_data_ptr<float>();
    int64_t* target = batch.targets.mutable_data_ptr<int64_t>();
    for (int64_t index : sample_indices) {
      LOCKSTEP_CHECK(index >= 0 && index < num_samples(), "sample ", index, " of ", num_samples());
      const uint8_t* image = images_.values.data() + index * kPixels;
      pixel = std::transform(image, image + kPixels, pixel,
                             [this](uint8_t value) { return normalised_[value]; });
      *target++ = labels_.values[static_cast<size_t>(index)];
    }
    return batch;
  }

 private:
  IdxArray images_;
  IdxArray labels_;
  SampleSpec spec_{.input_shape = {1, kSide, kSide}, .num_classes = kNumClasses};
  std::array<float, 256> normalised_;
  std::string identity_;
};

Status with_advice(const Status& status) {
  if (status.code() != StatusCode::kNotFound) return status;
  return not_found_error(
      cat(status.message(),
          "; set data.path to the folder of the four Fashion-MNIST files (the Debian "
          "package dataset-fashion-mnist puts them in /usr/share/datasets/fashion-mnist)"));
}

Result<std::unique_ptr<Dataset>> open_part(FileSystem& fs, const std::string& folder,
                                           const std::string& part) {
  std::string images_path = path_join(folder, cat(part, "-images-idx3-ubyte.gz"));
  std::string labels_path = path_join(folder, cat(part, "-labels-idx1-ubyte.gz"));
  constexpr std::array<int64_t, 3> kImageDims = {-1, kSide, kSide};
  constexpr std::array<int64_t, 1> kLabelDims = {-1};
  Result<IdxArray> labels = read_idx_gz(fs, labels_path, kLabelDims);
  if (!labels.is_ok()) return with_advice(labels.status());
  for (size_t i = 0; i < labels->values.size(); ++i)
    if (labels->values[i] >= kNumClasses)
      return corruption_error(cat(labels_path, ": label ", i, " is out of range: expected 0 to ",
                                  kNumClasses - 1, ", found ", labels->values[i]));
  Result<IdxArray> images = read_idx_gz(fs, images_path, kImageDims);
  if (!images.is_ok()) return with_advice(images.status());
  if (images->dims[0] != labels->dims[0])
    return corruption_error(cat(images_path, " has ", images->dims[0], " images, but ", labels_path,
                                " has ", labels->dims[0], " labels; they are not of one data set"));
  return std::unique_ptr<Dataset>(
      std::make_unique<FashionMnist>(std::move(images).value(), std::move(labels).value()));
}

}  // namespace

Result<DatasetSplits> open_fashion_mnist(FileSystem& fs, const std::string& folder) {
  DatasetSplits splits;
  LOCKSTEP_ASSIGN_OR_RETURN(splits.train, open_part(fs, folder, "train"));
  LOCKSTEP_ASSIGN_OR_RETURN(splits.test, open_part(fs, folder, "t10k"));
  return splits;
}

}  // namespace lockstep
