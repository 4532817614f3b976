#include "lockstep/core/data/loader.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>

#include "lockstep/core/base/deadline.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// Sample i is the 1x2x2 image of all i; counts its calls, holds them up at a gate, and fails on
/// request.
class CountingDataset final : public Dataset {
 public:
  explicit CountingDataset(int64_t num_samples) : num_samples_(num_samples) {}
  int64_t num_samples() const override { return num_samples_; }
  const SampleSpec& spec() const override { return spec_; }
  std::string identity() const override { return "counting"; }
  Result<Batch> batch(std::span<const int64_t> indices) const override {
    std::unique_lock lock(mutex_);
    ++num_calls_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return num_calls_ <= num_allowed_; });
    if (should_throw) throw std::runtime_error("thrown below");
    if (should_fail) return io_error("/disk: gone");
    int64_t size = static_cast<int64_t>(indices.size());
    Batch batch{.inputs = at::empty({size, 1, 2, 2}),
                .targets = at::empty({size}, at::kLong),
                .num_samples = size};
    for (int64_t i = 0; i < size; ++i) {
      batch.inputs[i].fill_(static_cast<double>(indices[static_cast<size_t>(i)]));
      batch.targets[i].fill_(indices[static_cast<size_t>(i)]);
    }
    return batch;
  }
  void allow(int64_t num_calls) {
    std::lock_guard lock(mutex_);
    num_allowed_ = num_calls;
    changed_.notify_all();
  }
  bool wait_for_calls(int64_t num_calls) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20),
                             [&] { return num_calls_ >= num_calls; });
  }
  int64_t num_calls() const {
    std::lock_guard lock(mutex_);
    return num_calls_;
  }
  std::atomic<bool> should_fail = false;
  std::atomic<bool> should_throw = false;

 private:
  int64_t num_samples_;
  SampleSpec spec_{.input_shape = {1, 2, 2}, .num_classes = 2};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int64_t num_calls_ = 0;
  int64_t num_allowed_ = 1'000'000;
};

class Loader : public testing::Test {
 protected:
  std::vector<int64_t> targets_of(BatchLoader& loader, MicroBatchId id) {
    Result<Batch> batch = loader.get(id);
    EXPECT_TRUE(batch.is_ok()) << batch.status().to_string();
    const int64_t* data = batch->targets.const_data_ptr<int64_t>();
    return {data, data + batch->num_samples};
  }
  void expect_right(BatchLoader& loader, MicroBatchId id) {
    EXPECT_EQ(targets_of(loader, id), sampler_.sample_indices(id.step, id.micro_batch))
        << "step " << id.step << " micro-batch " << id.micro_batch;
  }
  CountingDataset dataset_{100};
  Sampler sampler_ = Sampler::make(100, 4, 6, 1).value();
  LoaderOptions options_{.first_micro_batch = 2, .end_micro_batch = 4, .end_step = 10};
};

TEST_F(Loader, GivesTheSamplersBatchesInOrder) {
  BatchLoader loader(dataset_, sampler_, options_);
  for (int64_t step = 0; step < 10; ++step)
    for (int64_t i : {2, 3}) expect_right(loader, {step, i});
  EXPECT_EQ(dataset_.num_calls(), 20) << "nothing made twice, nothing made after the end";
}

TEST_F(Loader, MakesNothingBeforeTheFirstGetAndNoMoreThanItsBoundAhead) {
  options_.num_batches_ahead = 3;
  BatchLoader loader(dataset_, sampler_, options_);
  EXPECT_EQ(dataset_.num_calls(), 0);
  expect_right(loader, {5, 2});
  ASSERT_TRUE(dataset_.wait_for_calls(4));
  dataset_.allow(4);
  sleep_ns(20'000'000);
  EXPECT_EQ(dataset_.num_calls(), 4) << "one taken, three waiting";
}

