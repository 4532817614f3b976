// Covers: csv_table.cc, csv_dataset.cc
#include "lockstep/core/data/csv.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "idx_files.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(ParseCsv, ReadsHeaderAndNumbers) {
  Result<CsvTable> table = parse_csv("a, b,label\r\n1,-2.5,0\r\n3e2,.25,1\n\n", "t.csv");
  ASSERT_TRUE(table.is_ok()) << table.status().to_string();
  EXPECT_THAT(table->columns, ElementsAre("a", "b", "label"));
  EXPECT_EQ(table->num_rows, 2);
  EXPECT_THAT(table->values, ElementsAre(1, -2.5, 0, 300, 0.25, 1));
}

TEST(ParseCsv, ReadsATableWithoutAFinalLineEnd) {
  Result<CsvTable> table = parse_csv(
      "\xEF\xBB\xBF"
      "a\n7",
      "t.csv");
  ASSERT_TRUE(table.is_ok()) << table.status().to_string();
  EXPECT_THAT(table->columns, ElementsAre("a"));
  EXPECT_THAT(table->values, ElementsAre(7));
}

TEST(ParseCsv, NamesFileLineAndColumnOfWhatIsWrong) {
  const std::map<std::string, std::string> kMessages = {
      {"", "t.csv:1: expected a header"},
      {"a,,c\n1,2,3\n", "t.csv:1: column 2 has no name"},
      {"a,b,a\n1,2,3\n", "t.csv:1: two columns are named 'a'"},
      {"a,b\n", "t.csv: expected rows after the header"},
      {"a,b,c\n1,2,3\n1,2\n",
       "t.csv:3: expected 3 columns as in the header, found 2; the first one missing is 'c'"},
      {"a,b\n1,2\n1,2,3\n", "t.csv:3: expected 2 columns as in the header, found 3"},
      {"a,b\n1,2\n\n1,2\n", "t.csv:3: column 'a': expected a number, found ''"},
      {"a,b\n1,two\n", "t.csv:2: column 'b': expected a number, found 'two'"},
      {"a,b\n1,2x\n", "t.csv:2: column 'b': expected a number, found '2x'"},
      {"a,b\n1,\n", "t.csv:2: column 'b': expected a number, found ''"},
      {"a,b\nnan,1\n", "t.csv:2: column 'a': expected a number, found 'nan'"},
      {"a,b\n1,-inf\n", "t.csv:2: column 'b': expected a number, found '-inf'"},
      {"a,b\n1,1e999\n", "t.csv:2: column 'b': expected a number, found '1e999'"},
  };
  for (const auto& [text, message] : kMessages) {
    Status status = parse_csv(text, "t.csv").status();
    EXPECT_EQ(status.code(), StatusCode::kCorruption) << text;
    EXPECT_THAT(status.message(), HasSubstr(message));
  }
}

class Csv : public testing::Test {
 protected:
  Result<DatasetSplits> open(const std::string& text, const CsvOptions& options) {
    write_file(fs_, "/t.csv", text);
    return open_csv(fs_, "/t.csv", options);
  }
  /// Row i: feature "id" = i, a constant feature, label i mod 3.
  static std::string numbered_rows(int num_rows) {
    std::string text = "id,same,label\n";
    for (int i = 0; i < num_rows; ++i) text += cat(i, ",5,", i % 3, "\n");
    return text;
  }
  static Batch all_of(const Dataset& part) {
    std::vector<int64_t> indices(static_cast<size_t>(part.num_samples()));
    std::iota(indices.begin(), indices.end(), 0);
    return part.batch(indices).value();
  }
  MemoryFileSystem fs_;
};

TEST_F(Csv, SplitsEveryRowIntoExactlyOnePart) {
  Result<DatasetSplits> splits = open(numbered_rows(50), {.label_column = "label"});
  ASSERT_TRUE(splits.is_ok()) << splits.status().to_string();
  EXPECT_EQ(splits->train->num_samples(), 40);
  EXPECT_EQ(splits->test->num_samples(), 10);
  EXPECT_EQ(splits->train->spec(), (SampleSpec{.input_shape = {2}, .num_classes = 3}));
  EXPECT_EQ(splits->train->spec(), splits->test->spec());
  Batch train = all_of(*splits->train), test = all_of(*splits->test);
  // Undo the scaling, which maps the training part's smallest and largest id to 0 and 1.
  std::vector<int64_t> ids;
  for (int64_t low = 0; low < 50 && ids.size() != 50; ++low)
    for (int64_t high = low + 1; high < 50 && ids.size() != 50; ++high) {
      ids.clear();
      for (const Batch* batch : {&train, &test})
        for (int64_t i = 0; i < batch->num_samples; ++i) {
          double scaled = batch->inputs.const_data_ptr<float>()[2 * i];
          double id = scaled * static_cast<double>(high - low) + static_cast<double>(low);
          if (std::abs(id - std::round(id)) < 1e-4 &&
              batch->targets.const_data_ptr<int64_t>()[i] == std::llround(id) % 3)
            ids.push_back(std::llround(id));
        }
    }
  std::sort(ids.begin(), ids.end());
  std::vector<int64_t> expected(50);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(ids, expected);
}

