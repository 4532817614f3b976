#include "distributed/control_plane_conformance.h"

#include <gmock/gmock.h>

#include <thread>

#include "distributed/test_settings.h"
#include "lockstep/core/base/check.h"

namespace lockstep::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string message_of(int rank, int round) {
  std::string text = cat("rank ", rank, " round ", round, " ");
  text.append(static_cast<size_t>(rank * 1000 + round * 10), static_cast<char>('a' + round));
  text.push_back('\0');  // messages are bytes, not C strings
  return text;
}

void gathers_in_rank_order(ControlPlane& plane) {
  for (int round = 0; round < 10; ++round) {
    auto messages =
        plane.all_gather(cat("round ", round), message_of(plane.world_rank(), round), soon());
    ASSERT_TRUE(messages.is_ok()) << messages.status().to_string();
    ASSERT_EQ(messages->size(), static_cast<size_t>(plane.world_size()));
    for (int r = 0; r < plane.world_size(); ++r) {
      EXPECT_EQ((*messages)[static_cast<size_t>(r)], message_of(r, round));
    }
  }
}

void gathers_a_large_message(ControlPlane& plane) {
  int last = plane.world_size() - 1;
  std::string large(2'000'000, 'x');
  auto messages = plane.all_gather("large", plane.world_rank() == last ? large : "small", soon());
  ASSERT_TRUE(messages.is_ok()) << messages.status().to_string();
  EXPECT_TRUE(messages->back() == large);
}

void refuses_a_message_that_is_too_long(ControlPlane& plane) {
  if (plane.world_rank() != plane.world_size() - 1) return;  // the memory of one rank is enough
  std::string too_long(kMaxControlMessageBytes + 1, 'x');
  EXPECT_THROW(plane.all_gather("too long", too_long, soon()).status().ignore(), UsageError);
}

void broadcasts_from_rank_0(ControlPlane& plane) {
  auto text = plane.broadcast("text", cat("from ", plane.world_rank()), soon());
  ASSERT_TRUE(text.is_ok()) << text.status().to_string();
  EXPECT_EQ(*text, "from 0");
}

void votes(ControlPlane& plane) {
  EXPECT_TRUE(plane.vote("all well", Status::ok(), soon()).is_ok());
  int last = plane.world_size() - 1;
  int me = plane.world_rank();
  Status one = plane.vote("one fails", me == last ? io_error("disk full") : Status::ok(), soon());
  EXPECT_EQ(one.code(), StatusCode::kIoError);
  EXPECT_EQ(one.message(), cat("rank ", last, ": disk full"));
  if (last < 3) return;
  Status mine = me == 1   ? corruption_error("bad block")
                : me == 2 ? io_error("disk full")
                : me == 3 ? io_error("bad block")
                          : Status::ok();
  Status several = plane.vote("several fail", mine, soon());
  EXPECT_EQ(several.code(), StatusCode::kCorruption);
  EXPECT_EQ(several.message(), "ranks 1 and 3: bad block; rank 2: disk full");
  EXPECT_TRUE(plane.barrier("and goes on", soon()).is_ok());
}

void splits(ControlPlane& plane) {
  auto first = plane.split("background", soon());
  auto second = plane.split("background", soon());
  ASSERT_TRUE(first.is_ok()) << first.status().to_string();
  ASSERT_TRUE(second.is_ok()) << second.status().to_string();
  // The planes are independent: used from two threads, in any order.
  std::thread background([&] {
    for (int i = 0; i < 20; ++i) {
      auto messages = (*first)->all_gather("on first", cat("f", i), soon());
      ASSERT_TRUE(messages.is_ok()) << messages.status().to_string();
      EXPECT_EQ(messages->back(), cat("f", i));
    }
  });
  for (int i = 0; i < 20; ++i) {
    ControlPlane& used = i % 2 == 0 ? plane : **second;
    auto messages = used.all_gather("on others", cat("o", i), soon());
    ASSERT_TRUE(messages.is_ok()) << messages.status().to_string();
    EXPECT_EQ(messages->front(), cat("o", i));
  }
  background.join();
  EXPECT_TRUE((*first)->shutdown(soon()).is_ok());
  EXPECT_TRUE((*second)->shutdown(soon()).is_ok());
  EXPECT_TRUE(plane.barrier("the parent lives on", soon()).is_ok());
}

/// For what fails because somebody does not come: long enough that a loaded machine's rank 0 still
/// says in its last quarter who it is that did not.
Deadline passes_in_vain() {
  return Deadline::after_s(3);
}

