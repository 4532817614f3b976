// Every kind of mistake in a recipe, with the exact message that a person reads.
#include "lockstep/core/recipe/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "lockstep/core/base/memory_file_system.h"
#include "test_schema.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string message_of(const Result<Recipe>& recipe) {
  if (recipe.is_ok()) return "(no error)";
  EXPECT_EQ(recipe.status().code(), StatusCode::kInvalidArgument);
  return recipe.status().message();
}

/// The small recipe with `lines` put below [train]; they start at line 10.
std::string with_train(const std::string& lines) {
  return kSmallRecipe + lines;
}

TEST(Loader, FillsTablesFromTextDefaultsAndOverrides) {
  const auto recipe = parse(
      with_train("seed = 7\n[optimizer]\nname = \"sgd\"\nbetas = [0, 0.5]\nlearning_rate = 1\n"),
      {"train.seed=8", "model.dropout=0.25", "data.path=/data/some where.csv"});
  ASSERT_TRUE(recipe.is_ok()) << recipe.status().to_string();
  EXPECT_EQ(recipe->model().name, "mlp");
  EXPECT_THAT(recipe->model().own.get_int_list("hidden"), ElementsAre(16, 8));
  EXPECT_EQ(recipe->model().own.get_float("dropout"), 0.25);
  EXPECT_EQ(recipe->data().path, "/data/some where.csv");
  EXPECT_EQ(recipe->data().own.get_string("label"), "label");
  EXPECT_EQ(recipe->train().seed, 8);
  EXPECT_EQ(recipe->train().epochs, 2);
  EXPECT_EQ(recipe->train().reduction, "tree");
  EXPECT_EQ(recipe->global_batch(), 48);
  EXPECT_EQ(recipe->optimizer().name, "sgd");
  EXPECT_EQ(recipe->optimizer().learning_rate, 1.0);
  EXPECT_EQ(recipe->optimizer().betas, (std::array<double, 2>{0, 0.5}));
  EXPECT_EQ(recipe->eval().every_epochs, EvalRecipe{}.every_epochs);
  EXPECT_EQ(recipe->checkpoint().keep_latest, CheckpointRecipe{}.keep_latest);
}

