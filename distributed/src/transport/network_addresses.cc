#include "network_addresses.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <memory>
#include <optional>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

/// The bytes of an address in digits: 4 or 16.
std::optional<std::vector<uint8_t>> address_bytes(const std::string& text) {
  std::array<uint8_t, 16> bytes{};
  if (inet_pton(AF_INET, text.c_str(), bytes.data()) == 1) {
    return std::vector<uint8_t>(bytes.begin(), bytes.begin() + 4);
  }
  if (inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1) {
    return std::vector<uint8_t>(bytes.begin(), bytes.end());
  }
  return std::nullopt;
}

bool is_in_network_of(const std::string& address, const HostAddress& network) {
  auto a = address_bytes(address);
  auto b = address_bytes(network.address);
  if (!a || !b || a->size() != b->size()) return false;
  for (int bit = 0; bit < network.prefix_bits; ++bit) {
    auto byte = static_cast<size_t>(bit / 8);
    if (((*a)[byte] ^ (*b)[byte]) >> (7 - bit % 8) & 1) return false;
  }
  return true;
}

/// The address of a sockaddr, with its length in bytes; nothing for other families.
std::optional<std::pair<const uint8_t*, size_t>> raw_address(const sockaddr* address) {
  if (address == nullptr) return std::nullopt;
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    return std::pair(reinterpret_cast<const uint8_t*>(&v4->sin_addr), size_t{4});
  }
  if (address->sa_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
    return std::pair(reinterpret_cast<const uint8_t*>(&v6->sin6_addr), size_t{16});
  }
  return std::nullopt;
}

bool is_link_local(const uint8_t* bytes, size_t size) {
  return size == 4 ? bytes[0] == 169 && bytes[1] == 254
                   : bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80;
}

}  // namespace

std::vector<HostAddress> own_addresses() {
  std::vector<HostAddress> addresses;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return addresses;
  std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    auto raw = raw_address(entry->ifa_addr);
    auto mask = raw_address(entry->ifa_netmask);
    if (!raw || !mask || (entry->ifa_flags & IFF_UP) == 0 ||
        (entry->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    auto [bytes, size] = *raw;
    if (is_link_local(bytes, size)) continue;
    std::array<char, INET6_ADDRSTRLEN> text{};
    inet_ntop(size == 4 ? AF_INET : AF_INET6, bytes, text.data(), text.size());
    int prefix_bits = 0;
    for (size_t i = 0; i < mask->second; ++i) prefix_bits += std::popcount(mask->first[i]);
    addresses.push_back({text.data(), prefix_bits});
  }
  return addresses;
}

std::vector<std::string> choose_listen_addresses(
    const std::vector<std::vector<HostAddress>>& addresses_of_hosts) {
  if (addresses_of_hosts.size() <= 1) return {"127.0.0.1"};
  std::vector<std::string> shared;
  std::vector<std::string> others;
  for (const HostAddress& mine : addresses_of_hosts[0]) {
    bool is_elsewhere_too = false;
    size_t num_neighbours = 0;
    for (size_t host = 1; host < addresses_of_hosts.size(); ++host) {
      const auto& theirs = addresses_of_hosts[host];
      is_elsewhere_too =
          is_elsewhere_too || std::any_of(theirs.begin(), theirs.end(), [&](const HostAddress& a) {
            return a.address == mine.address;
          });
      num_neighbours +=
          std::any_of(theirs.begin(), theirs.end(),
                      [&](const HostAddress& a) { return is_in_network_of(a.address, mine); })
              ? 1
              : 0;
    }
    if (is_elsewhere_too) continue;
    (num_neighbours + 1 == addresses_of_hosts.size() ? shared : others).push_back(mine.address);
  }
  return shared.empty() ? others : shared;
}

std::string addresses_text(const std::vector<HostAddress>& addresses) {
  std::string text;
  for (const HostAddress& address : addresses)
    text += cat(address.address, "/", address.prefix_bits, "\n");
  return text;
}

std::vector<HostAddress> parse_addresses(std::string_view text) {
  std::vector<HostAddress> addresses;
  for (const std::string& line : split(text, '\n')) {
    std::vector<std::string> parts = split(line, '/');
    HostAddress address{parts[0], 0};
    if (parts.size() != 2 || !address_bytes(address.address)) continue;
    const char* end = parts[1].data() + parts[1].size();
    if (std::from_chars(parts[1].data(), end, address.prefix_bits).ptr != end) continue;
    if (address.prefix_bits < 0 || address.prefix_bits > 128) continue;
    addresses.push_back(address);
  }
  return addresses;
}

}  // namespace lockstep