TEST_F(Csv, FitsTheScalingOnTheTrainingPartAlone) {
  std::string text = numbered_rows(30);
  bool test_leaves_unit_range = false;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Result<DatasetSplits> splits = open(text, {.label_column = "label", .split_seed = seed});
    ASSERT_TRUE(splits.is_ok());
    Batch train = all_of(*splits->train), test = all_of(*splits->test);
    EXPECT_EQ(train.inputs.select(1, 0).min().item<float>(), 0.0F);
    EXPECT_EQ(train.inputs.select(1, 0).max().item<float>(), 1.0F);
    EXPECT_EQ(train.inputs.select(1, 1).abs().max().item<float>(), 0.0F) << "a constant becomes 0";
    if (test.inputs.max().item<float>() > 1 || test.inputs.min().item<float>() < 0)
      test_leaves_unit_range = true;
  }
  // Were the test part fitted too, its values would never leave [0, 1].
  EXPECT_TRUE(test_leaves_unit_range);
}

TEST_F(Csv, SplitsByTheSeedAlone) {
  std::string text = numbered_rows(50);
  auto identity_and_inputs = [&](uint64_t seed) {
    Result<DatasetSplits> splits = open(text, {.label_column = "label", .split_seed = seed});
    return std::pair(splits->train->identity(), all_of(*splits->train).inputs);
  };
  auto [identity_a, inputs_a] = identity_and_inputs(1);
  auto [identity_b, inputs_b] = identity_and_inputs(1);
  auto [identity_c, inputs_c] = identity_and_inputs(2);
  EXPECT_EQ(identity_a, identity_b);
  EXPECT_TRUE(inputs_a.equal(inputs_b));
  EXPECT_NE(identity_a, identity_c);
  EXPECT_FALSE(inputs_a.equal(inputs_c));
}

TEST_F(Csv, HasAnIdentityThatFollowsContentAndOptions) {
  std::string text = numbered_rows(50);
  CsvOptions options{.label_column = "label"};
  std::string identity = open(text, options)->train->identity();
  EXPECT_NE(open(text, options)->test->identity(), identity);
  EXPECT_NE(open(text + "50,5,1\n", options)->train->identity(), identity);
  options.train_fraction = 0.5;
  EXPECT_NE(open(text, options)->train->identity(), identity);
}

TEST_F(Csv, RefusesAnUnknownLabelColumnWithTheNearestName) {
  Status status = open(numbered_rows(5), {.label_column = "labels"}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("'labels'"), HasSubstr("the nearest is 'label'"),
                                      HasSubstr("id, same, label")));
}

TEST_F(Csv, RefusesATableOfLabelsAlone) {
  Status status = open("label\n0\n1\n", {.label_column = "label"}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
}

TEST_F(Csv, RefusesALabelThatIsNoClass) {
  for (const char* label : {"0.5", "-1", "65536"}) {
    Status status =
        open(cat("x,y\n1,0\n2,", label, "\n"), {.label_column = "y", .train_fraction = 0.5})
            .status();
    EXPECT_EQ(status.code(), StatusCode::kCorruption);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("/t.csv:3"), HasSubstr("'y'"), HasSubstr(label)));
  }
}

TEST_F(Csv, RefusesAColumnTooWideToScale) {
  Status status = open("x,y\n-1.7e308,0\n1.7e308,1\n0,0\n1,1\n",
                       {.label_column = "y", .train_fraction = 0.75, .split_seed = 0})
                      .status();
  for (uint64_t seed = 1; status.is_ok() && seed < 8; ++seed) {
    status = open("x,y\n-1.7e308,0\n1.7e308,1\n0,0\n1,1\n",
                  {.label_column = "y", .train_fraction = 0.75, .split_seed = seed})
                 .status();
  }
  EXPECT_EQ(status.code(), StatusCode::kCorruption);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("/t.csv"), HasSubstr("'x'"), HasSubstr("rescale")));
}

TEST_F(Csv, RefusesAnEmptyPart) {
  for (double fraction : {0.0, 0.01, 0.99, 1.0, -1.0, 7.0}) {
    Status status =
        open(numbered_rows(10), {.label_column = "label", .train_fraction = fraction}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << fraction;
  }
}

TEST_F(Csv, PassesOnTheErrorsOfTheFile) {
  EXPECT_EQ(open_csv(fs_, "/absent.csv", {.label_column = "y"}).status().code(),
            StatusCode::kNotFound);
  EXPECT_EQ(open("a,y\n1\n", {.label_column = "y"}).status().code(), StatusCode::kCorruption);
}

}  // namespace
}  // namespace lockstep
