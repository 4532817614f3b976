// The TCP control plane between threads (conformance, strangers) and between forked processes
// (death, standstill).
// Covers: gather_round.cc rank_names.cc
#include "tcp_control_plane.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <thread>
#include <tuple>

#include "asio_headers.h"
#include "distributed/control_plane_conformance.h"
#include "distributed/test_settings.h"
#include "plane_end.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

using lockstep::testing::soon;

/// Runs `body` on `num_ranks` threads with a TCP plane over the loopback each.
void run_on_threads(int num_ranks, const std::function<void(TcpControlPlane&)>& body) {
  std::promise<std::string> text;
  std::shared_future<std::string> sent = text.get_future().share();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      auto broadcast = [&, rank](std::string of_rank_0) -> Result<std::string> {
        if (rank == 0) text.set_value(of_rank_0);
        return sent.get();
      };
      auto plane = TcpControlPlane::connect(rank, num_ranks, {"127.0.0.1"}, broadcast, soon());
      ASSERT_TRUE(plane.is_ok()) << plane.status().to_string();
      body(**plane);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::string case_name(const auto& info) {
  return std::get<1>(info.param).name + "On" + std::to_string(std::get<0>(info.param));
}

class TcpControlPlaneConformance
    : public ::testing::TestWithParam<std::tuple<int, testing::ControlPlaneCase>> {};

TEST_P(TcpControlPlaneConformance, Holds) {
  const auto& [num_ranks, test_case] = GetParam();
  run_on_threads(num_ranks, [&](TcpControlPlane& plane) {
    test_case.body(plane);
    Status status = plane.shutdown(soon());
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    EXPECT_TRUE(plane.lost_ranks().empty());
    EXPECT_EQ(plane.barrier("after shutdown", soon()).code(), StatusCode::kAborted);
  });
}

class TcpControlPlaneFailingConformance : public TcpControlPlaneConformance {};

TEST_P(TcpControlPlaneFailingConformance, Holds) {
  const auto& [num_ranks, test_case] = GetParam();
  run_on_threads(num_ranks, test_case.body);
}

INSTANTIATE_TEST_SUITE_P(Usable, TcpControlPlaneConformance,
                         ::testing::Combine(::testing::Values(2, 3, 4, 5, 8, 16),
                                            ::testing::ValuesIn(testing::control_plane_cases())),
                         [](const auto& info) { return case_name(info); });
INSTANTIATE_TEST_SUITE_P(
    Failing, TcpControlPlaneFailingConformance,
    ::testing::Combine(::testing::Values(2, 5),
                       ::testing::ValuesIn(testing::failing_control_plane_cases())),
    [](const auto& info) { return case_name(info); });

/// Forked ranks that share a pipe each for the rendezvous. A child reports by its exit code; 0 is
/// well.
class ForkedRanks {
 public:
  explicit ForkedRanks(int num_ranks) : pipes_(static_cast<size_t>(num_ranks)) {
    for (auto& pipe : pipes_) EXPECT_EQ(::pipe(pipe.data()), 0);
  }

  void start(const std::function<int(TcpControlPlane&)>& body) {
    int num_ranks = static_cast<int>(pipes_.size());
    for (int rank = 0; rank < num_ranks; ++rank) {
      pid_t pid = fork();
      if (pid == 0) {
        auto plane = TcpControlPlane::connect(
            rank, num_ranks, {"127.0.0.1"},
            [&](std::string text) { return broadcast(rank, std::move(text)); }, soon());
        _exit(plane.is_ok() ? body(**plane) : 100);
      }
      pids_.push_back(pid);
    }
  }

  pid_t pid_of(int rank) const { return pids_[static_cast<size_t>(rank)]; }

  /// The wait status of each rank.
  std::vector<int> wait_for_all(const std::vector<int>& ranks) {
    std::vector<int> statuses;
    for (int rank : ranks) {
      int status = -1;
      EXPECT_EQ(waitpid(pid_of(rank), &status, 0), pid_of(rank));
      statuses.push_back(status);
    }
    return statuses;
  }

 private:
  Result<std::string> broadcast(int rank, std::string text) {
    if (rank == 0) {
      for (auto& pipe : pipes_) EXPECT_GT(::write(pipe[1], text.data(), text.size()), 0);
      return text;
    }
    std::array<char, 4096> buffer{};
    ssize_t n = ::read(pipes_[static_cast<size_t>(rank)][0], buffer.data(), buffer.size());
    return std::string(buffer.data(), static_cast<size_t>(std::max<ssize_t>(n, 0)));
  }

  std::vector<std::array<int, 2>> pipes_;
  std::vector<pid_t> pids_;
};

/// What a survivor does: meets the others, waits in a barrier that can't complete, and checks whom
/// it names how fast. The doomed rank has told its time of death (a monotonic clock is one for all
/// processes of a host).
int check_that_death_is_named(TcpControlPlane& plane, int doomed) {
  std::atomic<int64_t> named_at_ns = 0;
  std::atomic<int> named = -1;
  plane.on_peer_lost([&](int rank) {
    named = rank;
    named_at_ns = monotonic_ns();
  });
  auto met = plane.all_gather("meet", {}, soon());
  if (!met.is_ok()) return 1;
  auto times = plane.all_gather("time of death", cat(monotonic_ns() + 200'000'000), soon());
  if (!times.is_ok()) return 2;
  int64_t dies_at_ns = std::stoll((*times)[static_cast<size_t>(doomed)]);
  if (plane.world_rank() == doomed) {
    sleep_ns(std::max<int64_t>(dies_at_ns - monotonic_ns(), 0));
    kill(getpid(), SIGKILL);
  }
  Status status = plane.barrier("the step's vote", soon());
  if (status.code() != StatusCode::kPeerFailure) return 3;
  if (status.message() != cat("the step's vote: lost rank ", doomed)) return 4;
  if (plane.lost_ranks() != std::vector<int>{doomed}) return 5;
  // The callback runs on the background thread, beside this one.
  while (named == -1 && monotonic_ns() < dies_at_ns + 500'000'000) sleep_ns(1'000'000);
  if (named != doomed) return 6;
  if (named_at_ns < dies_at_ns || named_at_ns > dies_at_ns + 500'000'000) return 7;
  if (plane.barrier("later", soon()).message() != status.message()) return 8;
  // Leaving at once would be a second loss for whoever is slower.
  sleep_ns(600'000'000);
  return 0;
}

void kill_one_of(int num_ranks, int doomed) {
  ForkedRanks ranks(num_ranks);
  ranks.start([&](TcpControlPlane& plane) { return check_that_death_is_named(plane, doomed); });
  std::vector<int> survivors;
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (rank != doomed) survivors.push_back(rank);
  }
  EXPECT_THAT(ranks.wait_for_all(survivors), ::testing::Each(0)) << "killed rank " << doomed;
  int status = ranks.wait_for_all({doomed})[0];
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(TcpControlPlane, NamesAKilledRankOnEverySurvivorWithinHalfASecond) {
  kill_one_of(5, 3);
  kill_one_of(2, 1);
}

TEST(TcpControlPlane, NamesAKilledRank0) {
  kill_one_of(4, 0);
  kill_one_of(2, 0);
}

int check_that_standstill_is_named(TcpControlPlane& plane, int stopped) {
  if (!plane.barrier("meet", soon()).is_ok()) return 1;
  if (plane.world_rank() == stopped) {
    kill(getpid(), SIGSTOP);
    return 0;
  }
  sleep_ns(100'000'000);
  Stopwatch watch;
  Status status = plane.barrier("the step's vote", Deadline::after_s(2));
  if (status.code() != StatusCode::kTimeout) return 2;
  if (status.message().find(cat("rank ", stopped)) == std::string::npos) return 3;
  if (watch.elapsed_s() > lockstep::testing::kLongBeforeSoonS) return 4;
  sleep_ns(1'000'000'000);
  return 0;
}

void stop_one_of(int num_ranks, int stopped) {
  ForkedRanks ranks(num_ranks);
  ranks.start(
      [&](TcpControlPlane& plane) { return check_that_standstill_is_named(plane, stopped); });
  std::vector<int> survivors;
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (rank != stopped) survivors.push_back(rank);
  }
  EXPECT_THAT(ranks.wait_for_all(survivors), ::testing::Each(0)) << "stopped rank " << stopped;
  kill(ranks.pid_of(stopped), SIGKILL);
  kill(ranks.pid_of(stopped), SIGCONT);
  ranks.wait_for_all({stopped});
}

TEST(TcpControlPlane, NamesAStoppedRankAtTheDeadline) {
  stop_one_of(4, 2);
}
TEST(TcpControlPlane, NamesAStoppedRank0AtTheDeadline) {
  stop_one_of(4, 0);
}

TEST(TcpControlPlane, StartNamesTheRanksThatDidNotCome) {
  auto nobody_else = [](std::string text) -> Result<std::string> { return text; };
  auto plane = TcpControlPlane::connect(0, 3, {"127.0.0.1"}, nobody_else, Deadline::after_s(0.3));
  EXPECT_EQ(plane.status().code(), StatusCode::kTimeout);
  EXPECT_THAT(plane.status().message(), HasSubstr("ranks 1 and 2 did not connect"));
}

TEST(TcpControlPlane, StartNamesRank0WhenNothingListens) {
  PlaneRendezvous rendezvous;
  rendezvous.endpoints = {"127.0.0.1 1"};
  auto broadcast = [&](std::string) -> Result<std::string> { return rendezvous.to_text(); };
  auto plane = TcpControlPlane::connect(1, 2, {}, broadcast, Deadline::after_s(0.3));
  EXPECT_EQ(plane.status().code(), StatusCode::kTimeout);
  EXPECT_THAT(plane.status().message(), HasSubstr("rank 0 does not answer at 127.0.0.1 1"));
}

TEST(TcpControlPlane, SaysWhichAddressItCannotListenOn) {
  auto broadcast = [](std::string text) -> Result<std::string> { return text; };
  auto plane = TcpControlPlane::connect(0, 2, {"203.0.113.7"}, broadcast, soon());
  EXPECT_EQ(plane.status().code(), StatusCode::kIoError);
  EXPECT_THAT(plane.status().message(), HasSubstr("203.0.113.7"));
}

/// Sends `bytes` to rank 0's port and returns what comes back before the connection is closed.
std::string answer_to(const std::string& endpoint, const std::string& bytes) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  auto parts = split(endpoint, ' ');
  socket.connect({asio::ip::make_address(parts[0]), static_cast<uint16_t>(std::stoi(parts[1]))});
  asio::error_code error;
  asio::write(socket, asio::buffer(bytes), error);
  std::string answer;
  asio::read(socket, asio::dynamic_buffer(answer), error);
  return answer;
}

