#pragma once
// Where LibTorch's tensors on processors get their memory. A training step makes and frees the same
// tensors again and again; a page that went back to the kernel in between costs a fault, and a gap
// in the heap in which something small now lives costs all pages of a large gradient. Process-wide.
// Thread-safety: any thread.

namespace lockstep {

/// From now on freed memory is kept: that of small tensors by glibc (keep_freed_memory()), that of
/// tensors of 16 MiB and more as a place for the next one of about that size (at most an eighth
/// smaller). Calls after the first change nothing.
void keep_tensor_memory();

/// Hands what is kept and not in use back to the kernel once, so that resident_bytes() tells what
/// is in use.
void release_tensor_memory();

}  // namespace lockstep
