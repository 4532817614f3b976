#pragma once
// The bytes of the TCP control plane: frames between each rank and rank 0, little-endian, with
// limits checked before memory is taken. Pure: knows no sockets. What is parsed here may come from
// a stranger until a hello was accepted.
//
//   frame    u32 magic, u32 type, u64 body length, body
//   hello    rank -> 0: u32 protocol version, u32 rank, u8[32] token; opens a connection
//   welcome  0 -> rank: u8[32] reply token, by which rank 0 proves that it knows the job
//   arrive   rank -> 0: u64 round, u8 is_last, text what, text message
//   result   0 -> rank: u64 round, u8 status code, text error, u32 n, n texts
//   give up  rank -> 0: u64 round, u64 ms that it waited; answered by the round's result
//   lost     0 -> rank: u64 rank whose connection closed
//   text is u64 length and that many bytes.
//   A round's number is its series (upper 32 bits) and its place in it.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

enum class FrameType : uint8_t {
  kHello = 1,
  kWelcome,
  kArrive,
  kResult,
  kGiveUp,
  kLost,
};

using ControlToken = std::array<char, 32>;
/// 256 bits from the system's random device.
ControlToken make_control_token();
/// In constant time.
bool same_token(const ControlToken& a, const ControlToken& b);

inline constexpr size_t kFrameHeaderBytes = 16;
/// What a stranger may send.
inline constexpr uint64_t kHelloBodyBytes = 4 + 4 + 32;
/// What a rank may send to rank 0: one message with its what.
uint64_t max_body_bytes_from_rank();
/// What rank 0 may send: the messages of all ranks.
uint64_t max_body_bytes_from_rank_0(int world_size);

/// The series of a round, and the first round of the series after that of `round`.
constexpr uint64_t series_of(uint64_t round) {
  return round >> 32;
}
constexpr uint64_t next_series(uint64_t round) {
  return (series_of(round) + 1) << 32;
}

/// A whole frame.
std::string make_frame(FrameType type, std::string_view body);

struct FrameHeader {
  FrameType type = FrameType::kHello;
  uint64_t body_bytes = 0;
};
/// Nothing when the bytes are no header of ours or the body is longer than `max_body_bytes`.
std::optional<FrameHeader> parse_frame_header(std::string_view bytes, uint64_t max_body_bytes);

struct Hello {
  uint32_t world_rank = 0;
  ControlToken token{};
};
struct Arrival {
  uint64_t round = 0;
  bool is_last = false;  ///< of the plane: it is being shut down
  std::string what;
  std::string message;
};
struct RoundResult {
  uint64_t round = 0;
  Status status;
  std::vector<std::string> messages;
};
/// A rank's deadline for a round has passed.
struct GiveUp {
  uint64_t round = 0;
  uint64_t waited_ms = 0;
};

// Bodies. The parsers give nothing when a body is not exactly what the table says.
std::string hello_body(const Hello& hello);
std::optional<Hello> parse_hello(std::string_view body);
std::string welcome_body(const ControlToken& reply_token);
std::optional<ControlToken> parse_welcome(std::string_view body);
std::string arrival_body(const Arrival& arrival);
std::optional<Arrival> parse_arrival(std::string_view body);
std::string result_body(const RoundResult& result);
std::optional<RoundResult> parse_result(std::string_view body);
std::string give_up_body(const GiveUp& give_up);
std::optional<GiveUp> parse_give_up(std::string_view body);
std::string lost_body(int world_rank);
std::optional<int> parse_lost(std::string_view body);

}  // namespace lockstep