/// A rank that comes late to what the others gave up meets none of their later calls.
void a_new_series_meets_nothing_of_the_last(ControlPlane& plane) {
  const int world_size = plane.world_size();
  if (world_size > 3) return;  // the waits of three worlds are enough
  auto side = plane.split("side", soon());
  ASSERT_TRUE(side.is_ok()) << side.status().to_string();
  for (const int late : {world_size - 1, 0}) {
    plane.begin_series();
    const auto others_gave_up = [&] { return (*side)->barrier("the others gave up", soon()); };
    if (plane.world_rank() == late) {
      EXPECT_TRUE(others_gave_up().is_ok());
    }
    if (world_size > 1) {
      const Status status = plane.barrier("the gate", passes_in_vain());
      EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
      EXPECT_THAT(status.message(), HasSubstr(cat("rank ", late)));
      EXPECT_EQ(plane.barrier("later", soon()).code(), StatusCode::kTimeout);
    }
    if (plane.world_rank() != late) {
      EXPECT_TRUE(others_gave_up().is_ok());
    }
    plane.begin_series();
    const auto messages = plane.all_gather("again", cat("from ", plane.world_rank()), soon());
    ASSERT_TRUE(messages.is_ok()) << messages.status().to_string();
    EXPECT_EQ(messages->back(), cat("from ", world_size - 1));
  }
}

void nobody_is_lost(ControlPlane& plane) {
  EXPECT_TRUE(plane.barrier("here", soon()).is_ok());
  EXPECT_TRUE(plane.lost_ranks().empty());
  EXPECT_TRUE(plane.barrier("all have looked", soon()).is_ok());
}

void times_out_naming_the_absent(ControlPlane& plane) {
  const int absent = plane.world_size() - 1;
  auto side = plane.split("side", soon());
  ASSERT_TRUE(side.is_ok()) << side.status().to_string();
  if (plane.world_rank() != absent) {
    Stopwatch watch;
    Status status = plane.barrier("the gate", passes_in_vain());
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
    EXPECT_THAT(status.message(), AllOf(HasSubstr("the gate"), HasSubstr(cat("rank ", absent))));
    if (absent > 1) {
      EXPECT_THAT(status.message(), Not(HasSubstr("rank 0")));
    }
    EXPECT_LT(watch.elapsed_s(), kLongBeforeSoonS);
    EXPECT_EQ(plane.barrier("later", soon()).to_string(), status.to_string());
  }
  EXPECT_TRUE((*side)->barrier("the others gave up", soon()).is_ok());
}

void times_out_naming_rank_0(ControlPlane& plane) {
  auto side = plane.split("side", soon());
  ASSERT_TRUE(side.is_ok()) << side.status().to_string();
  if (plane.world_rank() != 0) {
    Status status = plane.barrier("the gate", passes_in_vain());
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
    EXPECT_THAT(status.message(), AllOf(HasSubstr("the gate"), HasSubstr("rank 0")));
  }
  EXPECT_TRUE((*side)->barrier("the others gave up", soon()).is_ok());
}

void refuses_another_what(ControlPlane& plane) {
  bool is_last = plane.world_rank() == plane.world_size() - 1;
  Status status = plane.barrier(is_last ? "save" : "evaluate", soon());
  EXPECT_EQ(status.code(), StatusCode::kInternal) << status.to_string();
  EXPECT_THAT(status.message(), AllOf(HasSubstr("'evaluate'"), HasSubstr("'save'"),
                                      HasSubstr(cat("rank ", plane.world_size() - 1))));
}

}  // namespace

std::vector<ControlPlaneCase> control_plane_cases() {
  return {{"GathersInRankOrder", 1, gathers_in_rank_order},
          {"GathersALargeMessage", 1, gathers_a_large_message},
          {"RefusesAMessageThatIsTooLong", 1, refuses_a_message_that_is_too_long},
          {"BroadcastsFromRank0", 1, broadcasts_from_rank_0},
          {"VotesAsOne", 1, votes},
          {"SplitsIntoIndependentPlanes", 1, splits},
          {"ANewSeriesMeetsNothingOfTheLast", 1, a_new_series_meets_nothing_of_the_last},
          {"LosesNobody", 1, nobody_is_lost}};
}

std::vector<ControlPlaneCase> failing_control_plane_cases() {
  return {{"TimesOutNamingTheAbsent", 2, times_out_naming_the_absent},
          {"TimesOutNamingRank0", 2, times_out_naming_rank_0},
          {"RefusesAnotherWhat", 2, refuses_another_what}};
}

}  // namespace lockstep::testing
