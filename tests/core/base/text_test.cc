#include "lockstep/core/base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace lockstep {
namespace {

using ::testing::ElementsAre;

TEST(Text, CatWritesNumbersShortestAndBoolsAsWords) {
  EXPECT_EQ(cat("a", 'b', 1, -2L, uint64_t{18446744073709551615u}, true, 0.1, 1e-3f == 1e-3f),
            "ab1-2184467440737095516"
            "15true0.1true");
  EXPECT_EQ(cat(std::string("x"), std::string_view("y")), "xy");
}

TEST(Text, HexRoundTripsAndRefusesAnythingElse) {
  std::mt19937_64 generator(3);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t value = generator() >> (i % 64);
    uint64_t back = 0;
    ASSERT_TRUE(parse_hex64(hex64(value), &back));
    ASSERT_EQ(back, value);
  }
  uint64_t value = 0;
  EXPECT_EQ(hex64(0xab), "00000000000000ab");
  EXPECT_FALSE(parse_hex64("ab", &value));
  EXPECT_FALSE(parse_hex64("00000000000000AB", &value));
  EXPECT_FALSE(parse_hex64("00000000000000ab0", &value));
  EXPECT_FALSE(parse_hex64("0x000000000000ab", &value));
}

TEST(Text, SplitAndJoinAreInverse) {
  EXPECT_THAT(split("a,,b,", ','), ElementsAre("a", "", "b", ""));
  EXPECT_THAT(split("", ','), ElementsAre(""));
  EXPECT_EQ(join(split("a,,b,", ','), ","), "a,,b,");
  EXPECT_EQ(trim(" \t a b \r"), "a b");
  EXPECT_EQ(trim(" \t"), "");
}

TEST(Text, NearestNameFindsSlipsAndNothingElse) {
  const std::vector<std::string> names = {"micro_batch_size", "seed", "steps"};
  EXPECT_EQ(nearest_name("microbatch_size", names), "micro_batch_size");
  EXPECT_EQ(nearest_name("sed", names), "seed");
  EXPECT_EQ(nearest_name("step", names), "steps");
  EXPECT_EQ(nearest_name("esed", names), "seed");
  EXPECT_EQ(nearest_name("seed", names), "seed");
  EXPECT_EQ(nearest_name("", names), "");
  EXPECT_EQ(nearest_name("colour", names), "");
}

TEST(Text, NumbersForPeople) {
  EXPECT_EQ(fixed(1.005, 1), "1.0");
  EXPECT_EQ(fixed(-2.5, 3), "-2.500");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(uint64_t{3} << 30), "3.0 GiB");
}

}  // namespace
}  // namespace lockstep
