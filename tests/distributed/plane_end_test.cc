// The ends of a TCP control plane one by one, on an io_context that the test serves: what can't be
// timed from outside.
// Covers: plane_center.cc plane_spoke.cc plane_inbox.cc plane_thread.cc tcp_connection.cc
#include "plane_end.h"

#include <gmock/gmock.h>
#include <netinet/tcp.h>
#include <sys/resource.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "distributed/test_settings.h"
#include "plane_thread.h"

namespace lockstep {
namespace {

using asio::ip::tcp;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

const tcp::endpoint kAnyLoopback(asio::ip::address_v4::loopback(), 0);

using lockstep::testing::soon;

/// Handlers of `io` run until `is_done` or, which is a failure, for 10 s.
void serve_until(asio::io_context& io, const std::function<bool()>& is_done) {
  Deadline deadline = Deadline::after_s(10);
  while (!is_done() && !deadline.has_passed()) io.run_for(milliseconds(1));
  ASSERT_TRUE(is_done());
}

TEST(TcpConnection, GivesUpOnUnacknowledgedDataToo) {
  asio::io_context io;
  tcp::acceptor acceptor(io, kAnyLoopback);
  tcp::socket socket(io);
  socket.connect(acceptor.local_endpoint());
  int descriptor = socket.native_handle();
  auto connection = std::make_shared<TcpConnection>(std::move(socket), 100);
  int timeout_ms = 0;
  socklen_t size = sizeof(timeout_ms);
  ASSERT_EQ(getsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, &size), 0);
  EXPECT_EQ(timeout_ms, 11'000);
}

TEST(PlaneInbox, NamesTheLostRankAndWhatTheCallbackThrew) {
  PlaneInbox inbox;
  inbox.on_peer_lost([](int) { throw std::runtime_error("no room to record"); });
  inbox.lose(3);
  EXPECT_EQ(inbox.failure().code(), StatusCode::kPeerFailure);
  EXPECT_THAT(inbox.failure().message(), HasSubstr("lost rank 3"));
  EXPECT_THAT(inbox.failure().message(), HasSubstr("no room to record"));
}

struct IdleEnd final : PlaneEnd {
  void arrive(Arrival) override {}
  void give_up(GiveUp) override {}
  void drain() override {}
  void close() override { is_closed = true; }
  std::atomic<bool> is_closed = false;
};

TEST(PlaneInbox, ARoundThatIsGivenUpHasTheVerdictOfRank0) {
  for (const bool is_complete : {true, false}) {
    PlaneInbox inbox;
    std::thread rank_0;
    auto give_up = [&] {
      rank_0 = std::thread([&] {
        if (is_complete) inbox.deliver({7, Status::ok(), {"all", "came"}});
        if (!is_complete) inbox.deliver({7, timeout_error("rank 1 did not arrive"), {}});
      });
    };
    auto messages = inbox.wait_for(7, give_up, Deadline::after_s(2));
    rank_0.join();
    EXPECT_EQ(messages.is_ok(), is_complete) << messages.status().to_string();
    if (!is_complete) {
      EXPECT_EQ(messages.status().to_string(), timeout_error("rank 1 did not arrive").to_string());
    }
  }
}

TEST(PlaneInbox, NamesRank0WhenItSaysNothingOfARoundThatIsGivenUp) {
  PlaneInbox inbox;
  auto messages = inbox.wait_for(
      7, [] {}, Deadline::after_s(0.25));
  EXPECT_EQ(messages.status().code(), StatusCode::kTimeout);
  EXPECT_EQ(messages.status().to_string(),
            timeout_error("rank 0 does not answer within 0.250 s").to_string());
}

TEST(PlaneThread, AnExceptionEndsThePlaneAndNotTheProcess) {
  PlaneInbox inbox;
  IdleEnd end;
  PlaneThread thread(inbox);
  thread.start(end);
  asio::post(thread.io(), [] { throw std::runtime_error("out of memory"); });
  auto messages = inbox.wait_for(
      0, [] {}, soon());
  EXPECT_EQ(messages.status().code(), StatusCode::kInternal) << messages.status().to_string();
  EXPECT_THAT(messages.status().message(), HasSubstr("out of memory"));
  EXPECT_FALSE(inbox.wait_until_ready(soon()));
  thread.stop();
  EXPECT_TRUE(end.is_closed);
}

/// The welcome and the end of its time are noticed in one look at the system: the timer's handler
/// is queued as over when the welcome's runs, before it.
TEST(PlaneSpoke, KeepsAConnectionThatWasWelcomedAsItsTimeRanOut) {
  asio::io_context io;
  asio::io_context server_io;
  tcp::acceptor acceptor(server_io, kAnyLoopback);
  PlaneRendezvous rendezvous;
  rendezvous.reply_token.fill('r');
  rendezvous.endpoints = {cat("127.0.0.1 ", acceptor.local_endpoint().port())};
  PlaneInbox inbox;
  PlaneSpoke spoke(io, inbox, 1, 2, rendezvous, milliseconds(400));
  spoke.connect();
  tcp::socket server(server_io);
  acceptor.async_accept(server, [](asio::error_code error) { EXPECT_FALSE(error); });
  bool is_accepted = false;
  serve_until(io, [&] { return is_accepted = is_accepted || server_io.poll() > 0; });
  // The header is read and the body waited for before the time runs out.
  serve_until(io, [&] { return server.available() > 0; });
  std::string welcome = make_frame(FrameType::kWelcome, welcome_body(rendezvous.reply_token));
  asio::write(server, asio::buffer(welcome.data(), kFrameHeaderBytes));
  io.run_for(milliseconds(50));
  asio::write(server,
              asio::buffer(welcome.data() + kFrameHeaderBytes, welcome.size() - kFrameHeaderBytes));
  std::this_thread::sleep_for(milliseconds(500));
  io.run_for(milliseconds(50));
  ASSERT_TRUE(inbox.wait_until_ready(Deadline::after_s(0)));

  server.non_blocking(true);
  std::array<char, 1000> hello{};
  asio::error_code error;
  server.read_some(asio::buffer(hello), error);
  EXPECT_FALSE(error);
  server.read_some(asio::buffer(hello), error);
  EXPECT_EQ(error, asio::error::would_block) << "the spoke closed a connection that was welcomed";
  spoke.close();
}

/// No file descriptor can be made while this lives.
class NoMoreDescriptors {
 public:
  NoMoreDescriptors() {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit none = before_;
    none.rlim_cur = 0;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  ~NoMoreDescriptors() { EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

TEST(PlaneCenter, PausesBetweenAcceptsThatFailAndThenAccepts) {
  asio::io_context io;
  PlaneInbox inbox;
  PlaneCenter center(io, inbox, 2);
  auto rendezvous = center.listen({"127.0.0.1"});
  ASSERT_TRUE(rendezvous.is_ok()) << rendezvous.status().to_string();
  io.poll();  // the io_context has what it needs of the system
  asio::io_context other_io;
  PlaneInbox other_inbox;
  PlaneSpoke spoke(other_io, other_inbox, 1, 2, *rendezvous);
  spoke.connect();
  other_io.poll();
  {
    NoMoreDescriptors none;
    // Each failed accept is two handlers: its own and that of the pause.
    EXPECT_LE(io.run_for(milliseconds(300)), 16U);
  }
  serve_until(io, [&] {
    other_io.poll();
    return inbox.wait_until_ready(Deadline::after_s(0)) &&
           other_inbox.wait_until_ready(Deadline::after_s(0));
  });
  spoke.close();
  center.close();
}

}  // namespace
}  // namespace lockstep
