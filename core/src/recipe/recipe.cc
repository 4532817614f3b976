#include "lockstep/core/recipe/recipe.h"

#include <algorithm>
#include <map>

#include "framework_keys.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"
#include "toml_reader.h"

namespace lockstep {

namespace {

const FrameworkKey* find_framework_key(const std::string& table, const std::string& name) {
  for (const FrameworkKey& key : all_framework_keys()) {
    if (key.table == table && key.spec.name == name) return &key;
  }
  return nullptr;
}

void store(RecipeTables& tables, const ResolvedKey& key) {
  if (const FrameworkKey* fixed = find_framework_key(key.table, key.spec.name)) {
    fixed->store(tables, key.value);
  } else if (key.table == "model") {
    tables.model.own.set(key.spec.name, key.value);
  } else {
    LOCKSTEP_CHECK(key.table == "data", "a recipe has no key ", key.full_name());
    tables.data.own.set(key.spec.name, key.value);
  }
}

// Fit for a TOML comment: file names may hold anything.
std::string one_line(std::string text) {
  for (char& c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7f) c = '?';
  }
  return text;
}

bool uses_total_steps(const ScheduleRecipe& schedule) {
  return schedule.name == "cosine" || schedule.name == "linear";
}

using ValueTexts = std::map<std::string, std::string>;  // full name, value

// The keys of a resolved text that are in the hash.
Result<ValueTexts> hashed_values(const RecipeSchema& schema, std::string_view text,
                                 const std::string& source) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto items, read_toml(text, source));
  std::map<std::string, std::string> names;  // of the model and the data set
  for (const TomlItem& item : items) {
    if (item.key == "name" && item.value && std::holds_alternative<std::string>(*item.value))
      names[item.table] = std::get<std::string>(*item.value);
  }
  ValueTexts values;
  for (const TomlItem& item : items) {
    if (item.key.empty()) continue;
    bool is_in_hash = true;
    for (const KeySpec& spec : schema.keys(item.table, names[item.table])) {
      if (spec.name == item.key) is_in_hash = spec.is_in_hash;
    }
    if (is_in_hash) values[cat(item.table, ".", item.key)] = item.description;
  }
  return values;
}

}  // namespace

Recipe::Recipe(std::vector<ResolvedKey> keys) : keys_(std::move(keys)) {
  for (const ResolvedKey& key : keys_) store(tables_, key);
}

int64_t Recipe::run_length_steps(int64_t steps_per_epoch) const {
  LOCKSTEP_CHECK(steps_per_epoch >= 1, "steps_per_epoch is ", steps_per_epoch);
  return train().steps > 0 ? train().steps : train().epochs * steps_per_epoch;
}

Status Recipe::resolve_total_steps(int64_t run_length_steps) {
  LOCKSTEP_CHECK(run_length_steps >= 1, "run_length_steps is ", run_length_steps);
  if (!uses_total_steps(schedule())) return Status::ok();
  if (schedule().total_steps == 0)
    assign("schedule.total_steps", run_length_steps, "length of the run");
  if (schedule().warmup_steps >= schedule().total_steps)
    return invalid_argument_error(cat("schedule.warmup_steps is ", schedule().warmup_steps,
                                      ", but must be less than schedule.total_steps, which is ",
                                      schedule().total_steps));
  return Status::ok();
}

Status Recipe::set_data_identity(const std::string& identity) {
  LOCKSTEP_CHECK(!identity.empty(), "a data set's identity must not be empty");
  if (data().identity == identity) return Status::ok();
  if (!data().identity.empty())
    return invalid_argument_error(cat("the recipe asks for the data with identity \"",
                                      data().identity, "\" (data.identity), but \"", data().name,
                                      "\" at \"", data().path, "\" has identity \"", identity,
                                      "\": give the right data.path, or leave data.identity out"));
  assign("data.identity", identity, "the data");
  return Status::ok();
}

void Recipe::assign(std::string_view full_name, KeyValue value, std::string origin) {
  for (ResolvedKey& key : keys_) {
    if (key.full_name() != full_name) continue;
    key.value = std::move(value);
    key.origin = std::move(origin);
    store(tables_, key);
    return;
  }
  LOCKSTEP_CHECK(false, "a recipe without the key ", full_name);
}

std::string Recipe::text() const {
  std::string out;
  std::string table;
  for (const ResolvedKey& key : keys_) {
    if (key.table != table) {
      out += cat(table.empty() ? "" : "\n", "[", key.table, "]\n");
      table = key.table;
    }
    std::string line = cat(key.spec.name, " = ", key_value_text(key.value));
    constexpr size_t kCommentColumn = 40;
    line.resize(std::max(line.size() + 2, kCommentColumn), ' ');
    out += cat(line, "# ", one_line(key.origin), "\n");
  }
  return out;
}

std::string Recipe::canonical_text() const {
  std::vector<std::string> lines;
  for (const ResolvedKey& key : keys_) {
    if (key.spec.is_in_hash)
      lines.push_back(cat(key.full_name(), " = ", key_value_text(key.value), "\n"));
  }
  std::sort(lines.begin(), lines.end());
  return join(lines, "");
}

std::string Recipe::hash() const {
  LOCKSTEP_CHECK(!data().identity.empty(),
                 "the recipe hash needs the data set's identity: set_data_identity first");
  LOCKSTEP_CHECK(!uses_total_steps(schedule()) || schedule().total_steps > 0,
                 "the recipe hash needs schedule.total_steps: resolve_total_steps first");
  return xxh3_128(canonical_text()).hex();
}

Result<std::vector<std::string>> differing_keys(const RecipeSchema& schema, std::string_view text,
                                                std::string_view other_text) {
  LOCKSTEP_ASSIGN_OR_RETURN(const ValueTexts values, hashed_values(schema, text, "this recipe"));
  LOCKSTEP_ASSIGN_OR_RETURN(const ValueTexts others,
                            hashed_values(schema, other_text, "the other recipe"));
  std::vector<std::string> names;
  for (const auto& [name, value] : values) {
    const auto other = others.find(name);
    if (other == others.end() || other->second != value) names.push_back(name);
  }
  for (const auto& [name, value] : others) {
    if (!values.contains(name)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace lockstep
