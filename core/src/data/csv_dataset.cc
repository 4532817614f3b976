// open_csv: a table as two data sets.

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/data/csv.h"
#include "lockstep/core/data/permutation.h"

namespace lockstep {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 30;
constexpr double kMaxLabel = 65535;

class TableDataset final : public Dataset {
 public:
  TableDataset(SampleSpec spec, std::vector<float> features, std::vector<int64_t> labels,
               std::string identity)
      : spec_(std::move(spec)),
        features_(std::move(features)),
        labels_(std::move(labels)),
        identity_(std::move(identity)) {}

  int64_t num_samples() const override { return static_cast<int64_t>(labels_.size()); }
  const SampleSpec& spec() const override { return spec_; }
  std::string identity() const override { return identity_; }

  Result<Batch> batch(std::span<const int64_t> sample_indices) const override {
    int64_t size = static_cast<int64_t>(sample_indices.size());
    int64_t width = spec_.input_shape[0];
    Batch batch{.inputs = at::empty({size, width}, at::kFloat),
                .targets = at::empty({size}, at::kLong),
                .num_samples = size};
    float* input = batch.inputs.mutable_data_ptr<float>();
    int64_t* target = batch.targets.mutable_data_ptr<int64_t>();
    for (int64_t index : sample_indices) {
      LOCKSTEP_CHECK(index >= 0 && index < num_samples(), "sample ", index, " of ", num_samples());
      input = std::copy_n(features_.data() + index * width, width, input);
      *target++ = labels_[static_cast<size_t>(index)];
    }
    return batch;
  }

 private:
  SampleSpec spec_;
  std::vector<float> features_;  // [num_samples, width]
  std::vector<int64_t> labels_;
  std::string identity_;
};

/// How a feature is scaled: (x - min) / range, or 0 when the range is 0.
struct Scale {
  double min = 0;
  double range = 0;
};

/// A table with one column set apart as the label.
struct LabelledTable {
  CsvTable table;
  size_t label_column = 0;
  int64_t num_classes = 0;

  double value(int64_t row, size_t column) const {
    return table.values[static_cast<size_t>(row) * table.columns.size() + column];
  }
};

Result<LabelledTable> find_label(CsvTable table, const std::string& path, const std::string& name) {
  auto found = std::find(table.columns.begin(), table.columns.end(), name);
  if (found == table.columns.end()) {
    std::string nearest = nearest_name(name, table.columns);
    return invalid_argument_error(
        cat(path, ": no label column '", name, "'",
            nearest.empty() ? std::string() : cat("; the nearest is '", nearest, "'"),
            "; the columns are: ", join(table.columns, ", ")));
  }
  if (table.columns.size() < 2)
    return invalid_argument_error(cat(path, ": there is no column beside the label '", name, "'"));
  LabelledTable labelled;
  labelled.label_column = static_cast<size_t>(found - table.columns.begin());
  labelled.table = std::move(table);
  for (int64_t row = 0; row < labelled.table.num_rows; ++row) {
    double label = labelled.value(row, labelled.label_column);
    if (label < 0 || label > kMaxLabel || label != std::floor(label))
      return corruption_error(cat(path, ":", row + 2, ": column '", name,
                                  "': expected a class, a whole number from 0 to ", kMaxLabel,
                                  ", found ", label));
    labelled.num_classes = std::max(labelled.num_classes, static_cast<int64_t>(label) + 1);
  }
  return labelled;
}

Result<std::vector<Scale>> fit_scales(const std::string& path, const LabelledTable& labelled,
                                      std::span<const int64_t> rows) {
  std::vector<Scale> scales(labelled.table.columns.size());
  for (size_t column = 0; column < scales.size(); ++column) {
    auto less = [&](int64_t a, int64_t b) {
      return labelled.value(a, column) < labelled.value(b, column);
    };
    auto [low, high] = std::minmax_element(rows.begin(), rows.end(), less);
    double min = labelled.value(*low, column);
    double range = labelled.value(*high, column) - min;
    if (!std::isfinite(range))
      return corruption_error(cat(path, ": column '", labelled.table.columns[column],
                                  "' spans from ", min, " to ", labelled.value(*high, column),
                                  ", more than a number can hold; rescale it"));
    scales[column] = {.min = min, .range = range};
  }
  return scales;
}

std::unique_ptr<Dataset> make_part(const LabelledTable& labelled, std::span<const int64_t> rows,
                                   std::span<const Scale> scales, std::string identity) {
  std::vector<float> features;
  std::vector<int64_t> labels;
  for (int64_t row : rows) {
    for (size_t column = 0; column < scales.size(); ++column) {
      if (column == labelled.label_column) continue;
      double above_min = labelled.value(row, column) - scales[column].min;
      features.push_back(
          scales[column].range > 0 ? static_cast<float>(above_min / scales[column].range) : 0.0F);
    }
    labels.push_back(static_cast<int64_t>(labelled.value(row, labelled.label_column)));
  }
  SampleSpec spec{.input_shape = {static_cast<int64_t>(scales.size()) - 1},
                  .num_classes = labelled.num_classes};
  return std::make_unique<TableDataset>(std::move(spec), std::move(features), std::move(labels),
                                        std::move(identity));
}

}  // namespace

Result<DatasetSplits> open_csv(FileSystem& fs, const std::string& path, const CsvOptions& options) {
  LOCKSTEP_ASSIGN_OR_RETURN(std::string text,
                            read_whole_file(fs, fs.follow_links(path), kMaxFileBytes));
  LOCKSTEP_ASSIGN_OR_RETURN(CsvTable table, parse_csv(text, path));
  LOCKSTEP_ASSIGN_OR_RETURN(LabelledTable labelled,
                            find_label(std::move(table), path, options.label_column));
  int64_t num_rows = labelled.table.num_rows;
  int64_t num_train = std::llround(static_cast<double>(num_rows) * options.train_fraction);
  if (num_train < 1 || num_train >= num_rows)
    return invalid_argument_error(cat(path, ": a training fraction of ", options.train_fraction,
                                      " leaves ", num_train, " of ", num_rows,
                                      " rows for training; each part needs at least 1"));
  // The first positions of a seeded permutation are the training part; rows keep the file's order
  // within a part.
  Permutation order(num_rows, options.split_seed, 0);
  std::vector<int64_t> rows;
  for (int64_t position = 0; position < num_rows; ++position) rows.push_back(order.at(position));
  std::sort(rows.begin(), rows.begin() + num_train);
  std::sort(rows.begin() + num_train, rows.end());
  auto train_rows = std::span<const int64_t>(rows).first(static_cast<size_t>(num_train));
  auto test_rows = std::span<const int64_t>(rows).subspan(static_cast<size_t>(num_train));

  LOCKSTEP_ASSIGN_OR_RETURN(std::vector<Scale> scales, fit_scales(path, labelled, train_rows));
  std::string identity =
      cat("csv v1 min-max content=", xxh3_128(text).hex(), " label=", options.label_column,
          " train_rows=", num_train, " split_seed=", options.split_seed);
  return DatasetSplits{.train = make_part(labelled, train_rows, scales, identity + " part=train"),
                       .test = make_part(labelled, test_rows, scales, identity + " part=test")};
}

}  // namespace lockstep
