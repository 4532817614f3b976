#pragma once
// DatasetRegistry: the data sets that a recipe can name in [data], with the keys of their own. A
// value: a program adds its own with add() before it loads a recipe. Thread-safety: a value.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/status.h"
#include "lockstep/core/data/dataset.h"
#include "lockstep/core/recipe/key.h"

namespace lockstep {

struct DatasetEntry {
  std::string name;
  std::vector<KeySpec> own_keys;
  /// Opens both parts. `path` is data.path, empty for the usual place; `own` has a value for each
  /// own key.
  std::function<Result<DatasetSplits>(FileSystem& fs, const std::string& path,
                                      const KeyValues& own)>
      open;
};

class DatasetRegistry {
 public:
  /// "fashion_mnist" and "csv".
  static DatasetRegistry with_builtins();
  /// Requires: a name that is not taken.
  void add(DatasetEntry entry);
  const std::vector<DatasetEntry>& entries() const& { return entries_; }
  const std::vector<DatasetEntry>& entries() && = delete;
  /// Errors: kInvalidArgument for an unknown name, with the nearest known one; those of the entry's
  /// open.
  Result<DatasetSplits> open(std::string_view name, FileSystem& fs, const std::string& path,
                             const KeyValues& own) const;

 private:
  std::vector<DatasetEntry> entries_;
};

}  // namespace lockstep