TEST_F(Loader, WorksAheadOfTheCaller) {
  BatchLoader loader(dataset_, sampler_, options_);
  expect_right(loader, {0, 2});
  ASSERT_TRUE(dataset_.wait_for_calls(5));
  // The fifth call may still be under way; the three before it are done.
  for (MicroBatchId id : {MicroBatchId{0, 3}, {1, 2}, {1, 3}}) expect_right(loader, id);
  EXPECT_EQ(loader.num_waits(), 1);
}

TEST_F(Loader, FollowsTheCallerBackAndForth) {
  BatchLoader loader(dataset_, sampler_, options_);
  for (MicroBatchId id :
       {MicroBatchId{3, 2}, {3, 3}, {1, 2}, {1, 3}, {7, 3}, {7, 3}, {8, 2}, {0, 2}})
    expect_right(loader, id);
}

TEST_F(Loader, ChangesCourseWhileABatchIsBeingMade) {
  dataset_.allow(1);
  BatchLoader loader(dataset_, sampler_, options_);
  expect_right(loader, {0, 2});
  ASSERT_TRUE(dataset_.wait_for_calls(2));
  dataset_.allow(1'000'000);
  // Whether or not {0, 3} was done by now, it must not be taken for {6, 2}.
  expect_right(loader, {6, 2});
  expect_right(loader, {6, 3});
}

TEST_F(Loader, MakesBatchesBeyondTheForecastOnDemand) {
  BatchLoader loader(dataset_, sampler_, options_);
  expect_right(loader, {12, 2});
  EXPECT_EQ(dataset_.num_calls(), 1);
}

TEST_F(Loader, GivesInputsInTheFormatAsked) {
  options_.memory_format = at::MemoryFormat::ChannelsLast;
  BatchLoader loader(dataset_, sampler_, options_);
  Result<Batch> batch = loader.get({0, 2});
  ASSERT_TRUE(batch.is_ok());
  EXPECT_EQ(batch->inputs.suggest_memory_format(), at::MemoryFormat::ChannelsLast);
}

TEST_F(Loader, ReportsErrorsWithTheirPlaceAndTriesAgain) {
  BatchLoader loader(dataset_, sampler_, options_);
  dataset_.should_fail = true;
  Status status = loader.get({4, 3}).status();
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("step 4"), HasSubstr("micro-batch 3"), HasSubstr("/disk: gone")));
  dataset_.should_fail = false;
  expect_right(loader, {4, 3});
  expect_right(loader, {5, 2});
}

TEST_F(Loader, TurnsAnExceptionIntoAnError) {
  BatchLoader loader(dataset_, sampler_, options_);
  dataset_.should_throw = true;
  Status status = loader.get({0, 2}).status();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("thrown below"));
}

TEST_F(Loader, NamesTheDataSetThatDoesNotAnswerInTime) {
  options_.timeout_s = 0.05;
  dataset_.allow(0);
  BatchLoader loader(dataset_, sampler_, options_);
  Status status = loader.get({3, 2}).status();
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("step 3"), HasSubstr("counting")));
  dataset_.allow(1'000'000);
  expect_right(loader, {3, 2});
}

TEST_F(Loader, StopsWithAFullQueueAndRefusesFurtherGets) {
  BatchLoader loader(dataset_, sampler_, options_);
  expect_right(loader, {0, 2});
  ASSERT_TRUE(dataset_.wait_for_calls(2));
  loader.stop();
  loader.stop();
  EXPECT_EQ(loader.get({0, 3}).status().code(), StatusCode::kAborted);
}

TEST_F(Loader, RefusesAMicroBatchOfAnotherRank) {
  BatchLoader loader(dataset_, sampler_, options_);
  EXPECT_THROW((void)loader.get({0, 1}), UsageError);
  EXPECT_THROW((void)loader.get({0, 4}), UsageError);
  options_.end_micro_batch = 7;
  EXPECT_THROW(BatchLoader(dataset_, sampler_, options_), UsageError);
}

}  // namespace
}  // namespace lockstep
