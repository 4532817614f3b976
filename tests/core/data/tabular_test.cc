#include "lockstep/core/data/tabular.h"

#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/data/csv.h"

namespace lockstep {
namespace {

TEST(MakeTabularCsv, IsATableOfTheSizeAsked) {
  Result<CsvTable> table = parse_csv(make_tabular_csv(1000, 10, 1), "made");
  ASSERT_TRUE(table.is_ok()) << table.status().to_string();
  EXPECT_EQ(table->num_rows, 1000);
  EXPECT_EQ(table->columns.size(), 11U);
  EXPECT_EQ(table->columns.front(), "x0");
  EXPECT_EQ(table->columns.back(), "label");
  int64_t num_positive = 0;
  for (size_t row = 0; row < 1000; ++row) {
    double label = table->values[row * 11 + 10];
    EXPECT_TRUE(label == 0 || label == 1);
    num_positive += static_cast<int64_t>(label);
  }
  EXPECT_GT(num_positive, 400);
  EXPECT_LT(num_positive, 600);
}

TEST(MakeTabularCsv, IsAFunctionOfItsArguments) {
  EXPECT_EQ(make_tabular_csv(20, 3, 1), make_tabular_csv(20, 3, 1));
  EXPECT_NE(make_tabular_csv(20, 3, 1), make_tabular_csv(20, 3, 2));
  // More rows go on where fewer ended.
  EXPECT_TRUE(make_tabular_csv(30, 3, 1).starts_with(make_tabular_csv(20, 3, 1)));
}

// Recipes and documents quote figures for this table: its text must never change.
TEST(MakeTabularCsv, KeepsItsText) {
  EXPECT_EQ(xxh3_128(make_tabular_csv(1000, 10, 1)).hex(), "d3b14db51ffac6b402531d96d333fbb5");
}

TEST(MakeTabularCsv, RefusesSizesThatMakeNoTable) {
  EXPECT_THROW((void)make_tabular_csv(0, 10, 1), UsageError);
  EXPECT_THROW((void)make_tabular_csv(10, 1, 1), UsageError);
}

}  // namespace
}  // namespace lockstep