TEST(TcpControlPlane, DropsWhoeverLacksTheToken) {
  std::promise<std::string> text;
  std::shared_future<std::string> sent = text.get_future().share();
  std::thread rank_0([&] {
    auto broadcast = [&](std::string of_rank_0) -> Result<std::string> {
      text.set_value(of_rank_0);
      return of_rank_0;
    };
    auto plane = TcpControlPlane::connect(0, 2, {"127.0.0.1"}, broadcast, soon());
    ASSERT_TRUE(plane.is_ok()) << plane.status().to_string();
    EXPECT_TRUE((*plane)->barrier("with the right one", soon()).is_ok());
    EXPECT_TRUE((*plane)->shutdown(soon()).is_ok());
  });
  auto rendezvous = PlaneRendezvous::parse(sent.get());
  ASSERT_TRUE(rendezvous.has_value());
  const std::string& endpoint = rendezvous->endpoints[0];
  ControlToken wrong = rendezvous->token;
  wrong[31] = static_cast<char>(wrong[31] ^ 1);
  auto hello = [](uint32_t rank, const ControlToken& token) {
    return make_frame(FrameType::kHello, hello_body({rank, token}));
  };
  EXPECT_EQ(answer_to(endpoint, hello(1, wrong)), "");
  EXPECT_EQ(answer_to(endpoint, hello(0, rendezvous->token)), "") << "rank 0 is taken";
  EXPECT_EQ(answer_to(endpoint, hello(2, rendezvous->token)), "") << "no such rank";
  EXPECT_EQ(answer_to(endpoint, make_frame(FrameType::kGiveUp, give_up_body({0, 1}))), "");
  EXPECT_EQ(answer_to(endpoint, make_frame(FrameType::kHello, std::string(1000, 'x'))), "");
  EXPECT_EQ(answer_to(endpoint, "GET / HTTP/1.1\r\n\r\n"), "");
  auto plane = TcpControlPlane::connect(
      1, 2, {}, [&](std::string) -> Result<std::string> { return rendezvous->to_text(); }, soon());
  EXPECT_TRUE(plane.is_ok()) << plane.status().to_string();
  EXPECT_TRUE((*plane)->barrier("with the right one", soon()).is_ok());
  EXPECT_TRUE((*plane)->shutdown(soon()).is_ok());
  rank_0.join();
}

}  // namespace
}  // namespace lockstep
