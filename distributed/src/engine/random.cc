#include "lockstep/distributed/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <string>

namespace lockstep {

std::unique_lock<std::mutex> lock_and_seed_generators(World& world, uint64_t seed,
                                                     const Device& device) {
  std::unique_lock<std::mutex> lock;
  if (world.process_lock() != nullptr) lock = std::unique_lock(*world.process_lock());
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard generator_lock(generator.mutex());
  generator.set_current_seed(seed);
  if (const at::Device there{std::string(device.name())}; !there.is_cpu()) {
    at::Generator own = at::globalContext().defaultGenerator(there);
    std::lock_guard own_lock(own.mutex());
    own.set_current_seed(seed);
  }
  return lock;
}

}  // namespace lockstep
