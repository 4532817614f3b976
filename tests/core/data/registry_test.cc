#include "lockstep/core/data/registry.h"

#include <gmock/gmock.h>

#include "idx_files.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/data/tabular.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

KeyValues csv_keys() {
  KeyValues values;
  values.set("label", std::string("label"));
  values.set("train_fraction", 0.8);
  values.set("split_seed", int64_t{1});
  return values;
}

TEST(DatasetRegistry, OpensATableByItsKeys) {
  MemoryFileSystem fs;
  write_file(fs, "/t.csv", make_tabular_csv(100, 3, 1));
  Result<DatasetSplits> splits =
      DatasetRegistry::with_builtins().open("csv", fs, "/t.csv", csv_keys());
  ASSERT_TRUE(splits.is_ok()) << splits.status().to_string();
  EXPECT_EQ(splits->train->num_samples(), 80);
  EXPECT_EQ(splits->test->num_samples(), 20);
}

TEST(DatasetRegistry, WantsAPathForATable) {
  MemoryFileSystem fs;
  Status status = DatasetRegistry::with_builtins().open("csv", fs, "", csv_keys()).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("data.path"));
}

TEST(DatasetRegistry, LooksForFashionMnistInItsUsualPlace) {
  MemoryFileSystem fs;
  Status status = DatasetRegistry::with_builtins().open("fashion_mnist", fs, "", {}).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("/usr/share/datasets/fashion-mnist/"));
}

TEST(DatasetRegistry, NamesTheNearestDataSetForAnUnknownOne) {
  MemoryFileSystem fs;
  Status status = DatasetRegistry::with_builtins().open("fashion-mnist", fs, "", {}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("'fashion-mnist'"),
                                      HasSubstr("nearest is 'fashion_mnist'"), HasSubstr("csv")));
}

TEST(DatasetRegistry, TakesEachNameOnce) {
  DatasetRegistry registry = DatasetRegistry::with_builtins();
  EXPECT_THROW(registry.add({.name = "csv", .own_keys = {}, .open = {}}), UsageError);
}

}  // namespace
}  // namespace lockstep
