#include "lockstep/core/model/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "lockstep/core/base/environment.h"

namespace lockstep {
namespace {

constexpr size_t kLargeBytes = size_t{16} << 20;
/// Places for large tensors begin and end at multiples of it (a huge page).
constexpr size_t kAlignBytes = size_t{2} << 20;

/// Serves large tensors and keeps the places of those that were freed; the rest is LibTorch's own
/// allocator's.
class TensorMemory final : public c10::Allocator {
 public:
  /// Never destroyed: tensors may outlive everything.
  static TensorMemory& instance() {
    static auto* memory = new TensorMemory();
    return *memory;
  }

  c10::DataPtr allocate(size_t num_bytes) override {
    void* data = num_bytes < kLargeBytes ? nullptr : take(num_bytes);
    if (data == nullptr) data = small_.raw_allocate(num_bytes);
    return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* into, const void* from, size_t num_bytes) const override {
    default_copy_data(into, from, num_bytes);
  }

  void release() {
    std::lock_guard lock(mutex_);
    for (const auto& [num_bytes, data] : std::exchange(free_, {})) std::free(data);
  }

 private:
  /// nullptr where there is no memory.
  void* take(size_t num_bytes) {
    num_bytes = (num_bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
    std::unique_lock lock(mutex_);
    if (auto kept = free_.lower_bound(num_bytes);
        kept != free_.end() && kept->first <= num_bytes + num_bytes / 8) {
      void* data = kept->second;
      in_use_.emplace(data, kept->first);
      free_.erase(kept);
      return data;
    }
    lock.unlock();
    void* data = std::aligned_alloc(kAlignBytes, num_bytes);
    if (data == nullptr) {
      release();
      data = std::aligned_alloc(kAlignBytes, num_bytes);
    }
    if (data == nullptr) return nullptr;
    lock.lock();
    in_use_.emplace(data, num_bytes);
    return data;
  }

  static void give_back(void* data) {
    TensorMemory& self = instance();
    if (!self.keep(data)) self.small_.raw_deallocate(data);
  }

  /// False for memory that is not one of our places.
  bool keep(void* data) {
    if (data == nullptr || reinterpret_cast<uintptr_t>(data) % kAlignBytes != 0) return false;
    std::lock_guard lock(mutex_);
    auto used = in_use_.find(data);
    if (used == in_use_.end()) return false;
    free_.emplace(used->second, data);
    in_use_.erase(used);
    return true;
  }

  c10::Allocator& small_ = *c10::GetDefaultCPUAllocator();
  std::mutex mutex_;
  std::multimap<size_t, void*> free_;         ///< by bytes
  std::unordered_map<void*, size_t> in_use_;  ///< bytes
};

}  // namespace

void keep_tensor_memory() {
  keep_freed_memory();
  static std::once_flag once;
  std::call_once(once, [] { c10::SetCPUAllocator(&TensorMemory::instance()); });
}

void release_tensor_memory() {
  TensorMemory::instance().release();
  release_freed_memory();
}

}  // namespace lockstep
