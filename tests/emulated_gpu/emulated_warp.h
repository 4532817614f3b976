#pragma once
// The threads of a kernel, on the calling thread of the processor.

#include <functional>

namespace lockstep::emulated_gpu {

/// `thread` once for each thread of a grid of one dimension.
void run_grid(unsigned num_blocks, unsigned num_threads, const std::function<void()>& thread);

}  // namespace lockstep::emulated_gpu
