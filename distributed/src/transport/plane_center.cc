#include <algorithm>
#include <chrono>

#include "plane_end.h"
#include "rank_names.h"

namespace lockstep {
namespace {

using asio::ip::tcp;

/// How long a connection may stay without a valid hello, and how many such there may be.
constexpr std::chrono::seconds kHelloTime{10};
constexpr size_t kMaxStrangers = 256;
/// Before accepting again after an error, which may last (no file descriptors left).
constexpr std::chrono::milliseconds kAcceptPause{50};

std::shared_ptr<const std::string> shared_frame(FrameType type, std::string_view body) {
  return std::make_shared<const std::string>(make_frame(type, body));
}

}  // namespace

PlaneCenter::PlaneCenter(asio::io_context& io, PlaneInbox& inbox, int world_size)
    : io_(io), inbox_(inbox), world_size_(world_size), peers_(static_cast<size_t>(world_size)) {}

Result<PlaneRendezvous> PlaneCenter::listen(const std::vector<std::string>& addresses) {
  rendezvous_.token = make_control_token();
  rendezvous_.reply_token = make_control_token();
  std::string refusals;
  for (const std::string& address : addresses) {
    asio::error_code error;
    auto parsed = asio::ip::make_address(address, error);
    auto acceptor = std::make_unique<tcp::acceptor>(io_);
    if (!error) acceptor->open(parsed.is_v6() ? tcp::v6() : tcp::v4(), error);
    if (!error) acceptor->bind(tcp::endpoint(parsed, 0), error);
    if (!error) acceptor->listen(std::max(world_size_, 16), error);
    tcp::endpoint bound = error ? tcp::endpoint() : acceptor->local_endpoint(error);
    if (error) {
      refusals += cat(" ", address, " (", error.message(), ")");
      continue;
    }
    rendezvous_.endpoints.push_back(cat(address, " ", bound.port()));
    acceptors_.push_back(std::move(acceptor));
  }
  if (acceptors_.empty()) {
    return io_error(cat("the control plane can't listen on any address:", refusals));
  }
  for (auto& acceptor : acceptors_) accept(*acceptor);
  return rendezvous_;
}

std::vector<int> PlaneCenter::unconnected() const {
  std::vector<int> ranks;
  for (int rank = 1; rank < world_size_; ++rank) {
    if (!peers_[static_cast<size_t>(rank)]) ranks.push_back(rank);
  }
  return ranks;
}

void PlaneCenter::accept(tcp::acceptor& acceptor) {
  acceptor.async_accept([this, &acceptor](asio::error_code error, tcp::socket socket) {
    if (!acceptor.is_open()) return;
    if (error) return accept_later(acceptor);
    if (strangers_.size() < kMaxStrangers) receive_stranger(std::move(socket));
    accept(acceptor);
  });
}

void PlaneCenter::accept_later(tcp::acceptor& acceptor) {
  auto timer = std::make_shared<asio::steady_timer>(io_, kAcceptPause);
  timer->async_wait([this, &acceptor, timer](asio::error_code) {
    if (acceptor.is_open()) accept(acceptor);
  });
}

void PlaneCenter::receive_stranger(tcp::socket socket) {
  auto connection = std::make_shared<TcpConnection>(std::move(socket), kHelloBodyBytes);
  auto timer = std::make_shared<asio::steady_timer>(io_, kHelloTime);
  auto drop = [this, connection = connection.get(), timer] {
    timer->cancel();
    std::erase_if(strangers_, [&](const auto& other) { return other.get() == connection; });
  };
  std::weak_ptr<TcpConnection> weak = connection;
  timer->async_wait([this, weak](asio::error_code error) {
    auto stranger = weak.lock();
    if (error || !stranger || strangers_.erase(stranger) == 0) return;
    stranger->close();
  });
  auto on_frame = [this, weak, drop](FrameType type, const std::string& body) {
    auto stranger = weak.lock();
    if (!stranger) return;
    drop();
    std::optional<Hello> hello = type == FrameType::kHello ? parse_hello(body) : std::nullopt;
    bool is_ours = hello && same_token(hello->token, rendezvous_.token) && hello->world_rank >= 1 &&
                   hello->world_rank < static_cast<uint32_t>(world_size_) &&
                   !peers_[hello->world_rank];
    if (!is_ours) return stranger->close();
    welcome(stranger, *hello);
  };
  strangers_.insert(connection);
  connection->start(on_frame, drop);
}

void PlaneCenter::welcome(const std::shared_ptr<TcpConnection>& connection, const Hello& hello) {
  int rank = static_cast<int>(hello.world_rank);
  connection->hand_over(
      [this, rank](FrameType type, const std::string& body) { receive(rank, type, body); },
      [this, rank] { lose(rank); }, max_body_bytes_from_rank());
  peers_[hello.world_rank] = connection;
  connection->send(shared_frame(FrameType::kWelcome, welcome_body(rendezvous_.reply_token)));
  if (++num_connected_ == world_size_) {
    stop_listening();
    inbox_.set_ready();
  }
}

void PlaneCenter::stop_listening() {
  asio::error_code ignored;
  for (auto& acceptor : acceptors_) acceptor->close(ignored);
  for (const auto& stranger : std::exchange(strangers_, {})) stranger->close();
}

void PlaneCenter::receive(int rank, FrameType type, const std::string& body) {
  if (type == FrameType::kArrive) {
    if (auto arrival = parse_arrival(body)) return arrive_from(rank, std::move(*arrival));
  } else if (type == FrameType::kGiveUp) {
    if (auto give_up = parse_give_up(body)) return end_series(*give_up);
  }
  lose(rank);
}

void PlaneCenter::arrive_from(int rank, Arrival arrival) {
  if (series_of(arrival.round) < series_of(num_rounds_done_)) {
    return answer(rank, arrival.round,
                  timeout_error(cat("rank ", rank, " came too late: the others had given up")));
  }
  enter_series(arrival.round);
  if (!given_up_.is_ok()) return answer(rank, arrival.round, given_up_);
  // A rank begins a round only after the result of the one before, so it is at most one ahead of
  // the slowest.
  bool is_in_turn = arrival.round == num_rounds_done_ || arrival.round == num_rounds_done_ + 1;
  auto it = rounds_.try_emplace(arrival.round, world_size_).first;
  GatherRound& round = it->second;
  if (!is_in_turn || !round.arrive(rank, arrival.what, std::move(arrival.message)))
    return lose(rank);
  if (!round.is_complete()) return;
  RoundResult result{arrival.round, round.agreement(), {}};
  if (result.status.is_ok()) result.messages = round.take_messages();
  is_closing_ = is_closing_ || (arrival.is_last && result.status.is_ok());
  rounds_.erase(it);
  num_rounds_done_ = arrival.round + 1;
  tell_all(std::move(result));
}

void PlaneCenter::tell_all(RoundResult result) {
  auto frame = shared_frame(FrameType::kResult, result_body(result));
  for (auto& peer : peers_) {
    if (peer) peer->send(frame);
  }
  inbox_.deliver(std::move(result));
}

void PlaneCenter::answer(int rank, uint64_t round, const Status& status) {
  RoundResult result{round, status, {}};
  auto& peer = peers_[static_cast<size_t>(rank)];
  if (peer) peer->send(shared_frame(FrameType::kResult, result_body(result)));
  if (rank == 0) inbox_.deliver(std::move(result));
}

void PlaneCenter::end_rounds(const Status& status) {
  for (const auto& [round, arrivals] : std::exchange(rounds_, {})) tell_all({round, status, {}});
}

void PlaneCenter::enter_series(uint64_t round) {
  if (series_of(round) == series_of(num_rounds_done_)) return;
  end_rounds(timeout_error("another rank gave this up and went on"));
  num_rounds_done_ = series_of(round) << 32;
  given_up_ = Status::ok();
}

void PlaneCenter::end_series(const GiveUp& give_up) {
  auto it = rounds_.find(give_up.round);
  // Whoever gives a round up has arrived in it: one that isn't open has a result, which was sent.
  if (it == rounds_.end()) return;
  given_up_ = timeout_error(cat(ranks_text(it->second.missing()), " did not arrive within ",
                                fixed(static_cast<double>(give_up.waited_ms) / 1e3, 3), " s"));
  end_rounds(given_up_);
}

void PlaneCenter::lose(int rank) {
  auto& lost = peers_[static_cast<size_t>(rank)];
  if (!lost || is_closing_) return;
  std::exchange(lost, nullptr)->close();
  auto frame = shared_frame(FrameType::kLost, lost_body(rank));
  for (auto& peer : peers_) {
    if (peer) peer->send(frame);
  }
  inbox_.lose(rank);
}

void PlaneCenter::drain() {
  auto num_left = std::make_shared<size_t>(peers_.size());
  for (auto& peer : peers_) {
    auto done = [this, num_left] {
      if (--*num_left == 0) inbox_.set_drained();
    };
    if (peer) {
      peer->when_drained(done);
    } else {
      done();
    }
  }
}

void PlaneCenter::close() {
  is_closing_ = true;
  stop_listening();
  for (auto& peer : peers_) {
    if (peer) std::exchange(peer, nullptr)->close();
  }
}

}  // namespace lockstep
