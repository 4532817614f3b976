#include "network_addresses.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

using Addresses = std::vector<HostAddress>;
using Texts = std::vector<std::string>;

TEST(NetworkAddresses, OneHostUsesTheLoopback) {
  EXPECT_EQ(choose_listen_addresses({}), Texts{"127.0.0.1"});
  EXPECT_EQ(choose_listen_addresses({Addresses{{"10.0.0.1", 24}}}), Texts{"127.0.0.1"});
}

TEST(NetworkAddresses, PrefersTheNetworkThatAllHostsShare) {
  EXPECT_EQ(choose_listen_addresses({Addresses{{"192.168.7.1", 24}, {"10.0.0.1", 16}},
                                     Addresses{{"10.0.3.2", 16}}, Addresses{{"10.0.9.9", 16}}}),
            Texts{"10.0.0.1"});
}

TEST(NetworkAddresses, LeavesOutContainerBridges) {
  EXPECT_EQ(choose_listen_addresses({Addresses{{"172.17.0.1", 16}, {"10.1.0.1", 24}},
                                     Addresses{{"172.17.0.1", 16}, {"10.1.0.2", 24}}}),
            Texts{"10.1.0.1"});
}

TEST(NetworkAddresses, RoutedNetworksTryAll) {
  EXPECT_EQ(choose_listen_addresses(
                {Addresses{{"10.1.0.1", 24}, {"10.2.0.1", 24}}, Addresses{{"10.3.0.1", 24}}}),
            (Texts{"10.1.0.1", "10.2.0.1"}));
}

TEST(NetworkAddresses, ComparesPrefixesBitByBit) {
  auto one = Addresses{{"10.0.0.1", 30}, {"2001:db8::1", 64}};
  EXPECT_EQ(choose_listen_addresses({one, Addresses{{"10.0.0.2", 30}}}), Texts{"10.0.0.1"});
  EXPECT_EQ(choose_listen_addresses({one, Addresses{{"10.0.0.4", 30}, {"2001:db8::2", 64}}}),
            Texts{"2001:db8::1"});
}

TEST(NetworkAddresses, NothingIsLeftWhenAllAddressesAreShared) {
  EXPECT_TRUE(
      choose_listen_addresses({Addresses{{"172.17.0.1", 16}}, Addresses{{"172.17.0.1", 16}}})
          .empty());
}

TEST(NetworkAddresses, TextRoundTrips) {
  Addresses addresses{{"10.0.0.1", 24}, {"2001:db8::1", 64}};
  Addresses parsed = parse_addresses(addresses_text(addresses));
  ASSERT_EQ(parsed.size(), 2U);
  EXPECT_EQ(parsed[0].address, "10.0.0.1");
  EXPECT_EQ(parsed[1].prefix_bits, 64);
  EXPECT_TRUE(parse_addresses("not an address/24\n10.0.0.1\n10.0.0.1/x\n10.0.0.1/999\n").empty());
}

TEST(NetworkAddresses, OwnAddressesAreNoLoopback) {
  for (const HostAddress& address : own_addresses()) {
    EXPECT_NE(address.address, "127.0.0.1");
    EXPECT_NE(address.address, "::1");
    EXPECT_GE(address.prefix_bits, 0);
  }
}

}  // namespace
}  // namespace lockstep
