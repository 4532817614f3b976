#include "lockstep/core/data/fashion_mnist.h"

#include <gmock/gmock.h>

#include <set>

#include "idx_files.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr size_t kPixels = 28 * 28;

class FashionMnist : public testing::Test {
 protected:
  FashionMnist() {
    ok(fs_.make_dir("/d"));
    write_images("train", 3);
    write_labels("train", std::string("\x00\x09\x05", 3));
    write_images("t10k", 2);
    write_labels("t10k", std::string("\x01\x02", 2));
  }
  static void ok(const Status& status) { ASSERT_TRUE(status.is_ok()) << status.to_string(); }
  /// Image i has all pixels 100 * i.
  void write_images(const std::string& part, uint32_t num_images) {
    std::string values;
    for (uint32_t i = 0; i < num_images; ++i) values.append(kPixels, static_cast<char>(100 * i));
    write_file(fs_, cat("/d/", part, "-images-idx3-ubyte.gz"),
               gzip_bytes(idx_bytes(kImagesMagic, {num_images, 28, 28}, values)));
  }
  void write_labels(const std::string& part, const std::string& labels) {
    write_file(fs_, cat("/d/", part, "-labels-idx1-ubyte.gz"),
               gzip_bytes(idx_bytes(kLabelsMagic, {static_cast<uint32_t>(labels.size())}, labels)));
  }
  std::string train_identity() {
    Result<DatasetSplits> splits = open_fashion_mnist(fs_, "/d");
    EXPECT_TRUE(splits.is_ok()) << splits.status().to_string();
    return splits->train->identity();
  }
  MemoryFileSystem fs_;
};

TEST_F(FashionMnist, GivesNormalisedImagesInTheOrderAsked) {
  Result<DatasetSplits> splits = open_fashion_mnist(fs_, "/d");
  ASSERT_TRUE(splits.is_ok()) << splits.status().to_string();
  EXPECT_EQ(splits->train->num_samples(), 3);
  EXPECT_EQ(splits->test->num_samples(), 2);
  EXPECT_EQ(splits->train->spec(), (SampleSpec{.input_shape = {1, 28, 28}, .num_classes = 10}));
  Result<Batch> batch = splits->train->batch(std::vector<int64_t>{2, 0, 2});
  ASSERT_TRUE(batch.is_ok());
  EXPECT_EQ(batch->num_samples, 3);
  EXPECT_EQ(batch->inputs.sizes(), (at::IntArrayRef{3, 1, 28, 28}));
  const float* pixels = batch->inputs.const_data_ptr<float>();
  float of_200 = static_cast<float>((200.0 / 255 - kFashionMnistMean) / kFashionMnistStd);
  float of_0 = static_cast<float>((0.0 - kFashionMnistMean) / kFashionMnistStd);
  EXPECT_EQ(pixels[0], of_200);
  EXPECT_EQ(pixels[kPixels - 1], of_200);
  EXPECT_EQ(pixels[kPixels], of_0);
  EXPECT_EQ(pixels[3 * kPixels - 1], of_200);
  const int64_t* targets = batch->targets.const_data_ptr<int64_t>();
  EXPECT_EQ((std::vector<int64_t>(targets, targets + 3)), (std::vector<int64_t>{5, 0, 5}));
}

TEST_F(FashionMnist, RefusesAnIndexOutsideAsTheCallersMistake) {
  Result<DatasetSplits> splits = open_fashion_mnist(fs_, "/d");
  ASSERT_TRUE(splits.is_ok());
  EXPECT_THROW((void)splits->train->batch(std::vector<int64_t>{3}), UsageError);
  EXPECT_THROW((void)splits->train->batch(std::vector<int64_t>{-1}), UsageError);
}

TEST_F(FashionMnist, HasAnIdentityThatFollowsTheContentAlone) {
  std::string before = train_identity();
  EXPECT_EQ(train_identity(), before);
  write_labels("train", std::string("\x00\x09\x04", 3));
  std::string with_other_label = train_identity();
  EXPECT_NE(with_other_label, before);
  write_images("train", 4);
  write_labels("train", std::string("\x00\x09\x05\x05", 4));
  EXPECT_NE(train_identity(), before);
  EXPECT_THAT(before, testing::Not(HasSubstr("/d")));
}

TEST_F(FashionMnist, SaysWhereToGetAMissingFile) {
  ok(fs_.remove("/d/t10k-images-idx3-ubyte.gz"));
  Status status = open_fashion_mnist(fs_, "/d").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("/d/t10k-images-idx3-ubyte.gz"),
                                      HasSubstr("dataset-fashion-mnist"), HasSubstr("data.path")));
}

TEST_F(FashionMnist, RefusesALabelOutOfRange) {
  write_labels("train", std::string("\x00\x0A\x05", 3));
  Status status = open_fashion_mnist(fs_, "/d").status();
  EXPECT_EQ(status.code(), StatusCode::kCorruption);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("train-labels"), HasSubstr("label 1"), HasSubstr("found 10")));
}

TEST_F(FashionMnist, RefusesUnequalNumbersOfImagesAndLabels) {
  write_labels("train", std::string("\x00\x09", 2));
  Status status = open_fashion_mnist(fs_, "/d").status();
  EXPECT_EQ(status.code(), StatusCode::kCorruption);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("3 images"), HasSubstr("2 labels")));
}

TEST_F(FashionMnist, RefusesImagesOfAnotherSize) {
  write_file(fs_, "/d/train-images-idx3-ubyte.gz",
             gzip_bytes(idx_bytes(kImagesMagic, {3, 28, 27}, std::string(3 * 28 * 27, 'x'))));
  Status status = open_fashion_mnist(fs_, "/d").status();
  EXPECT_EQ(status.code(), StatusCode::kCorruption);
  EXPECT_THAT(status.message(), HasSubstr("dimension 2: expected 28, found 27"));
}

TEST_F(FashionMnist, ReadsTheRealTestPartAsItIsDistributed) {
  const std::string folder = "/usr/share/datasets/fashion-mnist";
  Result<bool> is_there = exists(posix_file_system(), folder);
  ASSERT_TRUE(is_there.is_ok());
  if (!*is_there) GTEST_SKIP() << "the Debian package dataset-fashion-mnist is not installed";
  Result<DatasetSplits> splits = open_fashion_mnist(posix_file_system(), folder);
  ASSERT_TRUE(splits.is_ok()) << splits.status().to_string();
  EXPECT_EQ(splits->train->num_samples(), 60000);
  EXPECT_EQ(splits->test->num_samples(), 10000);
  std::vector<int64_t> every_sixth;
  for (int64_t i = 0; i < 60000; i += 6) every_sixth.push_back(i);
  Result<Batch> batch = splits->train->batch(every_sixth);
  ASSERT_TRUE(batch.is_ok());
  const float* pixels = batch->inputs.const_data_ptr<float>();
  double sum = 0, square_sum = 0;
  int64_t num_pixels = batch->inputs.numel();
  for (int64_t i = 0; i < num_pixels; ++i) {
    sum += pixels[i];
    square_sum += static_cast<double>(pixels[i]) * pixels[i];
  }
  // The constants are those of all training images, so a sixth of them comes near 0 and 1.
  EXPECT_NEAR(sum / static_cast<double>(num_pixels), 0, 0.02);
  EXPECT_NEAR(square_sum / static_cast<double>(num_pixels), 1, 0.02);
}

}  // namespace
}  // namespace lockstep
