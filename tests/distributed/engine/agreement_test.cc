#include "lockstep/distributed/agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/distributed/world.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Lines = std::vector<std::string>;

/// Each rank brings its lines; the verdict that all of them get.
Status compare(const std::vector<Lines>& lines) {
  std::vector<Status> verdicts(lines.size());
  Status ran = World::run_threads(
      static_cast<int>(lines.size()),
      [&](World& world) {
        auto rank = static_cast<size_t>(world.world_rank());
        verdicts[rank] = check_same_on_all_ranks(world.control_plane(), "recipe", lines[rank],
                                                 Deadline::after_s(30));
        return Status::ok();
      },
      WorldOptions{Log::silent()});
  EXPECT_TRUE(ran.is_ok()) << ran.to_string();
  for (const Status& verdict : verdicts) EXPECT_EQ(verdict.to_string(), verdicts[0].to_string());
  return verdicts[0];
}

TEST(Agreement, EqualLinesAreFine) {
  for (size_t ranks : {1, 2, 5})
    EXPECT_TRUE(compare(std::vector<Lines>(ranks, {"seed 1", "", "steps 8"})).is_ok());
  EXPECT_TRUE(compare({{}, {}}).is_ok());
}

TEST(Agreement, NamesTheFirstDifferenceAndTheRank) {
  Lines base = {"seed 1", "steps 8", "rate 0.1"};
  Lines seed = {"seed 2", "steps 8", "rate 0.1"};
  Lines rate = {"seed 1", "steps 8", "rate 0.2"};
  Status status = compare({base, base, rate, base});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("recipe"));
  EXPECT_THAT(status.message(), HasSubstr("rank 0 has 'rate 0.1', rank 2 has 'rate 0.2'"));
  EXPECT_THAT(status.message(), HasSubstr("differ from rank 0: 2)"));
  status = compare({base, rate, seed, rate});
  EXPECT_THAT(status.message(), HasSubstr("rank 0 has 'seed 1', rank 2 has 'seed 2'"));
  EXPECT_THAT(status.message(), HasSubstr("differ from rank 0: 1, 2, 3)"));
}

TEST(Agreement, MissingLinesAreADifference) {
  Status status = compare({{"a", "b"}, {"a"}});
  EXPECT_THAT(status.message(), HasSubstr("rank 0 has 'b', rank 1 has '(nothing)'"));
  status = compare({{"a"}, {"a"}, {"a", "c"}});
  EXPECT_THAT(status.message(), HasSubstr("rank 0 has '(nothing)', rank 2 has 'c'"));
  EXPECT_FALSE(compare({{}, {"a"}}).is_ok());
}

TEST(Agreement, OrderCounts) {
  EXPECT_THAT(compare({{"a", "b"}, {"b", "a"}}).message(),
              HasSubstr("rank 0 has 'a', rank 1 has 'b'"));
}

}  // namespace
}  // namespace lockstep
