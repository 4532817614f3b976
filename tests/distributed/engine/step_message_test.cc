#include "step_message.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <random>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

std::vector<uint64_t> bits(const std::vector<double>& values) {
  std::vector<uint64_t> bits;
  for (double value : values) bits.push_back(std::bit_cast<uint64_t>(value));
  return bits;
}

class StepMessages : public ::testing::Test {
 protected:
  int64_t up_to(int64_t n) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(n + 1));
  }
  // Any bit pattern: not-a-number with its payload, infinities, minus zero.
  std::vector<double> any_doubles(int64_t n) {
    std::vector<double> values(static_cast<size_t>(n));
    for (double& value : values) value = std::bit_cast<double>(random_());
    return values;
  }
  StepMessage any_message(const StepMessageShape& shape) {
    StepMessage message;
    message.flags = random_();
    message.integer_buffers_hash = random_();
    message.error = random_() % 2;
    int64_t n = up_to(shape.max_micro_batches);
    message.losses = any_doubles(n);
    message.weights = any_doubles(n);
    message.block_sums = any_doubles(up_to(shape.max_blocks));
    for (int64_t i = 0; i < shape.num_parameters; ++i)
      message.parameter_used.push_back(random_() % 2 == 0);
    return message;
  }
  std::mt19937_64 random_{11};
};

TEST_F(StepMessages, WhatIsPackedIsUnpacked) {
  for (int round = 0; round < 500; ++round) {
    StepMessageShape shape{up_to(9), up_to(40), up_to(200)};
    StepMessage message = any_message(shape);
    // What lay in the memory before must not show: ranks compare and log these bytes.
    std::vector<std::byte> bytes(shape.num_bytes(), std::byte{0xa5});
    std::vector<std::byte> again(shape.num_bytes(), std::byte{0x3c});
    message.pack(shape, bytes);
    message.pack(shape, again);
    EXPECT_EQ(bytes, again);
    StepMessage back = StepMessage::unpack(shape, bytes);
    EXPECT_EQ(back.flags, message.flags);
    EXPECT_EQ(back.integer_buffers_hash, message.integer_buffers_hash);
    EXPECT_EQ(back.error, message.error);
    EXPECT_EQ(bits(back.losses), bits(message.losses));
    EXPECT_EQ(bits(back.weights), bits(message.weights));
    EXPECT_EQ(bits(back.block_sums), bits(message.block_sums));
    EXPECT_EQ(back.parameter_used, message.parameter_used);
  }
}

TEST_F(StepMessages, SizeDependsOnTheShapeAlone) {
  EXPECT_EQ((StepMessageShape{0, 0, 0}).num_bytes(), 40u);
  EXPECT_EQ((StepMessageShape{3, 5, 64}).num_bytes(), 40u + 2 * 3 * 8 + 5 * 8 + 8);
  EXPECT_EQ((StepMessageShape{3, 5, 65}).num_bytes(), 40u + 2 * 3 * 8 + 5 * 8 + 16);
}

TEST_F(StepMessages, WhatDoesNotFitIsRefused) {
  StepMessageShape shape{2, 2, 3};
  std::vector<std::byte> bytes(shape.num_bytes());
  StepMessage good;
  good.losses = good.weights = {1, 2};
  good.block_sums = {1};
  good.parameter_used = {true, false, true};
  EXPECT_NO_THROW(good.pack(shape, bytes));
  StepMessage message = good;
  message.losses.push_back(3);
  message.weights.push_back(3);
  EXPECT_THROW(message.pack(shape, bytes), UsageError);
  message = good;
  message.weights.pop_back();
  EXPECT_THROW(message.pack(shape, bytes), UsageError);
  message = good;
  message.block_sums = {1, 2, 3};
  EXPECT_THROW(message.pack(shape, bytes), UsageError);
  message = good;
  message.parameter_used.pop_back();
  EXPECT_THROW(message.pack(shape, bytes), UsageError);
  EXPECT_THROW(good.pack(shape, std::span(bytes).first(bytes.size() - 1)), UsageError);
  EXPECT_THROW(StepMessage::unpack(shape, std::span(bytes).first(bytes.size() - 8)), UsageError);
}

TEST_F(StepMessages, CountsBeyondTheShapeAreRefused) {
  StepMessageShape shape{2, 2, 0};
  for (size_t word : {3, 4}) {
    std::vector<std::byte> bytes(shape.num_bytes());
    bytes[word * 8] = std::byte{3};
    EXPECT_THROW(StepMessage::unpack(shape, bytes), UsageError);
    bytes[word * 8] = std::byte{2};
    EXPECT_NO_THROW(StepMessage::unpack(shape, bytes));
  }
}

}  // namespace
}  // namespace lockstep
