#pragma once
// CSV tables for classification: a header of column names, then rows of numbers; one column is the
// label. Plain on purpose: no quoting, no missing values; whatever is not a number is an error with
// file, line and column.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/status.h"
#include "lockstep/core/data/dataset.h"

namespace lockstep {

/// The numbers of a table, row-major.
struct CsvTable {
  std::vector<std::string> columns;
  int64_t num_rows = 0;
  std::vector<double> values;
};

/// Parses `text`; `path` is for messages. Lines end in LF or CRLF; empty lines are allowed at the
/// end alone. Errors: kCorruption naming path and line: no header, an empty or repeated column
/// name, no rows, a row of too few or too many columns, a field that is not a finite number.
Result<CsvTable> parse_csv(std::string_view text, const std::string& path);

struct CsvOptions {
  std::string label_column;
  double train_fraction =
      0.8;  ///< of the rows, rounded to the nearest row; the rest is the test part
  uint64_t split_seed =
      1;  ///< chooses which rows; apart from the training seed, so that runs compare
};

/// Reads a table and splits it. Features keep their order and are scaled by (x - min) / (max - min)
/// of the training part alone, so test values may leave [0, 1]; a feature that is constant there
/// becomes 0. Labels are whole numbers from 0; the number of classes is the largest + 1. Errors:
/// kNotFound, kIoError; those of parse_csv; kInvalidArgument when the label column is missing (the
/// nearest name is given), there is no other column, or a part would be empty; kCorruption for a
/// label that is not one.
Result<DatasetSplits> open_csv(FileSystem& fs, const std::string& path, const CsvOptions& options);

}  // namespace lockstep
