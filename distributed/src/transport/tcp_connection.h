#pragma once
// TcpConnection: one connection of the control plane: whole frames in, whole frames out, on one io
// thread. Frames that are malformed or too long close it. Thread-safety: the io thread only.

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "asio_headers.h"
#include "control_protocol.h"

namespace lockstep {

class TcpConnection : public std::enable_shared_from_this<TcpConnection> {
 public:
  using OnFrame = std::function<void(FrameType type, const std::string& body)>;

  TcpConnection(asio::ip::tcp::socket socket, uint64_t max_body_bytes);

  /// Begins to read. `on_closed` is called once, when the peer closes or breaks the protocol; not
  /// after close().
  void start(OnFrame on_frame, std::function<void()> on_closed);
  /// Replaces the handler and the limit, e.g. once the peer has proven who it is.
  void hand_over(OnFrame on_frame, std::function<void()> on_closed, uint64_t max_body_bytes);
  /// Queues a frame; frames may be shared between connections.
  void send(std::shared_ptr<const std::string> frame);
  /// Calls `done` once everything queued so far is handed to the system, or the connection is
  /// closed.
  void when_drained(std::function<void()> done);
  void close();

 private:
  void read_header();
  void read_body(FrameHeader header);
  void write_next();
  void fail();

  asio::ip::tcp::socket socket_;
  uint64_t max_body_bytes_;
  OnFrame on_frame_;
  std::function<void()> on_closed_;
  std::array<char, kFrameHeaderBytes> header_{};
  std::string body_;
  std::deque<std::shared_ptr<const std::string>> outgoing_;
  std::vector<std::function<void()>> drained_;
};

}  // namespace lockstep
