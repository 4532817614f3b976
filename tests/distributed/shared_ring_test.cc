// Shared rings between threads; between processes they are covered by the MPI conformance suite.
#include "shared_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "local_rings.h"

namespace lockstep {
namespace {

struct FreeAligned {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte, FreeAligned>;

Memory aligned_memory(size_t num_bytes) {
  return Memory(static_cast<std::byte*>(std::aligned_alloc(64, (num_bytes + 63) / 64 * 64)));
}

TEST(SharedRing, HoldsItsSlotsAndNoMore) {
  Memory memory = aligned_memory(SharedRing::bytes_needed());
  SharedRing writer(memory.get());
  SharedRing reader(memory.get());
  reader.format();
  SharedRing::Fragment fragment;
  EXPECT_FALSE(reader.front(&fragment));
  for (uint64_t i = 0; i < SharedRing::kNumSlots; ++i) {
    ASSERT_EQ(writer.free_slot().size(), SharedRing::kSlotBytes);
    writer.free_slot()[0] = static_cast<std::byte>(i);
    writer.publish(1, 100 + i);
  }
  EXPECT_TRUE(writer.free_slot().empty());
  for (uint64_t i = 0; i < SharedRing::kNumSlots; ++i) {
    ASSERT_TRUE(reader.front(&fragment));
    EXPECT_EQ(fragment.bytes.size(), 1U);
    EXPECT_EQ(fragment.bytes[0], static_cast<std::byte>(i));
    EXPECT_EQ(fragment.message_bytes, 100 + i);
    reader.pop();
  }
  EXPECT_FALSE(reader.front(&fragment));
  EXPECT_FALSE(writer.free_slot().empty());
}

TEST(SharedRing, KeepsOrderBetweenTwoThreads) {
  Memory memory = aligned_memory(SharedRing::bytes_needed());
  SharedRing reader(memory.get());
  reader.format();
  constexpr uint32_t kNumFragments = 20'000;
  std::thread writing([&] {
    SharedRing writer(memory.get());
    for (uint32_t i = 0; i < kNumFragments; ++i) {
      while (writer.free_slot().empty()) std::this_thread::yield();
      std::memcpy(writer.free_slot().data(), &i, sizeof(i));
      writer.publish(sizeof(i), sizeof(i));
    }
  });
  for (uint32_t i = 0; i < kNumFragments; ++i) {
    SharedRing::Fragment fragment;
    while (!reader.front(&fragment)) std::this_thread::yield();
    uint32_t value = 0;
    std::memcpy(&value, fragment.bytes.data(), sizeof(value));
    ASSERT_EQ(value, i);
    reader.pop();
  }
  writing.join();
}

/// Two ranks of one host, as world ranks 5 and 2, in one process.
class LocalRingsTest : public ::testing::Test {
 protected:
  LocalRingsTest() {
    size_t size = LocalRings::segment_bytes(2);
    memory_[0] = aligned_memory(size);
    memory_[1] = aligned_memory(size);
    std::byte* segments[] = {memory_[0].get(), memory_[1].get()};
    int world_ranks[] = {5, 2};
    of_5_.attach(5, segments, world_ranks, 100'000);
    of_2_.attach(2, segments, world_ranks, 100'000);
  }

  Memory memory_[2];
  LocalRings of_5_{8};
  LocalRings of_2_{8};
};

TEST_F(LocalRingsTest, CarriesSmallMessagesToThisHostOnly) {
  EXPECT_TRUE(of_5_.carries(2, 100'000));
  EXPECT_FALSE(of_5_.carries(2, 100'001));
  EXPECT_FALSE(of_5_.carries(3, 1));
  EXPECT_FALSE(LocalRings(8).carries(2, 0));
}

TEST_F(LocalRingsTest, MovesMessagesLargerThanASlotAndEmptyOnes) {
  std::vector<std::byte> large(99'999);
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<std::byte>(i * 7 & 0xff);
  std::vector<std::byte> received(large.size());
  std::vector<SendOp> sends = {{2, {}}, {2, large}};
  std::vector<RecvOp> recvs = {{5, {}}, {5, received}};
  of_5_.begin(sends, {});
  of_2_.begin({}, recvs);
  EXPECT_EQ(of_2_.peers_waited_for(), std::vector<int>{5});
  std::vector<size_t> calls;
  bool has_moved = false;
  while (!of_5_.is_done() || !of_2_.is_done()) {
    ASSERT_TRUE(of_5_.progress(nullptr, 5, "test", &has_moved).is_ok());
    ASSERT_TRUE(
        of_2_.progress([&](size_t i) { calls.push_back(i); }, 2, "test", &has_moved).is_ok());
  }
  EXPECT_TRUE(has_moved);
  EXPECT_EQ(calls, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(received, large);
  EXPECT_TRUE(of_2_.peers_waited_for().empty());
}

TEST_F(LocalRingsTest, RefusesAnotherSizeAtOnce) {
  std::vector<std::byte> sent(10);
  std::vector<std::byte> received(12);
  std::vector<SendOp> sends = {{2, sent}};
  std::vector<RecvOp> recvs = {{5, received}};
  of_5_.begin(sends, {});
  of_2_.begin({}, recvs);
  bool has_moved = false;
  ASSERT_TRUE(of_5_.progress(nullptr, 5, "sizes", &has_moved).is_ok());
  Status status = of_2_.progress(nullptr, 2, "sizes", &has_moved);
  EXPECT_EQ(status.to_string(),
            "invalid argument: sizes: rank 2 expects 12 bytes from rank 5, which sent 10");
}

}  // namespace
}  // namespace lockstep
