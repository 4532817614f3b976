#include "control_protocol.h"

#include <gtest/gtest.h>

#include <random>

namespace lockstep {
namespace {

TEST(ControlProtocol, RoundTripsEveryBody) {
  Hello hello{7, make_control_token()};
  auto parsed_hello = parse_hello(hello_body(hello));
  ASSERT_TRUE(parsed_hello.has_value());
  EXPECT_EQ(parsed_hello->world_rank, 7U);
  EXPECT_TRUE(same_token(parsed_hello->token, hello.token));

  auto arrival = parse_arrival(arrival_body({5, true, "what", std::string("a\0b", 3)}));
  ASSERT_TRUE(arrival.has_value());
  EXPECT_EQ(arrival->round, 5U);
  EXPECT_TRUE(arrival->is_last);
  EXPECT_EQ(arrival->what, "what");
  EXPECT_EQ(arrival->message, std::string("a\0b", 3));

  auto result = parse_result(result_body({9, Status::ok(), {"x", "", "yz"}}));
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(result->status.is_ok());
  EXPECT_EQ(result->messages, (std::vector<std::string>{"x", "", "yz"}));
  auto failed = parse_result(result_body({9, io_error("disk"), {}}));
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->status.to_string(), "i/o error: disk");

  auto give_up = parse_give_up(give_up_body({1ULL << 40, 2500}));
  ASSERT_TRUE(give_up.has_value());
  EXPECT_EQ(give_up->round, 1ULL << 40);
  EXPECT_EQ(give_up->waited_ms, 2500U);
  EXPECT_EQ(parse_lost(lost_body(12345)), 12345);
}

TEST(ControlProtocol, RefusesEveryTruncationAndExtension) {
  std::string bodies[] = {hello_body({1, make_control_token()}), arrival_body({5, false, "w", "m"}),
                          result_body({9, io_error("disk"), {"x", "yz"}}),
                          give_up_body({3, 10}), lost_body(77)};
  for (int kind = 0; kind < 5; ++kind) {
    auto parses = [&](std::string_view body) {
      switch (kind) {
        case 0:
          return parse_hello(body).has_value();
        case 1:
          return parse_arrival(body).has_value();
        case 2:
          return parse_result(body).has_value();
        case 3:
          return parse_give_up(body).has_value();
        default:
          return parse_lost(body).has_value();
      }
    };
    const std::string& body = bodies[kind];
    EXPECT_TRUE(parses(body));
    EXPECT_FALSE(parses(body + "x"));
    for (size_t size = 0; size < body.size(); ++size) EXPECT_FALSE(parses(body.substr(0, size)));
  }
}

TEST(ControlProtocol, SurvivesRandomBytes) {
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes(random() % 80, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 4 == 0 ? random() & 0xff : 0);
    (void)parse_hello(bytes);
    (void)parse_arrival(bytes);
    (void)parse_give_up(bytes);
    (void)parse_lost(bytes);
    auto result = parse_result(bytes);
    if (result) {
      EXPECT_LE(result->messages.size(), bytes.size());
    }
  }
}

TEST(ControlProtocol, LimitsFramesBeforeTakingMemory) {
  std::string frame = make_frame(FrameType::kArrive, std::string(1000, 'x'));
  std::string_view header = std::string_view(frame).substr(0, kFrameHeaderBytes);
  ASSERT_TRUE(parse_frame_header(header, 1000).has_value());
  EXPECT_EQ(parse_frame_header(header, 1000)->body_bytes, 1000U);
  EXPECT_FALSE(parse_frame_header(header, 999).has_value());
  EXPECT_FALSE(parse_frame_header(header.substr(1), 1000).has_value());
  std::string other_magic(header);
  other_magic[0] = 'X';
  EXPECT_FALSE(parse_frame_header(other_magic, 1000).has_value());
  std::string other_type(header);
  other_type[4] = 99;
  EXPECT_FALSE(parse_frame_header(other_type, 1000).has_value());
}

TEST(ControlProtocol, TokensDiffer) {
  ControlToken a = make_control_token();
  ControlToken b = make_control_token();
  EXPECT_TRUE(same_token(a, a));
  EXPECT_FALSE(same_token(a, b));
  for (size_t i = 0; i < a.size(); ++i) {
    ControlToken changed = a;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    EXPECT_FALSE(same_token(a, changed)) << i;
  }
}

}  // namespace
}  // namespace lockstep