// Found by tests/fuzz: the TOML parser's own assertions.
TEST(Loader, TextThatItsParserAssumesNeverToSeeIsAnError) {
  for (const char* text :
       {"[,]", "[\x01", "[[.a]]", "[ =", "[a.,]", ".a = 1", "[a]\n=1", "[ \xce\xab ",
        "[a]\n\xc3\xbc = 1", "[a]\nb = \xd2\x99", "[a] \xc2\xa1"}) {
    EXPECT_EQ(parse(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

struct Mistake {
  std::string lines;  // below [train], from line 10 on
  std::string message;
};

class LoaderMistakes : public ::testing::TestWithParam<Mistake> {};

TEST_P(LoaderMistakes, AreToldInFull) {
  EXPECT_EQ(message_of(parse(with_train(GetParam().lines))), GetParam().message);
}

const Mistake kMistakes[] = {
    // Unknown names, with the nearest known one.
    {"sed = 1", "recipe.toml:10: unknown key train.sed; the nearest known key is train.seed"},
    {"microbatch_size = 1",
     "recipe.toml:10: unknown key train.microbatch_size; the nearest known key is "
     "train.micro_batch_size"},
    {"learning_rate = 1",
     "recipe.toml:10: unknown key train.learning_rate; the nearest known key is "
     "optimizer.learning_rate"},
    {"learning_rat = 1",
     "recipe.toml:10: unknown key train.learning_rat; the nearest known key is "
     "optimizer.learning_rate"},
    {"[clip]\ncolour = 1",
     "recipe.toml:11: unknown key clip.colour; known keys of [clip] are max_norm"},
    {"[optimiser]\nname = \"sgd\"\neps = 1",
     "recipe.toml:12: unknown table [optimiser]; the nearest known table is "
     "[optimizer]"},
    {"[colour]",
     "recipe.toml:10: unknown table [colour]; known tables are model, data, train, optimizer, "
     "schedule, "
     "clip, eval, checkpoint"},
    {"seed.x = 1", "recipe.toml:10: train.seed must be an integer, found a table"},
    // Wrong types.
    {"seed = \"7\"", "recipe.toml:10: train.seed must be an integer, found \"7\""},
    {"seed = 7.0", "recipe.toml:10: train.seed must be an integer, found 7.0"},
    {"seed = [7]", "recipe.toml:10: train.seed must be an integer, found [7]"},
    {"seed = 2020-01-01", "recipe.toml:10: train.seed must be an integer, found a date or time"},
    {"bucket_mib = true", "recipe.toml:10: train.bucket_mib must be a number, found true"},
    {"reduction = 1", "recipe.toml:10: train.reduction must be a string, found 1"},
    {"[optimizer]\nbetas = [0.9, \"x\"]",
     "recipe.toml:11: optimizer.betas must be a list of numbers, found a list of something else "
     "than numbers"},
    // Values out of range.
    {"seed = -1", "recipe.toml:10: train.seed must be at least 0, found -1"},
    {"leaf_micro_batches = 0",
     "recipe.toml:10: train.leaf_micro_batches must be at least 1 and at most 1048576, found 0"},
    {"intra_op_threads = 2000",
     "recipe.toml:10: train.intra_op_threads must be at least 1 and at most 1024, found 2000"},
    {"bucket_mib = -1",
     "recipe.toml:10: train.bucket_mib must be at least 0 and at most 1048576, found -1"},
    {"reduction = \"trees\"",
     "recipe.toml:10: train.reduction must be one of \"tree\", \"native\"; found \"trees\"; "
     "the nearest is \"tree\""},
    {"[optimizer]\nbetas = [0.9]",
     "recipe.toml:11: optimizer.betas must have 2 elements, found 1: [0.9]"},
    {"[optimizer]\nbetas = [0.9, 1]",
     "recipe.toml:11: optimizer.betas elements must be at least 0 and less than 1, found 1"},
    {"[optimizer]\nlearning_rate = nan",
     "recipe.toml:11: optimizer.learning_rate must be finite, found nan"},
    // Keys that contradict each other.
    {"steps = 5",
     "recipe.toml: exactly one of train.steps and train.epochs must be above 0; found train.steps "
     "(recipe.toml:10) = 5 "
     "and train.epochs (recipe.toml:7) = 2"},
    {"leaf_micro_batches = 13",
     "recipe.toml: train.leaf_micro_batches must be at most train.micro_batches_per_step; found "
     "train.leaf_micro_batches (recipe.toml:10) = 13 and train.micro_batches_per_step "
     "(recipe.toml:9) = 12"},
    {"[schedule]\nwarmup_steps = 5\ntotal_steps = 5",
     "recipe.toml: schedule.warmup_steps must be less than schedule.total_steps; found "
     "schedule.warmup_steps "
     "(recipe.toml:11) = 5 and schedule.total_steps (recipe.toml:12) = 5"},
    {"[checkpoint]\nkeep_best = \"accuracy\"",
     "recipe.toml: checkpoint.keep_best (recipe.toml:11) must be empty, or min: or max: and one "
     "of the metrics accuracy and loss "
     "(max:accuracy), found \"accuracy\""},
    {"[checkpoint]\nkeep_best = \"max:\"",
     "recipe.toml: checkpoint.keep_best (recipe.toml:11) must be empty, or min: or max: and one "
     "of the metrics accuracy and loss "
     "(max:accuracy), found \"max:\""},
    {"[checkpoint]\nkeep_best = \"max:perplexity\"",
     "recipe.toml: checkpoint.keep_best (recipe.toml:11) must be empty, or min: or max: and one "
     "of the metrics accuracy and loss "
     "(max:accuracy), found \"max:perplexity\""},
    {"[checkpoint]\nkeep_best = \"max:accuracy\"\nevery_steps = 5",
     "recipe.toml: checkpoint.keep_best (recipe.toml:11) compares checkpoints at the end of epochs "
     "that are evaluated: it needs checkpoint.every_epochs and eval.every_epochs above 0; found "
     "checkpoint.every_epochs (default) = 0 and eval.every_epochs (default) = 1"},
    {"[checkpoint]\nkeep_best = \"max:accuracy\"\nevery_epochs = 2\n[eval]\nevery_epochs = 0",
     "recipe.toml: checkpoint.keep_best (recipe.toml:11) compares checkpoints at the end of epochs "
     "that are evaluated: it needs checkpoint.every_epochs and eval.every_epochs above 0; found "
     "checkpoint.every_epochs (recipe.toml:12) = 2 and eval.every_epochs (recipe.toml:14) = 0"},
    {"[checkpoint]\nkeep_for = \"7 days\"",
     "recipe.toml: checkpoint.keep_for (recipe.toml:11) must be empty, or a whole number and s, m, "
     "h "
     "or d (36h), found \"7 days\""},
    {"[checkpoint]\nevery = \"auto\"",
     "recipe.toml: checkpoint.every (recipe.toml:11) = \"auto\" needs the mean time between "
     "failures of the whole job: give checkpoint.mtbf_hours, 24 for one failure a day"},
    {"[checkpoint]\nevery = \"auto\"\nmtbf_hours = 24\nevery_steps = 5",
     "recipe.toml: checkpoint.every (recipe.toml:11) = \"auto\" chooses the interval, and "
     "checkpoint.every_steps (recipe.toml:13) = 5 gives it; leave one of them out"},
    {"[checkpoint]\nmax_overhead = 1",
     "recipe.toml:11: checkpoint.max_overhead must be greater than 0 and less than 1, found 1"},
    {"[optimizer]\neps = 1e-38",
     "recipe.toml:11: optimizer.eps must be at least 1e-37, found 1e-38"},
};

std::ostream& operator<<(std::ostream& out, const Mistake& mistake) {
  return out << mistake.lines;
}

INSTANTIATE_TEST_SUITE_P(All, LoaderMistakes, ::testing::ValuesIn(kMistakes));

struct WrongText {
  std::string text;
  std::string part;  // of the message
};

class LoaderWrongText : public ::testing::TestWithParam<WrongText> {};

TEST_P(LoaderWrongText, IsRefusedWithItsPlace) {
  EXPECT_THAT(message_of(parse(GetParam().text)), HasSubstr(GetParam().part));
}

const WrongText kWrongTexts[] = {
    {"", "recipe.toml: model.name is missing (which model); it must be a string: convnet, mlp"},
    {"",
     "recipe.toml: train.micro_batch_size is missing (samples of one forward and backward pass); "
     "it must be an "
     "integer"},
    {"[model]\nname = \"mlp\"\n",
     "recipe.toml: model.hidden is missing (widths of the hidden layers)"},
    {"[model]\nname = \"mpl\"\nhiden = 1\n",
     "recipe.toml:2: model.name must be one of \"convnet\", \"mlp\"; found \"mpl\"; the nearest is "
     "\"mlp\""},
    {"[model]\nname = \"mlp\"\nhiden = [1]\n",
     "recipe.toml:3: unknown key model.hiden; the nearest known key is model.hidden"},
    {"[model]\nname = \"convnet\"\nhidden = [1]\n", "recipe.toml:3: unknown key model.hidden; "},
    {"[model]\nname = 3\n", "recipe.toml:2: model.name must be a string, found 3"},
    {"seed = 1\n",
     "recipe.toml:1: unknown key seed outside of any table; the nearest known key is train.seed"},
    {"train = 1\n", "recipe.toml:1: train must be a table [train], found the integer 1"},
    {"[[train]]\nseed = 1\n",
     "train must be a table [train], found a list of something else than numbers"},
    {"[train]\nseed = 1\nseed = 2\n", "recipe.toml:3: not valid TOML: "},
    {"[train\n", "recipe.toml:1: not valid TOML: "},
    {"[train]\nseed = \n", "recipe.toml:2: not valid TOML: "},
    {"[train]\nseed = 99999999999999999999\n", "recipe.toml:2: not valid TOML: "},
    {"[train]\nreduction = \"a\nb\"\n", "recipe.toml:2: not valid TOML: "},
    {std::string("[train]\nseed = 1\0\n", 18), "recipe.toml:2: not valid TOML: "},
    {"[train]\nreduction = \"\xff\xfe\"\n", "recipe.toml:2: not valid TOML: "},
    {"[model]\nx = " + std::string(100000, '[') + "\n", "recipe.toml:2: not valid TOML: "},
    {"\xef\xbb\xbf[colour]\n", "recipe.toml:1: unknown table [colour]"},
};

std::ostream& operator<<(std::ostream& out, const WrongText& wrong) {
  return out << wrong.part;
}

INSTANTIATE_TEST_SUITE_P(All, LoaderWrongText, ::testing::ValuesIn(kWrongTexts));

TEST(Loader, DamagedTextIsLoadedOrRefusedButNeverMore) {
  const std::string whole = parse(kSmallRecipe)->text();
  const std::string odd = "[]{}=.,\"'#\\\n\r\t\0 -+_:0123456789eEinfax\xc3\xff";
  std::mt19937_64 generator(5);
  int num_refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string text = whole;
    for (uint64_t edit = generator() % 4; edit < 4; ++edit) {
      const size_t at = generator() % text.size();
      const size_t length = std::min<size_t>(generator() % 8, text.size() - at);
      std::string piece;
      for (uint64_t i = generator() % 6; i > 0; --i) piece += odd[generator() % odd.size()];
      text.replace(at, length, piece);
    }
    const auto recipe = parse(text);
    if (recipe.is_ok()) {
      EXPECT_TRUE(parse(recipe->text()).is_ok()) << text;
    } else {
      EXPECT_EQ(recipe.status().code(), StatusCode::kInvalidArgument) << text;
      ++num_refused;
    }
  }
  EXPECT_GT(num_refused, 500);
  EXPECT_LT(num_refused, 2000);
}

TEST(Loader, ReportsAllMistakesAtOnce) {
  const auto recipe = parse(with_train("sed = 1\nbucket_mib = -1\n"), {"clip.max_norm=-1"});
  EXPECT_EQ(message_of(recipe),
            "recipe.toml:10: unknown key train.sed; the nearest known key is train.seed\n"
            "recipe.toml:11: train.bucket_mib must be at least 0 and at most 1048576, found -1\n"
            "--set clip.max_norm=-1: clip.max_norm must be at least 0, found -1");
}

struct WrongOverride {
  std::string text;
  std::string message;
};

class LoaderWrongOverride : public ::testing::TestWithParam<WrongOverride> {};

TEST_P(LoaderWrongOverride, IsRefused) {
  EXPECT_EQ(message_of(parse(kSmallRecipe, {GetParam().text})),
            "--set " + GetParam().text + ": " + GetParam().message);
}

const WrongOverride kWrongOverrides[] = {
    {"seed=1", "expected table.key=value, for example train.seed=7"},
    {"train.seed", "expected table.key=value, for example train.seed=7"},
    {".seed=1", "expected table.key=value, for example train.seed=7"},
    {"train.=1", "expected table.key=value, for example train.seed=7"},
    {"", "expected table.key=value, for example train.seed=7"},
    {"train.sed=1", "unknown key train.sed; the nearest known key is train.seed"},
    {"trian.seed=1", "unknown table [trian]; the nearest known table is [train]"},
    {"train.seed=many", "train.seed must be an integer, found \"many\""},
    {"train.seed=", "train.seed must be an integer, found \"\""},
    {"train.seed=1\nx=2", "train.seed must be an integer, found \"1\\u000ax=2\""},
    {"train.seed=-1", "train.seed must be at least 0, found -1"},
    {"train.reduction=7", "train.reduction must be one of \"tree\", \"native\"; found \"7\""},
    {"model.hidden=64", "model.hidden must be a list of integers, found 64"},
};

std::ostream& operator<<(std::ostream& out, const WrongOverride& wrong) {
  return out << wrong.text;
}

INSTANTIATE_TEST_SUITE_P(All, LoaderWrongOverride, ::testing::ValuesIn(kWrongOverrides));

TEST(Loader, OverridesOfStringsNeedNoQuotesAndTheLastOneWins) {
  for (const std::string path :
       {"/a b/c=d.csv", "2020-01-01", "17", "true", "[x]", "{}", "", "it's"}) {
    const auto recipe = parse(kSmallRecipe, {"data.path=first", "data.path=" + path});
    ASSERT_TRUE(recipe.is_ok()) << recipe.status().to_string();
    EXPECT_EQ(recipe->data().path, path);
  }
  EXPECT_EQ(parse(kSmallRecipe, {"data.path=\"quoted\""})->data().path, "quoted");
}

TEST(Loader, AnOverrideChoosesAnotherModelWithItsKeys) {
  const auto recipe = parse(
      "[data]\nname = \"images\"\n[train]\nsteps = 1\nmicro_batch_size = 1\n"
      "micro_batches_per_step = 1\n",
      {"model.name=convnet", "model.batch_norm=true"});
  ASSERT_TRUE(recipe.is_ok()) << recipe.status().to_string();
  EXPECT_TRUE(recipe->model().own.get_bool("batch_norm"));
}

TEST(Loader, ReadsAFileAndNamesItInOrigins) {
  MemoryFileSystem fs;
  ASSERT_TRUE(write_and_sync_file(fs, "/r.toml", kSmallRecipe, OpenMode::kTruncate).is_ok());
  const auto recipe = load_recipe(test_schema(), fs, "/r.toml", {});
  ASSERT_TRUE(recipe.is_ok()) << recipe.status().to_string();
  EXPECT_THAT(recipe->text(), HasSubstr("# /r.toml:8"));
}

TEST(Loader, AMissingOrHugeFileIsAUsageError) {
  MemoryFileSystem fs;
  const auto missing = load_recipe(test_schema(), fs, "/no.toml", {});
  EXPECT_EQ(message_of(missing), "recipe: open for reading /no.toml: No such file or directory");
  ASSERT_TRUE(
      write_and_sync_file(fs, "/big", std::string(2 << 20, '#'), OpenMode::kTruncate).is_ok());
  EXPECT_THAT(message_of(load_recipe(test_schema(), fs, "/big", {})),
              HasSubstr("at most 1048576 are expected"));
  ASSERT_TRUE(fs.make_dir("/d").is_ok());
  EXPECT_EQ(load_recipe(test_schema(), fs, "/d", {}).status().code(), StatusCode::kIoError);
}

TEST(Schema, RefusesOwnKeysThatClashAndNamesTwice) {
  RecipeSchema schema;
  schema.add_model("m", {});
  EXPECT_THROW(schema.add_model("m", {}), UsageError);
  EXPECT_THROW(schema.add_model("", {}), UsageError);
  EXPECT_THROW(schema.add_model("n", {int_key("name", "")}), UsageError);
  EXPECT_THROW(schema.add_data("n", {int_key("path", "")}), UsageError);
}

}  // namespace
}  // namespace lockstep
