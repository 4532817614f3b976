#include <chrono>

#include "plane_end.h"

namespace lockstep {
namespace {

using asio::ip::tcp;

/// Between rounds through all endpoints.
constexpr std::chrono::milliseconds kPause{50};

std::shared_ptr<const std::string> shared_frame(FrameType type, std::string_view body) {
  return std::make_shared<const std::string>(make_frame(type, body));
}

std::optional<tcp::endpoint> parse_endpoint(const std::string& text) {
  std::vector<std::string> parts = split(text, ' ');
  asio::error_code error;
  auto address = asio::ip::make_address(parts[0], error);
  unsigned port = 0;
  if (error || parts.size() != 2) return std::nullopt;
  const char* end = parts[1].data() + parts[1].size();
  if (std::from_chars(parts[1].data(), end, port).ptr != end || port > 65535) return std::nullopt;
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

}  // namespace

std::string PlaneRendezvous::to_text() const {
  return cat(std::string_view(token.data(), token.size()),
             std::string_view(reply_token.data(), reply_token.size()), join(endpoints, "\n"));
}

std::optional<PlaneRendezvous> PlaneRendezvous::parse(std::string_view text) {
  PlaneRendezvous rendezvous;
  size_t size = rendezvous.token.size();
  if (text.size() <= 2 * size) return std::nullopt;
  text.copy(rendezvous.token.data(), size);
  text.copy(rendezvous.reply_token.data(), size, size);
  rendezvous.endpoints = split(text.substr(2 * size), '\n');
  for (const std::string& endpoint : rendezvous.endpoints) {
    if (!parse_endpoint(endpoint)) return std::nullopt;
  }
  return rendezvous;
}

PlaneSpoke::PlaneSpoke(asio::io_context& io, PlaneInbox& inbox, int world_rank, int world_size,
                       PlaneRendezvous rendezvous, std::chrono::milliseconds try_time)
    : io_(io),
      inbox_(inbox),
      world_rank_(world_rank),
      world_size_(world_size),
      rendezvous_(std::move(rendezvous)),
      try_time_(try_time),
      timer_(io) {}

void PlaneSpoke::start_timer(std::chrono::milliseconds time, std::function<void()> when_over) {
  uint64_t number = ++timer_number_;
  timer_.expires_after(time);
  timer_.async_wait([this, number, when_over = std::move(when_over)](asio::error_code error) {
    if (!error && number == timer_number_) when_over();
  });
}

void PlaneSpoke::stop_timer() {
  ++timer_number_;
  timer_.cancel();
}

void PlaneSpoke::try_endpoint(size_t index) {
  if (is_closing_) return;
  auto socket = std::make_shared<tcp::socket>(io_);
  start_timer(try_time_, [socket] {
    asio::error_code ignored;
    socket->close(ignored);
  });
  socket->async_connect(*parse_endpoint(rendezvous_.endpoints[index]),
                        [this, index, socket](asio::error_code error) {
                          stop_timer();
                          if (error || !socket->is_open()) return try_next(index);
                          say_hello(index, std::move(*socket));
                        });
}

void PlaneSpoke::try_next(size_t index) {
  if (is_closing_) return;
  if (index + 1 < rendezvous_.endpoints.size()) return try_endpoint(index + 1);
  start_timer(kPause, [this] { try_endpoint(0); });
}

void PlaneSpoke::say_hello(size_t index, tcp::socket socket) {
  auto connection = std::make_shared<TcpConnection>(std::move(socket), ControlToken{}.size());
  connection_ = connection;
  auto give_up = [this, index] {
    stop_timer();
    connection_ = nullptr;
    try_next(index);
  };
  start_timer(try_time_, [connection, give_up] {
    connection->close();
    give_up();
  });
  connection->start(
      [this, connection = connection.get(), give_up](FrameType type, const std::string& body) {
        std::optional<ControlToken> reply;
        if (type == FrameType::kWelcome) reply = parse_welcome(body);
        if (!reply || !same_token(*reply, rendezvous_.reply_token)) {
          connection->close();
          return give_up();
        }
        stop_timer();
        connection->hand_over([this](FrameType t, const std::string& b) { receive(t, b); },
                              [this] {
                                if (!is_closing_) inbox_.lose(0);
                              },
                              max_body_bytes_from_rank_0(world_size_));
        inbox_.set_ready();
      },
      give_up);
  Hello hello{static_cast<uint32_t>(world_rank_), rendezvous_.token};
  connection->send(shared_frame(FrameType::kHello, hello_body(hello)));
}

void PlaneSpoke::receive(FrameType type, const std::string& body) {
  if (type == FrameType::kResult) {
    if (auto result = parse_result(body)) {
      is_closing_ = is_closing_ || (result->status.is_ok() && result->round == last_round_);
      return inbox_.deliver(std::move(*result));
    }
  } else if (type == FrameType::kLost) {
    if (auto rank = parse_lost(body)) return inbox_.lose(*rank);
  }
  connection_->close();
  inbox_.lose(0);
}

void PlaneSpoke::arrive(Arrival arrival) {
  if (arrival.is_last) last_round_ = arrival.round;
  if (connection_) connection_->send(shared_frame(FrameType::kArrive, arrival_body(arrival)));
}

void PlaneSpoke::give_up(GiveUp give_up) {
  if (connection_) connection_->send(shared_frame(FrameType::kGiveUp, give_up_body(give_up)));
}

void PlaneSpoke::drain() {
  if (!connection_) return inbox_.set_drained();
  connection_->when_drained([this] { inbox_.set_drained(); });
}

void PlaneSpoke::close() {
  is_closing_ = true;
  stop_timer();
  if (connection_) std::exchange(connection_, nullptr)->close();
}

}  // namespace lockstep
