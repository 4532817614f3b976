#include "tcp_connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <utility>

namespace lockstep {
namespace {

/// A larger buffer is given back after its frame.
constexpr size_t kKeptBodyBytes = size_t{1} << 20;

/// A host that vanished without closing, or a dropped route, is noticed after about 5 + 3 * 2 s: by
/// keepalive on an idle connection, by the user timeout while data is unacknowledged (keepalive
/// does not probe then, and retransmission alone would go on for a quarter of an hour). A dead
/// process is noticed at once: its system closes the connection.
void set_options(asio::ip::tcp::socket& socket) {
  asio::error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  auto set_tcp = [&](int option, int value) {
    setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof(value));
  };
  set_tcp(TCP_KEEPIDLE, 5);
  set_tcp(TCP_KEEPINTVL, 2);
  set_tcp(TCP_KEEPCNT, 3);
  set_tcp(TCP_USER_TIMEOUT, 11'000);  // ms
}

}  // namespace

TcpConnection::TcpConnection(asio::ip::tcp::socket socket, uint64_t max_body_bytes)
    : socket_(std::move(socket)), max_body_bytes_(max_body_bytes) {
  set_options(socket_);
}

void TcpConnection::start(OnFrame on_frame, std::function<void()> on_closed) {
  on_frame_ = std::move(on_frame);
  on_closed_ = std::move(on_closed);
  read_header();
}

void TcpConnection::hand_over(OnFrame on_frame, std::function<void()> on_closed,
                              uint64_t max_body_bytes) {
  on_frame_ = std::move(on_frame);
  on_closed_ = std::move(on_closed);
  max_body_bytes_ = max_body_bytes;
}

void TcpConnection::read_header() {
  asio::async_read(
      socket_, asio::buffer(header_), [self = shared_from_this()](asio::error_code error, size_t) {
        if (error) return self->fail();
        auto header =
            parse_frame_header({self->header_.data(), self->header_.size()}, self->max_body_bytes_);
        if (!header) return self->fail();
        self->read_body(*header);
      });
}

void TcpConnection::read_body(FrameHeader header) {
  body_.resize(header.body_bytes);
  asio::async_read(socket_, asio::buffer(body_),
                   [self = shared_from_this(), header](asio::error_code error, size_t) {
                     if (error) return self->fail();
                     // A copy: the handler may be replaced while it runs.
                     if (OnFrame on_frame = self->on_frame_) on_frame(header.type, self->body_);
                     if (self->body_.capacity() > kKeptBodyBytes) self->body_ = {};
                     if (self->socket_.is_open()) self->read_header();
                   });
}

void TcpConnection::send(std::shared_ptr<const std::string> frame) {
  if (!socket_.is_open()) return;
  outgoing_.push_back(std::move(frame));
  if (outgoing_.size() == 1) write_next();
}

void TcpConnection::write_next() {
  // The frame is held by the handler too: close() empties the queue under it.
  asio::async_write(
      socket_, asio::buffer(*outgoing_.front()),
      [self = shared_from_this(), frame = outgoing_.front()](asio::error_code error, size_t) {
        if (error) return self->fail();
        if (!self->socket_.is_open()) return;
        self->outgoing_.pop_front();
        if (!self->outgoing_.empty()) return self->write_next();
        for (auto& done : std::exchange(self->drained_, {})) done();
      });
}

void TcpConnection::when_drained(std::function<void()> done) {
  if (outgoing_.empty() || !socket_.is_open()) return done();
  drained_.push_back(std::move(done));
}

void TcpConnection::close() {
  on_frame_ = nullptr;
  on_closed_ = nullptr;
  asio::error_code ignored;
  socket_.close(ignored);
  outgoing_.clear();
  for (auto& done : std::exchange(drained_, {})) done();
}

void TcpConnection::fail() {
  auto on_closed = std::exchange(on_closed_, nullptr);
  close();
  if (on_closed) on_closed();
}

}  // namespace lockstep
