// Who waits for a parameter that is on its way: every operation that reads it, no other.
#include "parameter_gate.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

namespace lockstep {
namespace {

constexpr int64_t kElems = 12;
constexpr int64_t kNumBuckets = 3;

class Gate : public ::testing::Test {
 protected:
  Gate() : flat_(at::zeros({kElems * kNumBuckets})) {
    std::vector<std::span<const std::byte>> buckets;
    for (int64_t i = 0; i < kNumBuckets; ++i) {
      const at::Tensor bucket = flat_.slice(0, i * kElems, (i + 1) * kElems);
      buckets.emplace_back(static_cast<const std::byte*>(bucket.const_data_ptr()), bucket.nbytes());
    }
    gate_.emplace(host_device(), std::move(buckets));
  }
  /// Elements of the flat memory, as a parameter sees them.
  at::Tensor parameter(int64_t first, int64_t num_elems) const {
    return flat_.slice(0, first, first + num_elems);
  }
  void arrive(int64_t bucket) {
    auto* values = flat_.mutable_data_ptr<float>();
    std::fill(values + bucket * kElems, values + (bucket + 1) * kElems, 1.0F);
    gate_->open(static_cast<size_t>(bucket));
  }
  /// Whether `operation` returned only after `bucket` had arrived.
  bool waits_for(int64_t bucket, const std::function<at::Tensor()>& operation) {
    gate_->watch();
    gate_->close(static_cast<size_t>(bucket));
    std::atomic<bool> has_arrived = false;
    std::thread sender([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      has_arrived = true;
      arrive(bucket);
    });
    last_ = operation();
    const bool has_waited = has_arrived;
    sender.join();
    gate_->rest();
    return has_waited;
  }

  at::Tensor flat_;
  std::optional<ParameterGate> gate_;
  at::Tensor last_;
};

TEST_F(Gate, AnOperationWaitsForWhatItReads) {
  const at::Tensor read = parameter(12, 12);
  EXPECT_TRUE(waits_for(1, [&] { return read.add(1); }));
  EXPECT_TRUE(last_.eq(2).all().item<bool>());
  EXPECT_GT(gate_->take_waited_ms(), 1);
  EXPECT_EQ(gate_->take_waited_ms(), 0);
}

TEST_F(Gate, AndForNothingElse) {
  const at::Tensor first = parameter(0, 12);
  const at::Tensor last = parameter(24, 12);
  EXPECT_FALSE(waits_for(1, [&] { return first.add(last); }));
  EXPECT_FALSE(waits_for(2, [&] { return at::ones({5}).add(1); }));
  EXPECT_EQ(gate_->take_waited_ms(), 0);
}

TEST_F(Gate, AParameterOfTwoBucketsWaitsForBoth) {
  const at::Tensor across = parameter(6, 12);
  EXPECT_TRUE(waits_for(0, [&] { return across.add(1); }));
  EXPECT_TRUE(waits_for(1, [&] { return across.add(1); }));
  EXPECT_FALSE(waits_for(2, [&] { return across.add(1); }));
}

TEST_F(Gate, ViewsListsAndOptionalInputsAreReadToo) {
  const at::Tensor weight = parameter(12, 12).view({3, 4});
  const at::Tensor bias = parameter(24, 3);
  EXPECT_TRUE(waits_for(1, [&] { return at::linear(at::ones({2, 4}), weight, bias); }));
  EXPECT_TRUE(waits_for(2, [&] { return at::linear(at::ones({2, 4}), weight, bias); }));
  EXPECT_TRUE(waits_for(1, [&] { return at::linear(at::ones({2, 3}), weight.t()); }));
  EXPECT_TRUE(waits_for(2, [&] { return at::cat({at::ones({2}), bias}); }));
}

TEST_F(Gate, BucketsMayArriveInAnyOrder) {
  std::vector<at::Tensor> parts;
  for (int64_t bucket = 0; bucket < kNumBuckets; ++bucket)
    parts.push_back(parameter(bucket * kElems, kElems));
  gate_->watch();
  for (size_t bucket = 0; bucket < parts.size(); ++bucket) gate_->close(bucket);
  std::thread sender([&] {
    for (int64_t bucket : {2, 0, 1}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      arrive(bucket);
    }
  });
  for (int64_t bucket : {0, 1, 2})
    EXPECT_EQ(parts[static_cast<size_t>(bucket)].sum().item<float>(), kElems) << bucket;
  sender.join();
}

TEST_F(Gate, AGateAtRestIsNotAsked) {
  gate_->watch();
  gate_->close(0);
  gate_->rest();
  EXPECT_TRUE(at::hasThreadLocalCallbacks()) << "a closed bucket is still watched";
  gate_->open(0);
  gate_->rest();
  EXPECT_FALSE(at::hasThreadLocalCallbacks());
}

}  // namespace
}  // namespace lockstep
