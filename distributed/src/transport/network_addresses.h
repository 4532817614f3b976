#pragma once
// Which addresses rank 0 listens on: those of the network that the job's hosts share, and no
// others.

#include <string>
#include <vector>

namespace lockstep {

/// An address of an interface that is up, not loopback, not link-local.
struct HostAddress {
  std::string address;  ///< in digits, IPv4 or IPv6
  int prefix_bits = 0;  ///< length of its network's prefix
};

/// This host's addresses; empty when the system does not say.
std::vector<HostAddress> own_addresses();

/// Rank 0's addresses worth listening on, best first. `addresses_of_hosts[0]` belongs to rank 0's
/// host. One host: the loopback. Several: addresses in a network of which every other host has an
/// address too; when there is none (routed networks), all of rank 0's. An address that another host
/// has as well (a bridge of containers) leads nowhere and is left out. Pure.
std::vector<std::string> choose_listen_addresses(
    const std::vector<std::vector<HostAddress>>& addresses_of_hosts);

/// One line each, and back; lines that are none are left out.
std::string addresses_text(const std::vector<HostAddress>& addresses);
std::vector<HostAddress> parse_addresses(std::string_view text);

}  // namespace lockstep
