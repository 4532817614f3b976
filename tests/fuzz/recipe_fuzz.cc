// Fuzzes the reader of recipes. An input is TOML, then, after a line "---", overrides, one a line.
// What is accepted must be printed and read back to the same values and the same hash, and must not
// differ from itself.
#include "core/recipe/test_schema.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr std::string_view kSeparator = "\n---\n";

void check_accepted(const RecipeSchema& schema, Recipe& recipe) {
  if (recipe.data().identity.empty()) {
    const Status status = recipe.set_data_identity("data");
    LOCKSTEP_CHECK(status.is_ok(), status.message());
  }
  if (!recipe.resolve_total_steps(recipe.run_length_steps(10)).is_ok()) return;
  LOCKSTEP_CHECK(recipe.global_batch() > 0, recipe.global_batch());
  const std::string text = recipe.text();
  const auto again = parse_recipe(schema, text, "written", {});
  LOCKSTEP_CHECK(again.is_ok(), again.status().message(), "\n", text);
  LOCKSTEP_CHECK(again->keys().size() == recipe.keys().size(), text);
  for (size_t i = 0; i < recipe.keys().size(); ++i) {
    LOCKSTEP_CHECK(again->keys()[i].full_name() == recipe.keys()[i].full_name() &&
                       again->keys()[i].value == recipe.keys()[i].value,
                   recipe.keys()[i].full_name(), " reads back to something else:\n", text);
  }
  LOCKSTEP_CHECK(again->canonical_text() == recipe.canonical_text(), text);
  LOCKSTEP_CHECK(again->hash() == recipe.hash(), text);
  const auto differing = differing_keys(schema, text, again->text());
  LOCKSTEP_CHECK(differing.is_ok() && differing->empty(), text);
}

}  // namespace
}  // namespace lockstep

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lockstep;  // NOLINT(google-build-using-namespace): as a main
  static const RecipeSchema schema = test_schema();
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find(kSeparator), size);
  const std::string_view rest = input.substr(std::min(end + kSeparator.size(), size));
  const std::vector<std::string> overrides =
      rest.empty() ? std::vector<std::string>() : split(rest, '\n');
  auto recipe = parse_recipe(schema, input.substr(0, end), "input", overrides);
  if (recipe.is_ok()) {
    check_accepted(schema, *recipe);
  } else {
    LOCKSTEP_CHECK(recipe.status().code() == StatusCode::kInvalidArgument,
                   recipe.status().to_string());
    LOCKSTEP_CHECK(!recipe.status().message().empty(), "an error without a message");
  }
  return 0;
}
