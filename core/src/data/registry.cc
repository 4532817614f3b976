#include "lockstep/core/data/registry.h"

#include <algorithm>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/csv.h"
#include "lockstep/core/data/fashion_mnist.h"

namespace lockstep {
namespace {

constexpr const char* kFashionMnistFolder = "/usr/share/datasets/fashion-mnist";

DatasetEntry fashion_mnist_entry() {
  return {.name = "fashion_mnist",
          .own_keys = {},
          .open = [](FileSystem& fs, const std::string& path, const KeyValues&) {
            return open_fashion_mnist(fs, path.empty() ? kFashionMnistFolder : path);
          }};
}

DatasetEntry csv_entry() {
  CsvOptions defaults;
  return {
      .name = "csv",
      .own_keys = {string_key("label", "name of the column that holds the class"),
                   float_key("train_fraction", "share of the rows for training")
                       .or_default(defaults.train_fraction)
                       .above(0)
                       .below(1),
                   int_key("split_seed", "chooses the rows for training")
                       .or_default(static_cast<int64_t>(defaults.split_seed))
                       .at_least(0)},
      .open = [](FileSystem& fs, const std::string& path,
                 const KeyValues& own) -> Result<DatasetSplits> {
        if (path.empty())
          return invalid_argument_error("the data set csv needs data.path: the CSV file to read");
        return open_csv(fs, path,
                        {.label_column = own.get_string("label"),
                         .train_fraction = own.get_float("train_fraction"),
                         .split_seed = static_cast<uint64_t>(own.get_int("split_seed"))});
      }};
}

}  // namespace

DatasetRegistry DatasetRegistry::with_builtins() {
  DatasetRegistry registry;
  registry.add(fashion_mnist_entry());
  registry.add(csv_entry());
  return registry;
}

void DatasetRegistry::add(DatasetEntry entry) {
  for (const DatasetEntry& other : entries_)
    LOCKSTEP_CHECK(other.name != entry.name, "two data sets are named '", entry.name, "'");
  entries_.push_back(std::move(entry));
}

Result<DatasetSplits> DatasetRegistry::open(std::string_view name, FileSystem& fs,
                                            const std::string& path, const KeyValues& own) const {
  std::vector<std::string> names;
  for (const DatasetEntry& entry : entries_) {
    if (entry.name == name) return entry.open(fs, path, own);
    names.push_back(entry.name);
  }
  std::string nearest = nearest_name(name, names);
  return invalid_argument_error(cat("no data set '", name, "'",
                                    nearest.empty() ? "" : cat("; the nearest is '", nearest, "'"),
                                    "; known: ", join(names, ", ")));
}

}  // namespace lockstep
