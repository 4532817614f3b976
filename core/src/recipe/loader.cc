#include "lockstep/core/recipe/loader.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "lockstep/core/base/text.h"
#include "lockstep/core/base/time_text.h"
#include "toml_reader.h"

namespace lockstep {

namespace {

constexpr uint64_t kMaxRecipeBytes = 1 << 20;

/// A value that somebody gave.
struct Given {
  TomlItem item;
  std::string raw_text;  // of an override: what stood after "="
  std::string place;     // for messages: "recipe.toml:3" or "--set train.seed=x"
  std::string origin;    // for the resolved recipe: "recipe.toml:3" or "--set"
};

std::string bracketed(std::string_view table) {
  return cat("[", table, "]");
}

/// Collects what was given, checks it, and turns it into a Recipe.
class Loader {
 public:
  Loader(const RecipeSchema& schema, std::string source)
      : schema_(schema), source_(std::move(source)) {}

  void add_text_item(TomlItem item);
  void add_override(const std::string& text);
  Result<Recipe> finish();

 private:
  void problem(std::string_view place, std::string_view message) {
    problems_.push_back(cat(place, ": ", message));
  }
  std::string name_of(const std::string& table) const;
  void report_unknown_table(const Given& given);
  void report_unknown_key(const Given& given, const std::vector<KeySpec>& specs);
  void report_unknown_names();
  std::optional<KeyValue> checked_value(const KeySpec& spec, const std::string& full_name,
                                        const Given& given);
  void resolve(const std::string& table, const KeySpec& spec);
  void check_across_keys(const Recipe& recipe);
  std::string place_of(const std::string& full_name) const;

