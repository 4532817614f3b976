// Covers: core/model/tensor_memory.h
#include "lockstep/core/model/tensor_memory.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "lockstep/core/base/environment.h"

namespace lockstep {
namespace {

constexpr int64_t kMiB = 1 << 20;

at::Tensor bytes(int64_t num_bytes) {
  return at::empty({num_bytes}, at::kByte);
}

class TensorMemory : public ::testing::Test {
 protected:
  TensorMemory() { keep_tensor_memory(); }
  ~TensorMemory() override { release_tensor_memory(); }
};

/// What a heap does not give: the place is still there when something small was made in between.
TEST_F(TensorMemory, ALargeTensorIsServedAgainWhateverWasMadeInBetween) {
  void* first = bytes(64 * kMiB).data_ptr();
  std::vector<at::Tensor> small;
  for (int i = 0; i < 100; ++i) small.push_back(bytes(i * 1000));
  const at::Tensor again = bytes(64 * kMiB);
  EXPECT_EQ(again.data_ptr(), first);
  const at::Tensor at_once = bytes(64 * kMiB);
  EXPECT_NE(at_once.data_ptr(), first);
}

TEST_F(TensorMemory, ServesOneThatIsALittleSmallerAndNoOther) {
  void* first = bytes(64 * kMiB).data_ptr();
  EXPECT_NE(bytes(66 * kMiB).data_ptr(), first);
  EXPECT_NE(bytes(32 * kMiB).data_ptr(), first);
  EXPECT_EQ(bytes(58 * kMiB + 1).data_ptr(), first);
}

TEST_F(TensorMemory, ValuesStayThroughResizesAndClones) {
  at::Tensor values = at::arange(1000, at::kInt);
  values.resize_({8 * kMiB});
  values.narrow(0, 1000, 8 * kMiB - 1000).fill_(1);
  const at::Tensor copy = values.clone();
  values.resize_({16 * kMiB});
  EXPECT_TRUE(values.narrow(0, 0, 8 * kMiB).equal(copy));
  EXPECT_EQ(copy.narrow(0, 0, 1000).sum().item<int64_t>(), 999 * 1000 / 2);
}

TEST_F(TensorMemory, ManyThreadsHaveTensorsOfTheirOwn) {
  std::vector<std::thread> threads;
  for (int mine = 0; mine < 4; ++mine) {
    threads.emplace_back([mine] {
      for (int i = 0; i < 20; ++i) {
        const at::Tensor values = at::full({5 * kMiB}, mine, at::kInt);
        std::this_thread::yield();
        EXPECT_EQ(values.sum().item<int64_t>(), 5 * kMiB * mine);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(TensorMemory, WhatIsKeptIsGivenBackWhenToldSo) {
  release_tensor_memory();
  const auto before = resident_bytes();
  if (!before) GTEST_SKIP() << "the system does not say what is resident";
  bytes(256 * kMiB).fill_(1);
  EXPECT_GT(resident_bytes().value(), *before + 200 * kMiB);
  release_tensor_memory();
  EXPECT_LT(resident_bytes().value(), *before + 50 * kMiB);
}

}  // namespace
}  // namespace lockstep
