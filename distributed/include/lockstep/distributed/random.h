#pragma once
// The one way to make LibTorch draw the same random numbers whatever the world size. Must not know:
// what is drawn.

#include <cstdint>
#include <mutex>

#include "lockstep/core/device/device.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

/// Seeds LibTorch's default CPU generator, of which it takes the low 32 bits, and that of `device`,
/// if it has one of its own, with all 64. Where ranks are
/// threads of one process they share that generator: the returned lock keeps the others out until
/// it is released, so hold it while anything is drawn. It owns nothing where the rank has its
/// process to itself. Source: design.md section 3, "Random numbers".
[[nodiscard]] std::unique_lock<std::mutex> lock_and_seed_generators(
    World& world, uint64_t seed, const Device& device = host_device());

}  // namespace lockstep
