#include "lockstep/core/recipe/key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace lockstep {
namespace {

std::string problem(const KeySpec& spec, const KeyValue& value) {
  auto checked = check_key_value(spec, value);
  return checked.is_ok() ? "" : checked.status().message();
}

using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;

TEST(Key, TextIsTomlThatTellsTypesApart) {
  EXPECT_EQ(key_value_text(int64_t{3}), "3");
  EXPECT_EQ(key_value_text(3.0), "3.0");
  EXPECT_EQ(key_value_text(-0.1), "-0.1");
  EXPECT_EQ(key_value_text(1e-8), "1e-08");
  EXPECT_EQ(key_value_text(true), "true");
  EXPECT_EQ(key_value_text(std::string("a\"b\\c\n\x7f")), "\"a\\\"b\\\\c\\u000a\\u007f\"");
  EXPECT_EQ(key_value_text(Ints{1, 2}), "[1, 2]");
  EXPECT_EQ(key_value_text(Floats{0.9, 1}), "[0.9, 1.0]");
  EXPECT_EQ(key_value_text(Ints{}), "[]");
}

TEST(Key, IntegersServeAsFloatsButNotTheOtherWayRound) {
  EXPECT_EQ(check_key_value(float_key("x", ""), int64_t{2}).value(), KeyValue(2.0));
  EXPECT_EQ(check_key_value(float_list_key("x", ""), Ints{1, 2}).value(), KeyValue(Floats{1, 2}));
  EXPECT_EQ(check_key_value(int_list_key("x", ""), Floats{}).value(), KeyValue(Ints{}));
  EXPECT_EQ(problem(int_key("x", ""), 2.0), "must be an integer, found 2.0");
  EXPECT_EQ(problem(int_list_key("x", ""), Floats{1.5}), "must be a list of integers, found [1.5]");
  EXPECT_EQ(problem(bool_key("x", ""), int64_t{1}), "must be true or false, found 1");
  EXPECT_EQ(problem(string_key("x", ""), true), "must be a string, found true");
}

TEST(Key, BoundsAreCheckedAndNamed) {
  EXPECT_EQ(problem(int_key("x", "").at_least(1), int64_t{0}), "must be at least 1, found 0");
  EXPECT_EQ(problem(int_key("x", "").at_least(1), int64_t{1}), "");
  EXPECT_EQ(problem(float_key("x", "").above(0), 0.0), "must be greater than 0, found 0");
  EXPECT_EQ(problem(float_key("x", "").above(0).at_most(1), 1.5),
            "must be greater than 0 and at most 1, found 1.5");
  EXPECT_EQ(problem(float_key("x", "").at_least(0).below(1), 1.0),
            "must be at least 0 and less than 1, found 1");
  EXPECT_EQ(problem(float_key("x", "").at_least(0).below(1), 0.0), "");
  EXPECT_EQ(problem(float_key("x", ""), std::nan("")), "must be finite, found nan");
  EXPECT_EQ(problem(float_key("x", ""), -INFINITY), "must be finite, found -inf");
}

TEST(Key, ListsAreCheckedByLengthAndElement) {
  const KeySpec betas = float_list_key("betas", "").of_length(2).at_least(0).below(1);
  EXPECT_EQ(problem(betas, Floats{0.9}), "must have 2 elements, found 1: [0.9]");
  EXPECT_EQ(problem(betas, Floats{0.9, 1.0}),
            "elements must be at least 0 and less than 1, found 1");
  EXPECT_EQ(problem(betas, Floats{0.9, 0.999}), "");
}

TEST(Key, NamesAreCheckedWithTheNearest) {
  const KeySpec reduction = string_key("reduction", "").one_of({"tree", "native"});
  EXPECT_EQ(problem(reduction, std::string("tre")),
            "must be one of \"tree\", \"native\"; found \"tre\"; the nearest is \"tree\"");
  EXPECT_EQ(problem(reduction, std::string("ring")),
            "must be one of \"tree\", \"native\"; found \"ring\"");
  EXPECT_EQ(problem(reduction, std::string("native")), "");
}

TEST(Key, ADefaultOfTheWrongTypeIsTheProgramsMistake) {
  EXPECT_EQ(*float_key("x", "").or_default(int64_t{1}).default_value, KeyValue(1.0));
  EXPECT_THROW(int_key("x", "").or_default(0.5), UsageError);
}

TEST(Key, ValuesAreAskedForByNameAndType) {
  KeyValues values;
  values.set("width", int64_t{3});
  EXPECT_EQ(values.get_int("width"), 3);
  EXPECT_THROW(values.get_int("height"), UsageError);
  EXPECT_THROW(values.get_float("width"), UsageError);
}

}  // namespace
}  // namespace lockstep
