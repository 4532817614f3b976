#include "distributed/communicator_conformance.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "distributed/test_settings.h"
#include "lockstep/core/base/check.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;

/// What `from` sends to `to` as its `index`-th message.
Bytes message(int from, int to, int index, size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::byte>(
        (i * 7 + i / 251 + static_cast<size_t>(from * 31 + to * 17 + index * 5)) & 0xff);
  }
  return bytes;
}

/// Sizes differ by pair and message, and cover the transports' small and large ways.
size_t size_of(int from, int to, int index) {
  constexpr size_t kSizes[] = {1, 0, 13, 4096, 100'003, 64, 1 << 20};
  return kSizes[static_cast<size_t>(from * 3 + to * 5 + index) % std::size(kSizes)];
}

std::vector<int> peers_of(const Communicator& c) {
  std::vector<int> peers;
  for (int r = 0; r < c.world_size(); ++r) {
    if (r != c.world_rank()) peers.push_back(r);
  }
  return peers;
}

/// Every pair exchanges messages [first, end) in one group.
void exchange_with_all(Communicator& c, int first, int end, bool reversed_peers) {
  int me = c.world_rank();
  std::vector<int> peers = peers_of(c);
  if (reversed_peers) std::reverse(peers.begin(), peers.end());
  std::vector<Bytes> out;
  std::vector<Bytes> in;
  std::vector<std::pair<int, int>> expected;
  for (int i = first; i < end; ++i) {
    for (int peer : peers) {
      out.push_back(message(me, peer, i, size_of(me, peer, i)));
      in.emplace_back(size_of(peer, me, i));
      expected.emplace_back(peer, i);
    }
  }
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (size_t k = 0; k < out.size(); ++k) {
    sends.push_back({expected[k].first, out[k]});
    recvs.push_back({expected[k].first, in[k]});
  }
  std::vector<int> calls(recvs.size());
  auto on_received = [&](size_t k) {
    ++calls[k];
    auto [peer, i] = expected[k];
    EXPECT_EQ(in[k], message(peer, me, i, size_of(peer, me, i)))
        << "from " << peer << " message " << i;
  };
  Status status = c.exchange(sends, recvs, on_received, "test exchange", soon());
  ASSERT_TRUE(status.is_ok()) << status.to_string();
  EXPECT_EQ(calls, std::vector<int>(recvs.size(), 1));
}

void all_pairs(Communicator& c) {
  for (int round = 0; round < 3; ++round) exchange_with_all(c, 0, 3, false);
}

void order_over_groups(Communicator& c) {
  // One group of four on even ranks, four groups of one on their odd neighbours: messages still
  // match one by one.
  constexpr int kMessages = 4;
  const int peer = c.world_rank() ^ 1;
  if (peer >= c.world_size()) return;
  std::vector<Bytes> in, out;
  for (int i = 0; i < kMessages; ++i) {
    out.push_back(message(c.world_rank(), peer, i, 500));
    in.emplace_back(500);
  }
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (size_t i = 0; i < kMessages; ++i) {
    sends.push_back({peer, out[i]});
    recvs.push_back({peer, in[i]});
  }
  const size_t of_group = c.world_rank() % 2 == 0 ? kMessages : 1;
  for (size_t first = 0; first < kMessages; first += of_group) {
    ASSERT_TRUE(c.exchange(std::span(sends).subspan(first, of_group),
                           std::span(recvs).subspan(first, of_group), nullptr, "groups", soon())
                    .is_ok());
  }
  for (int i = 0; i < kMessages; ++i)
    EXPECT_EQ(in[static_cast<size_t>(i)], message(peer, c.world_rank(), i, 500));
}

void ring(Communicator& c) {
  int n = c.world_size();
  int next = (c.world_rank() + 1) % n;
  int previous = (c.world_rank() + n - 1) % n;
  for (size_t size : {size_t{8}, size_t{3'000'000}}) {
    Bytes out = message(c.world_rank(), next, 0, size);
    Bytes in(size);
    SendOp send{next, out};
    RecvOp recv{previous, in};
    ASSERT_TRUE(c.exchange({&send, 1}, {&recv, 1}, nullptr, "ring", soon()).is_ok());
    EXPECT_EQ(in, message(previous, c.world_rank(), 0, size));
  }
}

void many_chunks(Communicator& c) {
  // As the reducer does it: one large range in pieces, to and from the neighbour.
  int peer = c.world_rank() ^ 1;
  if (peer >= c.world_size()) return;
  constexpr size_t kChunk = 70'000;
  constexpr size_t kChunks = 24;
  Bytes out = message(c.world_rank(), peer, 0, kChunk * kChunks);
  Bytes in(kChunk * kChunks);
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (size_t i = 0; i < kChunks; ++i) {
    sends.push_back({peer, std::span(out).subspan(i * kChunk, kChunk)});
    recvs.push_back({peer, std::span(in).subspan(i * kChunk, kChunk)});
  }
  size_t num_received = 0;
  ASSERT_TRUE(c.exchange(
                   sends, recvs, [&](size_t) { ++num_received; }, "chunks", soon())
                  .is_ok());
  EXPECT_EQ(num_received, kChunks);
  EXPECT_EQ(in, message(peer, c.world_rank(), 0, kChunk * kChunks));
}

void gathers(Communicator& c) {
  auto n = static_cast<size_t>(c.world_size());
  for (size_t size : {size_t{0}, size_t{5}, size_t{200'000}}) {
    Bytes expected;
    for (int r = 0; r < c.world_size(); ++r) {
      Bytes part = message(r, r, 1, size);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    Bytes in = message(c.world_rank(), c.world_rank(), 1, size);
    Bytes out(size * n);
    ASSERT_TRUE(c.all_gather(in, out, "gather", soon()).is_ok());
    EXPECT_EQ(out, expected);

    Bytes in_place(size * n);
    auto mine = std::span(in_place).subspan(size * static_cast<size_t>(c.world_rank()), size);
    std::copy(in.begin(), in.end(), mine.begin());
    ASSERT_TRUE(c.all_gather(mine, in_place, "gather in place", soon()).is_ok());
    EXPECT_EQ(in_place, expected);
  }
}

void broadcasts(Communicator& c) {
  for (int root = 0; root < c.world_size(); ++root) {
    for (size_t size : {size_t{3}, size_t{300'000}}) {
      Bytes bytes = c.world_rank() == root ? message(root, root, 2, size) : Bytes(size);
      const Status sent = c.broadcast(bytes, root, "broadcast", soon());
      ASSERT_TRUE(sent.is_ok()) << sent.to_string();
      EXPECT_EQ(bytes, message(root, root, 2, size)) << "root " << root;
    }
  }
}

template <typename T>
void native_sum(Communicator& c) {
  // Small integers: exact in every order of addition.
  for (int64_t n : {1, 1000, 100'000}) {
    std::vector<T> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<T>(static_cast<int64_t>(i % 100) * (c.world_rank() + 1));
    }
    ASSERT_TRUE(c.native_all_reduce_sum(values.data(), n, soon()).is_ok());
    int64_t ranks_sum = int64_t{c.world_size()} * (c.world_size() + 1) / 2;
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], static_cast<T>(static_cast<int64_t>(i % 100) * ranks_sum)) << i;
    }
  }
}

void byte_count(Communicator& c) {
  uint64_t before = c.num_bytes_sent();
  exchange_with_all(c, 0, 2, true);
  uint64_t expected = 0;
  for (int peer : peers_of(c)) {
    for (int i = 0; i < 2; ++i) expected += size_of(c.world_rank(), peer, i);
  }
  EXPECT_EQ(c.num_bytes_sent() - before, expected);
}

/// A native sum counts its values once, however many messages the backend makes of them.
void native_byte_count(Communicator& c) {
  std::vector<float> floats(1000);
  std::vector<double> doubles(500);
  uint64_t before = c.num_bytes_sent();
  ASSERT_TRUE(c.native_all_reduce_sum(floats.data(), 1000, soon()).is_ok());
  EXPECT_EQ(c.num_bytes_sent() - before, c.world_size() > 1 ? 4000U : 0U);
  ASSERT_TRUE(c.native_all_reduce_sum(doubles.data(), 500, soon()).is_ok());
  EXPECT_EQ(c.num_bytes_sent() - before, c.world_size() > 1 ? 8000U : 0U);
}

void barriers(Communicator& c) {
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(c.barrier("barrier", soon()).is_ok());
}

void refuses_itself_as_peer(Communicator& c) {
  std::byte byte{};
  SendOp to_self{c.world_rank(), {&byte, 1}};
  EXPECT_THROW(c.exchange({&to_self, 1}, {}, nullptr, "self", soon()).ignore(), UsageError);
  RecvOp beyond{c.world_size(), {&byte, 1}};
  EXPECT_THROW(c.exchange({}, {&beyond, 1}, nullptr, "beyond", soon()).ignore(), UsageError);
}

/// Rank 0 waits for a message from the last rank, which sends none until rank 0 has given up.
void times_out_naming_the_peer(Communicator& c) {
  int last = c.world_size() - 1;
  if (c.world_rank() == 0) {
    Bytes in(100);
    RecvOp recv{last, in};
    Stopwatch watch;
    Status status =
        c.exchange({}, {&recv, 1}, nullptr, "the missing message", Deadline::after_s(0.3));
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr("the missing message"));
    EXPECT_THAT(status.message(), HasSubstr(cat("rank ", last)));
    EXPECT_GE(watch.elapsed_s(), 0.3);
    EXPECT_LT(watch.elapsed_s(), kLongBeforeSoonS);
    Status later = c.exchange({}, {}, nullptr, "later", soon());
    EXPECT_EQ(later.to_string(), status.to_string());
    EXPECT_EQ(c.barrier("later", soon()).to_string(), status.to_string());
  } else {
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
  }
}

/// More than any transport takes in without its receiver. Lives on: a transport may look at what it
/// could not send until the process ends.
const Bytes& unreadable_message() {
  static const Bytes bytes(3'000'000);
  return bytes;
}

/// Rank 0 sends to the last rank, which does not read.
void times_out_while_sending(Communicator& c) {
  int last = c.world_size() - 1;
  if (c.world_rank() != 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
    return;
  }
  SendOp send{last, unreadable_message()};
  Stopwatch watch;
  Status status = c.exchange({&send, 1}, {}, nullptr, "the unread message", Deadline::after_s(0.3));
  EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("the unread message"));
  EXPECT_THAT(status.message(), HasSubstr(cat("rank ", last)));
  EXPECT_GE(watch.elapsed_s(), 0.3);
  EXPECT_LT(watch.elapsed_s(), kLongBeforeSoonS);
  EXPECT_EQ(c.barrier("later", soon()).to_string(), status.to_string());
}

void refuses_a_message_of_another_size(Communicator& c, size_t sent, size_t expected) {
  if (c.world_rank() == 0) {
    Bytes in(expected);
    RecvOp recv{1, in};
    Status status = c.exchange({}, {&recv, 1}, nullptr, "sizes", Deadline::after_s(5));
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr("rank 1"));
    EXPECT_THAT(status.message(), HasSubstr(cat(expected, " bytes")));
  } else if (c.world_rank() == 1) {
    Bytes out(sent);
    SendOp send{0, out};
    // The sender learns of it where the transport tells it.
    c.exchange({&send, 1}, {}, nullptr, "sizes", Deadline::after_s(5)).ignore();
  }
}

