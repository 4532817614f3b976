#include "control_protocol.h"

#include <algorithm>
#include <limits>
#include <random>

#include "lockstep/distributed/control_plane.h"

namespace lockstep {
namespace {

constexpr uint32_t kMagic = 0x314c504c;  // "LPL1"
constexpr uint32_t kVersion = 3;
constexpr uint64_t kMaxWhatBytes = 64 * 1024;
constexpr uint64_t kOverheadBytes = 4096;

class Writer {
 public:
  template <typename T>
  Writer& number(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
      out_.push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i) & 0xff));
    }
    return *this;
  }
  Writer& text(std::string_view text) {
    number<uint64_t>(text.size());
    return raw(text);
  }
  Writer& raw(std::string_view bytes) {
    out_.append(bytes);
    return *this;
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

/// Reads what Writer wrote; after the first lack of bytes everything is empty and is_complete()
/// false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  template <typename T>
  T number() {
    std::string_view bytes = raw(sizeof(T));
    uint64_t value = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    }
    return static_cast<T>(value);
  }
  std::string_view text() { return raw(number<uint64_t>()); }
  std::string_view raw(uint64_t size) {
    if (!is_good_ || size > left_.size()) {
      is_good_ = false;
      return {};
    }
    std::string_view bytes = left_.substr(0, size);
    left_.remove_prefix(size);
    return bytes;
  }
  size_t num_left() const { return left_.size(); }
  bool is_complete() const { return is_good_ && left_.empty(); }

 private:
  std::string_view left_;
  bool is_good_ = true;
};

ControlToken token_of(std::string_view bytes) {
  ControlToken token{};
  std::copy_n(bytes.begin(), std::min(bytes.size(), token.size()), token.begin());
  return token;
}

std::string_view view_of(const ControlToken& token) {
  return {token.data(), token.size()};
}

}  // namespace

ControlToken make_control_token() {
  std::random_device
      device;  // getrandom or the processor's generator; not the default of a seeded engine
  ControlToken token{};
  for (size_t i = 0; i < token.size(); i += 4) {
    uint32_t word = device();
    for (size_t b = 0; b < 4; ++b) token[i + b] = static_cast<char>(word >> (8 * b) & 0xff);
  }
  return token;
}

bool same_token(const ControlToken& a, const ControlToken& b) {
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

uint64_t max_body_bytes_from_rank() {
  return kMaxControlMessageBytes + kMaxWhatBytes + kOverheadBytes;
}

uint64_t max_body_bytes_from_rank_0(int world_size) {
  return static_cast<uint64_t>(world_size) * max_body_bytes_from_rank();
}

std::string make_frame(FrameType type, std::string_view body) {
  Writer writer;
  writer.number<uint32_t>(kMagic).number<uint32_t>(static_cast<uint32_t>(type));
  return writer.number<uint64_t>(body.size()).raw(body).take();
}

std::optional<FrameHeader> parse_frame_header(std::string_view bytes, uint64_t max_body_bytes) {
  Reader reader(bytes);
  auto magic = reader.number<uint32_t>();
  auto type = reader.number<uint32_t>();
  auto body_bytes = reader.number<uint64_t>();
  bool is_known = type >= static_cast<uint32_t>(FrameType::kHello) &&
                  type <= static_cast<uint32_t>(FrameType::kLost);
  if (!reader.is_complete() || magic != kMagic || !is_known || body_bytes > max_body_bytes) {
    return std::nullopt;
  }
  return FrameHeader{static_cast<FrameType>(type), body_bytes};
}

std::string hello_body(const Hello& hello) {
  Writer writer;
  writer.number<uint32_t>(kVersion).number<uint32_t>(hello.world_rank);
  return writer.raw(view_of(hello.token)).take();
}

std::optional<Hello> parse_hello(std::string_view body) {
  Reader reader(body);
  auto version = reader.number<uint32_t>();
  Hello hello;
  hello.world_rank = reader.number<uint32_t>();
  hello.token = token_of(reader.raw(hello.token.size()));
  if (!reader.is_complete() || version != kVersion) return std::nullopt;
  return hello;
}

std::string welcome_body(const ControlToken& reply_token) {
  return std::string(view_of(reply_token));
}

std::optional<ControlToken> parse_welcome(std::string_view body) {
  if (body.size() != ControlToken{}.size()) return std::nullopt;
  return token_of(body);
}

std::string arrival_body(const Arrival& arrival) {
  Writer writer;
  writer.number<uint64_t>(arrival.round).number<uint8_t>(arrival.is_last ? 1 : 0);
  return writer.text(std::string_view(arrival.what).substr(0, kMaxWhatBytes))
      .text(arrival.message)
      .take();
}

std::optional<Arrival> parse_arrival(std::string_view body) {
  Reader reader(body);
  Arrival arrival;
  arrival.round = reader.number<uint64_t>();
  arrival.is_last = reader.number<uint8_t>() != 0;
  arrival.what = reader.text();
  arrival.message = reader.text();
  if (!reader.is_complete()) return std::nullopt;
  return arrival;
}

std::string result_body(const RoundResult& result) {
  Writer writer;
  writer.number<uint64_t>(result.round)
      .number<uint8_t>(static_cast<uint8_t>(result.status.code()))
      .text(result.status.message())
      .number<uint32_t>(static_cast<uint32_t>(result.messages.size()));
  for (const std::string& message : result.messages) writer.text(message);
  return writer.take();
}

std::optional<RoundResult> parse_result(std::string_view body) {
  Reader reader(body);
  RoundResult result;
  result.round = reader.number<uint64_t>();
  auto code = reader.number<uint8_t>();
  std::string error(reader.text());
  auto num_messages = reader.number<uint32_t>();
  // Each message takes at least its length field: bounds the loop by the bytes that are there.
  if (code > static_cast<uint8_t>(StatusCode::kInternal)) return std::nullopt;
  if (num_messages > reader.num_left() / sizeof(uint64_t)) return std::nullopt;
  result.status = Status(static_cast<StatusCode>(code), std::move(error));
  for (uint32_t i = 0; i < num_messages; ++i) result.messages.emplace_back(reader.text());
  if (!reader.is_complete()) return std::nullopt;
  return result;
}

std::string give_up_body(const GiveUp& give_up) {
  return Writer().number<uint64_t>(give_up.round).number<uint64_t>(give_up.waited_ms).take();
}

std::optional<GiveUp> parse_give_up(std::string_view body) {
  Reader reader(body);
  GiveUp give_up;
  give_up.round = reader.number<uint64_t>();
  give_up.waited_ms = reader.number<uint64_t>();
  if (!reader.is_complete()) return std::nullopt;
  return give_up;
}

std::string lost_body(int world_rank) {
  return Writer().number<uint64_t>(static_cast<uint64_t>(world_rank)).take();
}

std::optional<int> parse_lost(std::string_view body) {
  Reader reader(body);
  auto rank = reader.number<uint64_t>();
  if (!reader.is_complete() || rank > std::numeric_limits<int>::max()) return std::nullopt;
  return static_cast<int>(rank);
}

}  // namespace lockstep