  const RecipeSchema& schema_;
  std::string source_;
  std::map<std::string, Given> given_;  // by full name; the last one wins
  std::vector<Given> strays_;           // empty tables, and keys outside of any table
  std::vector<ResolvedKey> resolved_;
  std::vector<std::string> problems_;
};

void Loader::add_text_item(TomlItem item) {
  const std::string place = cat(source_, ":", item.line);
  Given given{std::move(item), {}, place, place};
  if (given.item.table.empty() || given.item.key.empty()) {
    strays_.push_back(std::move(given));
  } else {
    const std::string full_name = cat(given.item.table, ".", given.item.key);
    given_[full_name] = std::move(given);
  }
}

void Loader::add_override(const std::string& text) {
  const std::string place = cat("--set ", text);
  const size_t equals = text.find('=');
  const std::string full_name(
      trim(std::string_view(text).substr(0, std::min(equals, text.size()))));
  const size_t dot = full_name.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot == 0 ||
      dot + 1 == full_name.size())
    return problem(place, "expected table.key=value, for example train.seed=7");
  Given given{{}, std::string(trim(std::string_view(text).substr(equals + 1))), place, "--set"};
  if (auto item = read_toml_value(given.raw_text)) {
    given.item = std::move(*item);
  } else {
    given.item.value = given.raw_text;
    given.item.description = cat("\"", given.raw_text, "\"");
  }
  given.item.table = full_name.substr(0, dot);
  given.item.key = full_name.substr(dot + 1);
  given_[full_name] = std::move(given);
}

std::string Loader::name_of(const std::string& table) const {
  const auto found = given_.find(table + ".name");
  if (found == given_.end() || !found->second.item.value) return {};
  if (!found->second.raw_text.empty() &&
      !std::holds_alternative<std::string>(*found->second.item.value))
    return found->second.raw_text;
  const auto* name = std::get_if<std::string>(&*found->second.item.value);
  return name == nullptr ? std::string() : *name;
}

void Loader::report_unknown_table(const Given& given) {
  const std::string near = nearest_name(given.item.table, RecipeSchema::tables());
  const std::string hint = near.empty()
                               ? cat("known tables are ", join(RecipeSchema::tables(), ", "))
                               : cat("the nearest known table is ", bracketed(near));
  problem(given.place, cat("unknown table ", bracketed(given.item.table), "; ", hint));
}

void Loader::report_unknown_key(const Given& given, const std::vector<KeySpec>& specs) {
  const TomlItem& item = given.item;
  std::vector<std::string> names;
  for (const KeySpec& spec : specs) names.push_back(spec.name);
  std::string near = nearest_name(item.key, names);
  if (!near.empty()) near = cat(item.table, ".", near);
  // A key in the wrong table: the same name, or nearly so, elsewhere.
  for (size_t exact_first = 0; near.empty() && exact_first < 2; ++exact_first) {
    for (const auto& table : RecipeSchema::tables()) {
      for (const KeySpec& spec : schema_.keys(table, name_of(table))) {
        const std::vector<std::string> one = {spec.name};
        const bool is_near =
            exact_first == 0 ? spec.name == item.key : !nearest_name(item.key, one).empty();
        if (is_near && near.empty()) near = cat(table, ".", spec.name);
      }
    }
  }
  const std::string hint =
      !near.empty()   ? cat("the nearest known key is ", near)
      : names.empty() ? cat("known tables are ", join(RecipeSchema::tables(), ", "))
                      : cat("known keys of ", bracketed(item.table), " are ", join(names, ", "));
  const std::string full_name = item.table.empty() ? item.key : cat(item.table, ".", item.key);
  problem(given.place, cat("unknown key ", full_name,
                           item.table.empty() ? " outside of any table; " : "; ", hint));
}

void Loader::report_unknown_names() {
  const auto& tables = RecipeSchema::tables();
  const auto is_table = [&](const std::string& name) {
    return std::find(tables.begin(), tables.end(), name) != tables.end();
  };
  for (const Given& stray : strays_) {
    if (stray.item.table.empty() && is_table(stray.item.key)) {
      problem(stray.place, cat(stray.item.key, " must be a table ", bracketed(stray.item.key),
                               ", found ", stray.item.description));
    } else if (stray.item.table.empty()) {
      report_unknown_key(stray, {});
    } else if (!is_table(stray.item.table)) {
      report_unknown_table(stray);
    }
  }
  std::vector<std::string> told;
  for (const auto& [full_name, given] : given_) {
    const std::string& table = given.item.table;
    if (!is_table(table)) {
      // One message for a table, whatever number of keys it has.
      if (std::find(told.begin(), told.end(), table) == told.end()) report_unknown_table(given);
      told.push_back(table);
      continue;
    }
    const std::string name = name_of(table);
    const auto specs = schema_.keys(table, name);
    const bool is_known =
        std::any_of(specs.begin(), specs.end(),
                    [&key = given.item.key](const KeySpec& spec) { return spec.name == key; });
    // Whose own keys they are can't be told while the name is wrong; that is reported by itself.
    const bool has_own_keys = table == "model" || table == "data";
    if (!is_known && (!has_own_keys || schema_.is_known(table, name)))
      report_unknown_key(given, specs);
  }
}

std::optional<KeyValue> Loader::checked_value(const KeySpec& spec, const std::string& full_name,
                                              const Given& given) {
  const bool is_text_for_string =
      spec.type == KeyType::kString && given.origin == "--set" &&
      !(given.item.value && std::holds_alternative<std::string>(*given.item.value));
  // On the command line a string needs no quotes, also when it looks like a number or a date.
  const std::optional<KeyValue> value =
      is_text_for_string ? std::optional<KeyValue>(given.raw_text) : given.item.value;
  if (!value) {
    problem(given.place, cat(full_name, " must be ", key_type_name(spec.type), ", found ",
                             given.item.description));
    return std::nullopt;
  }
  auto checked = check_key_value(spec, *value);
  if (checked.is_ok()) return *checked;
  problem(given.place, cat(full_name, " ", checked.status().message()));
  return std::nullopt;
}

void Loader::resolve(const std::string& table, const KeySpec& spec) {
  const std::string full_name = cat(table, ".", spec.name);
  const auto found = given_.find(full_name);
  if (found != given_.end()) {
    if (auto value = checked_value(spec, full_name, found->second))
      resolved_.push_back({table, spec, std::move(*value), found->second.origin});
  } else if (spec.default_value) {
    resolved_.push_back({table, spec, *spec.default_value, "default"});
  } else {
    std::string message =
        cat(full_name, " is missing (", spec.help, "); it must be ", key_type_name(spec.type));
    if (!spec.allowed.empty()) message += cat(": ", join(spec.allowed, ", "));
    problem(source_, message);
  }
}

std::string Loader::place_of(const std::string& full_name) const {
  const auto found = given_.find(full_name);
  return cat(full_name, " (", found == given_.end() ? "default" : found->second.origin, ")");
}

void Loader::check_across_keys(const Recipe& recipe) {
  const TrainRecipe& train = recipe.train();
  if ((train.steps > 0) == (train.epochs > 0))
    problem(source_, cat("exactly one of train.steps and train.epochs must be above 0; found ",
                         place_of("train.steps"), " = ", train.steps, " and ",
                         place_of("train.epochs"), " = ", train.epochs));
  if (train.leaf_micro_batches > train.micro_batches_per_step)
    problem(source_,
            cat("train.leaf_micro_batches must be at most train.micro_batches_per_step; found ",
                place_of("train.leaf_micro_batches"), " = ", train.leaf_micro_batches, " and ",
                place_of("train.micro_batches_per_step"), " = ", train.micro_batches_per_step));
  const ScheduleRecipe& schedule = recipe.schedule();
  if (schedule.total_steps > 0 && schedule.warmup_steps >= schedule.total_steps)
    problem(source_, cat("schedule.warmup_steps must be less than schedule.total_steps; found ",
                         place_of("schedule.warmup_steps"), " = ", schedule.warmup_steps, " and ",
                         place_of("schedule.total_steps"), " = ", schedule.total_steps));
  const std::string& best = recipe.checkpoint().keep_best;
  const std::array<std::string_view, 5> known = {"", "max:accuracy", "min:accuracy", "max:loss",
                                                 "min:loss"};
  if (std::find(known.begin(), known.end(), best) == known.end())
    problem(source_, cat(place_of("checkpoint.keep_best"),
                         " must be empty, or min: or max: and one of the metrics accuracy and loss",
                         " (max:accuracy), found \"", best, "\""));
  // A checkpoint knows a metric only when the evaluation was at its step.
  else if (!best.empty() &&
           (recipe.eval().every_epochs == 0 || recipe.checkpoint().every_epochs == 0))
    problem(
        source_,
        cat(place_of("checkpoint.keep_best"), " compares checkpoints at the end of epochs that",
            " are evaluated: it needs checkpoint.every_epochs and eval.every_epochs above 0;",
            " found ", place_of("checkpoint.every_epochs"), " = ", recipe.checkpoint().every_epochs,
            " and ", place_of("eval.every_epochs"), " = ", recipe.eval().every_epochs));
  const std::string& keep_for = recipe.checkpoint().keep_for;
  if (!keep_for.empty() && !parse_duration_s(keep_for))
    problem(source_, cat(place_of("checkpoint.keep_for"),
                         " must be empty, or a whole number and s, m, h or d (36h), found \"",
                         keep_for, "\""));
  const CheckpointRecipe& checkpoint = recipe.checkpoint();
  if (checkpoint.every != "auto") return;
  if (checkpoint.mtbf_hours <= 0)
    problem(source_, cat(place_of("checkpoint.every"),
                         " = \"auto\" needs the mean time between failures of the whole job: give ",
                         "checkpoint.mtbf_hours, 24 for one failure a day"));
  if (checkpoint.every_steps > 0)
    problem(source_, cat(place_of("checkpoint.every"), " = \"auto\" chooses the interval, and ",
                         place_of("checkpoint.every_steps"), " = ", checkpoint.every_steps,
                         " gives it; leave one of them out"));
}

Result<Recipe> Loader::finish() {
  report_unknown_names();
  for (const auto& table : RecipeSchema::tables()) {
    for (const KeySpec& spec : schema_.keys(table, name_of(table))) resolve(table, spec);
  }
  if (problems_.empty()) {
    Recipe recipe(std::move(resolved_));
    check_across_keys(recipe);
    if (problems_.empty()) return recipe;
  }
  return invalid_argument_error(join(problems_, "\n"));
}

}  // namespace

Result<Recipe> parse_recipe(const RecipeSchema& schema, std::string_view text,
                            const std::string& source, std::span<const std::string> overrides) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto items, read_toml(text, source));
  Loader loader(schema, source);
  for (TomlItem& item : items) loader.add_text_item(std::move(item));
  for (const std::string& text_of_override : overrides) loader.add_override(text_of_override);
  return loader.finish();
}

Result<Recipe> load_recipe(const RecipeSchema& schema, FileSystem& fs, const std::string& path,
                           std::span<const std::string> overrides) {
  auto text = read_whole_file(fs, fs.follow_links(path), kMaxRecipeBytes);
  if (!text.is_ok()) {
    const StatusCode code = text.status().code();
    const bool is_wrong_file = code == StatusCode::kNotFound || code == StatusCode::kCorruption;
    return is_wrong_file ? invalid_argument_error(cat("recipe: ", text.status().message()))
                         : text.status().with_context("recipe");
  }
  return parse_recipe(schema, *text, path, overrides);
}

}  // namespace lockstep
