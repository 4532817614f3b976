// A warp on one thread of the processor: fibers, of which most kernels need one. A fiber runs lane
// after lane; where a lane shuffles it stays behind with it, and another goes on with the next
// lane.
#include "emulated_warp.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "emulated_kernels.h"

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace lockstep::emulated_gpu {
namespace {

constexpr size_t kStackBytes = size_t{128} << 10;

class Warp {
 public:
  static Warp& of_thread() {
    static thread_local Warp warp;
    return warp;
  }

  void run(const std::function<void()>& thread, unsigned first_thread, unsigned num_lanes) {
    thread_ = &thread;
    first_thread_ = first_thread;
    num_lanes_ = num_lanes;
    next_lane_ = 0;
    for (size_t i = 0; next_lane_ < num_lanes_; ++i) {
      if (i == fibers_.size()) fibers_.push_back(std::make_unique<Fiber>());
      begin(*fibers_[i]);
    }
    while (num_waiting() > 0) {
      exchange();
      for (auto& fiber : fibers_) {
        if (fiber->is_waiting) resume(*fiber);
      }
    }
  }

  uint64_t shuffle(uint64_t bits, unsigned from) {
    Fiber& mine = *running_;
    mine.bits = bits;
    mine.from = from;
    mine.is_waiting = true;
    swapcontext(&mine.context, &scheduler_);
    return mine.bits;
  }

 private:
  struct Fiber {
    ucontext_t context{};
    std::vector<char> stack = std::vector<char>(kStackBytes);
    unsigned lane = 0;
    bool is_waiting = false;
    uint64_t bits = 0;
    unsigned from = 0;
  };

  static void main_of_fiber() {
    Warp& warp = of_thread();
    Fiber& mine = *warp.running_;
    while (warp.next_lane_ < warp.num_lanes_) {
      mine.lane = warp.next_lane_++;
      threadIdx = {warp.first_thread_ + mine.lane, 0, 0};
      (*warp.thread_)();
    }
  }

  void begin(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler_;
    makecontext(&fiber.context, &Warp::main_of_fiber, 0);
    resume(fiber);
  }

  void resume(Fiber& fiber) {
    fiber.is_waiting = false;
    running_ = &fiber;
    threadIdx = {first_thread_ + fiber.lane, 0, 0};
    swapcontext(&scheduler_, &fiber.context);
  }

  size_t num_waiting() const {
    size_t count = 0;
    for (const auto& fiber : fibers_) count += fiber->is_waiting ? 1 : 0;
    return count;
  }

  // Every lane of the warp must be here: the mask of the kernels is full.
  void exchange() {
    if (num_waiting() != num_lanes_) std::abort();
    std::vector<uint64_t> bits(num_lanes_);
    for (const auto& fiber : fibers_) {
      if (fiber->is_waiting) bits[fiber->lane] = fiber->bits;
    }
    for (auto& fiber : fibers_) {
      if (!fiber->is_waiting) continue;
      if (fiber->from < num_lanes_) fiber->bits = bits[fiber->from];
    }
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber* running_ = nullptr;
  ucontext_t scheduler_{};
  const std::function<void()>* thread_ = nullptr;
  unsigned first_thread_ = 0, num_lanes_ = 0, next_lane_ = 0;
};

}  // namespace

void run_grid(unsigned num_blocks, unsigned num_threads, const std::function<void()>& thread) {
  gridDim = dim3(num_blocks);
  blockDim = dim3(num_threads);
  for (unsigned block = 0; block < num_blocks; ++block) {
    blockIdx = {block, 0, 0};
    for (unsigned first = 0; first < num_threads; first += kWarpLanes)
      Warp::of_thread().run(thread, first, std::min(kWarpLanes, num_threads - first));
  }
}

uint64_t shuffle(uint64_t bits, unsigned from) {
  return Warp::of_thread().shuffle(bits, from);
}

}  // namespace lockstep::emulated_gpu
