#include "lockstep/distributed/random.h"

#include <ATen/CPUGeneratorImpl.h>

namespace lockstep {

std::unique_lock<std::mutex> lock_and_seed_generators(World& world, uint64_t seed) {
  std::unique_lock<std::mutex> lock;
  if (world.process_lock() != nullptr) lock = std::unique_lock(*world.process_lock());
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard generator_lock(generator.mutex());
  generator.set_current_seed(seed);
  return lock;
}

}  // namespace lockstep