/// Another thread aborts rank 0's communicator while rank 0 is in an exchange that can't end.
void aborts_rank_0(Communicator& c, std::span<const SendOp> sends, std::span<const RecvOp> recvs) {
  std::thread aborter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    c.abort("told to stop");
  });
  Stopwatch watch;
  Status status = c.exchange(sends, recvs, nullptr, "wait", soon());
  aborter.join();
  EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("told to stop"));
  EXPECT_LT(watch.elapsed_s(), kLongBeforeSoonS);
  EXPECT_EQ(c.barrier("later", soon()).code(), StatusCode::kAborted);
}

void abort_ends_a_wait(Communicator& c) {
  if (c.world_rank() != 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    return;
  }
  Bytes in(10);
  RecvOp recv{1, in};
  aborts_rank_0(c, {}, {&recv, 1});
}

void abort_ends_a_wait_to_send(Communicator& c) {
  if (c.world_rank() != 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    return;
  }
  SendOp send{1, unreadable_message()};
  aborts_rank_0(c, {&send, 1}, {});
}

}  // namespace

std::vector<CommunicatorCase> communicator_cases() {
  return {{"ExchangesBetweenAllPairs", 1, all_pairs},
          {"MatchesMessagesInOrderOverGroups", 1, order_over_groups},
          {"ShiftsAlongARing", 2, ring},
          {"MovesManyChunks", 2, many_chunks},
          {"AllGathers", 1, gathers},
          {"BroadcastsFromEveryRoot", 1, broadcasts},
          {"SumsFloats", 1, native_sum<float>},
          {"SumsDoubles", 1, native_sum<double>},
          {"CountsTheBytesItSends", 1, byte_count},
          {"CountsANativeSumOnce", 1, native_byte_count},
          {"PassesBarriers", 1, barriers},
          {"RefusesImpossiblePeers", 1, refuses_itself_as_peer}};
}

std::vector<CommunicatorCase> failing_communicator_cases() {
  return {{"TimesOutNamingThePeer", 2, times_out_naming_the_peer},
          {"TimesOutWhileSending", 2, times_out_while_sending},
          {"AbortEndsAWait", 2, abort_ends_a_wait},
          {"AbortEndsAWaitToSend", 2, abort_ends_a_wait_to_send}};
}

std::vector<CommunicatorCase> mismatched_communicator_cases() {
  auto longer = [](Communicator& c) { refuses_a_message_of_another_size(c, 300, 200); };
  auto shorter = [](Communicator& c) { refuses_a_message_of_another_size(c, 100, 200); };
  auto long_and_large = [](Communicator& c) {
    refuses_a_message_of_another_size(c, 3'000'000, 2'000'000);
  };
  return {{"RefusesALongerMessage", 2, longer},
          {"RefusesAShorterMessage", 2, shorter},
          {"RefusesALongerLargeMessage", 2, long_and_large}};
}

}  // namespace lockstep::testing
