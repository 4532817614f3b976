#include <sys/mman.h>

#include "lockstep/core/base/aligned_buffer.h"
#include "lockstep/core/base/bulk_file.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

}  // namespace

Result<AlignedBuffer> AlignedBuffer::make(uint64_t bytes) {
  if (bytes == 0) return AlignedBuffer();
  const bool is_large = bytes >= kHugePageBytes;
  const uint64_t size = bulk_align_up(bytes);
  const uint64_t taken = is_large ? size + kHugePageBytes : size;
  void* const memory =
      ::mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return resource_exhausted_error(cat("no memory for ", human_bytes(bytes), " of I/O buffers"));
  }
  auto begin = reinterpret_cast<uintptr_t>(memory);
  if (is_large) {
    // Begin at a huge page, and give back what lies before and behind.
    const uintptr_t aligned = (begin + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    if (aligned > begin) ::munmap(memory, aligned - begin);
    const uint64_t behind = begin + taken - (aligned + size);
    if (behind > 0) ::munmap(reinterpret_cast<void*>(aligned + size), behind);
    begin = aligned;
    ::madvise(reinterpret_cast<void*>(begin), size, MADV_HUGEPAGE);  // a wish: refusal costs speed
  }
  return AlignedBuffer(reinterpret_cast<std::byte*>(begin), size);
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace lockstep
