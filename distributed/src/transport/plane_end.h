#pragma once
// The two ends of a TCP control plane: rank 0's centre of the star, and the spoke of every other
// rank. Both live on the plane's io thread and speak to the caller through a PlaneInbox.

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "asio_headers.h"
#include "control_protocol.h"
#include "gather_round.h"
#include "plane_inbox.h"
#include "tcp_connection.h"

namespace lockstep {

/// What every rank must know to join a plane; rank 0 makes it.
struct PlaneRendezvous {
  ControlToken token{};                ///< a rank proves with it that it belongs to the job
  ControlToken reply_token{};          ///< and rank 0 with this one
  std::vector<std::string> endpoints;  ///< "address port"

  std::string to_text() const;
  static std::optional<PlaneRendezvous> parse(std::string_view text);
};

class PlaneEnd {
 public:
  virtual ~PlaneEnd() = default;
  virtual void arrive(Arrival arrival) = 0;
  /// This rank's deadline for a round has passed: unless the round is complete, it is over for
  /// everybody, and so is its series. Leads to the delivery of the round's result.
  virtual void give_up(GiveUp give_up) = 0;
  /// Leads to PlaneInbox::set_drained once all that was sent is handed to the system.
  virtual void drain() = 0;
  virtual void close() = 0;
};

/// Accepts whoever has the token, collects the rounds, tells everybody who was lost.
class PlaneCenter final : public PlaneEnd {
 public:
  PlaneCenter(asio::io_context& io, PlaneInbox& inbox, int world_size);

  /// Opens a port on each address (IPv4 or IPv6 in digits). Call before the io thread runs.
  /// Errors: kIoError naming the address when none can be listened on.
  Result<PlaneRendezvous> listen(const std::vector<std::string>& addresses);
  /// The ranks that have not connected. Call after the io thread was stopped, or on it.
  std::vector<int> unconnected() const;

  void arrive(Arrival arrival) override { arrive_from(0, std::move(arrival)); }
  void give_up(GiveUp give_up) override { end_series(give_up); }
  void drain() override;
  void close() override;

 private:
  void accept(asio::ip::tcp::acceptor& acceptor);
  void accept_later(asio::ip::tcp::acceptor& acceptor);
  void receive_stranger(asio::ip::tcp::socket socket);
  void welcome(const std::shared_ptr<TcpConnection>& connection, const Hello& hello);
  void stop_listening();
  void receive(int rank, FrameType type, const std::string& body);
  void arrive_from(int rank, Arrival arrival);
  void end_series(const GiveUp& give_up);
  void enter_series(uint64_t round);
  void end_rounds(const Status& status);
  void answer(int rank, uint64_t round, const Status& status);
  void tell_all(RoundResult result);
  void lose(int rank);

  asio::io_context& io_;
  PlaneInbox& inbox_;
  int world_size_;
  PlaneRendezvous rendezvous_;
  std::vector<std::unique_ptr<asio::ip::tcp::acceptor>> acceptors_;
  std::set<std::shared_ptr<TcpConnection>> strangers_;  ///< connected, no valid hello yet
  std::vector<std::shared_ptr<TcpConnection>> peers_;   ///< by rank
  int num_connected_ = 1;
  uint64_t num_rounds_done_ = 0;
  std::map<uint64_t, GatherRound> rounds_;
  Status given_up_;          ///< why the present series is over, if it is
  bool is_closing_ = false;  ///< the last round is done: closed connections are no losses
};

/// One connection to rank 0.
class PlaneSpoke final : public PlaneEnd {
 public:
  /// `try_time`: for one endpoint to accept this rank, and again to welcome it.
  PlaneSpoke(asio::io_context& io, PlaneInbox& inbox, int world_rank, int world_size,
             PlaneRendezvous rendezvous,
             std::chrono::milliseconds try_time = std::chrono::seconds(3));

  /// Tries the endpoints in turn until one welcomes this rank. On the io thread.
  void connect() { try_endpoint(0); }

  void arrive(Arrival arrival) override;
  void give_up(GiveUp give_up) override;
  void drain() override;
  void close() override;

 private:
  void try_endpoint(size_t index);
  void try_next(size_t index);
  void say_hello(size_t index, asio::ip::tcp::socket socket);
  void receive(FrameType type, const std::string& body);
  void start_timer(std::chrono::milliseconds time, std::function<void()> when_over);
  void stop_timer();

  asio::io_context& io_;
  PlaneInbox& inbox_;
  int world_rank_;
  int world_size_;
  PlaneRendezvous rendezvous_;
  std::chrono::milliseconds try_time_;
  asio::steady_timer timer_;
  /// Tells a timer that was stopped when its handler was queued already from one that is over.
  uint64_t timer_number_ = 0;
  std::shared_ptr<TcpConnection> connection_;
  std::optional<uint64_t> last_round_;
  bool is_closing_ = false;
};

}  // namespace lockstep
