#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernel_variants.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/device/device.h"
#include "lockstep/core/device/with_float_type.h"
#include "lockstep/core/flat/flat_buffer.h"
#include "lockstep/core/flat/norms.h"
#include "lockstep/core/flat/vector_ops.h"
#include "update_loops.h"

namespace lockstep {
namespace {

class HostQueue final : public DeviceQueue {
 public:
  void copy(void* to, const void* from, size_t num_bytes) override {
    if (num_bytes > 0) std::memcpy(to, from, num_bytes);
  }
  void fill_zero(void* to, size_t num_bytes) override {
    if (num_bytes > 0) std::memset(to, 0, num_bytes);
  }
  QueueMark mark() override { return nullptr; }
  void wait_for(const QueueMark& /*mark*/) override {}
  Result<bool> has_passed(const QueueMark& /*mark*/) override { return true; }
  double ms_between(const QueueMark& /*first*/, const QueueMark& /*second*/) override { return 0; }

  void add_into(Dtype dtype, void* into, const void* from, int64_t num_elems) override {
    with_float_type(dtype, [&]<typename T>(T) {
      lockstep::add_into(static_cast<T*>(into), static_cast<const T*>(from), num_elems);
    });
  }
  void add_zeros(Dtype dtype, void* into, int64_t num_elems) override {
    with_float_type(dtype, [&]<typename T>(T) {
      T* values = static_cast<T*>(into);
      for (int64_t i = 0; i < num_elems; ++i) values[i] = values[i] + T{0};
    });
  }
  void block_sums_of_squares(Dtype dtype, const void* values, int64_t num_elems,
                             double* sums) override {
    with_float_type(dtype, [&]<typename T>(T) {
      const auto num_blocks = static_cast<size_t>((num_elems + kBlockElems - 1) / kBlockElems);
      lockstep::block_sums_of_squares(
          std::span(static_cast<const T*>(values), static_cast<size_t>(num_elems)),
          std::span(sums, num_blocks));
    });
  }
  void update_adamw(Dtype dtype, const UpdateArrays& arrays,
                    const AdamWFactors<double>& factors) override {
    with_float_type(dtype, [&]<typename T>(T) {
      run_kernel<AdamWUpdate>(best_kernel_variant(), static_cast<T*>(arrays.param),
                              static_cast<const T*>(arrays.grad), static_cast<T*>(arrays.first),
                              static_cast<T*>(arrays.second), arrays.num_elems,
                              factors.rounded_to<T>());
    });
  }
  void update_sgd(Dtype dtype, const UpdateArrays& arrays,
                  const SgdFactors<double>& factors) override {
    with_float_type(dtype, [&]<typename T>(T) {
      T* param = static_cast<T*>(arrays.param);
      const T* grad = static_cast<const T*>(arrays.grad);
      if (arrays.first == nullptr) {
        run_kernel<SgdUpdate>(best_kernel_variant(), param, grad, arrays.num_elems,
                              factors.rounded_to<T>());
      } else {
        run_kernel<SgdMomentumUpdate>(best_kernel_variant(), param, grad,
                                      static_cast<T*>(arrays.first), arrays.num_elems,
                                      factors.rounded_to<T>());
      }
    });
  }
  void record_change(Dtype dtype, const BufferChange& change, int64_t num_elems) override {
    with_float_type(dtype, [&]<typename T>(T) {
      using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
      const T* now = static_cast<const T*>(change.now);
      const T* before = static_cast<const T*>(change.before);
      T* sums = static_cast<T*>(change.sums);
      T* counts = static_cast<T*>(change.counts);
      for (int64_t i = 0; i < num_elems; ++i) {
        Bits a, b;
        std::memcpy(&a, now + i, sizeof(T));
        std::memcpy(&b, before + i, sizeof(T));
        const T changed = a == b ? T{0} : T{1};
        sums[i] = change.is_first ? now[i] : sums[i] + now[i];
        counts[i] = change.is_first ? changed : counts[i] + changed;
      }
    });
  }
  void mean_of_changed(Dtype dtype, void* result, const void* sums, const void* counts,
                       int64_t num_micro_batches, int64_t num_elems) override {
    with_float_type(dtype, [&]<typename T>(T) {
      for (int64_t i = 0; i < num_elems; ++i) {
        if (static_cast<const T*>(counts)[i] != T{0})
          static_cast<T*>(result)[i] =
              static_cast<const T*>(sums)[i] / static_cast<T>(num_micro_batches);
      }
    });
  }
  void round_to_bf16(float* to, const float* from, int64_t num_elems) override {
    run_kernel<RoundToBf16>(best_kernel_variant(), to, from, num_elems);
  }
  void pack_bf16(uint16_t* to, const float* from, int64_t num_elems) override {
    run_kernel<PackBf16>(best_kernel_variant(), to, from, num_elems);
  }
  void unpack_bf16(float* to, const uint16_t* from, int64_t num_elems) override {
    run_kernel<UnpackBf16>(best_kernel_variant(), to, from, num_elems);
  }
  void block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                    uint64_t* hashes) override {
    check_block_hashes(bytes, num_bytes, block_bytes);
    const auto* first = static_cast<const std::byte*>(bytes);
    for (int64_t begin = 0; begin < num_bytes; begin += block_bytes) {
      const auto size = static_cast<size_t>(std::min(block_bytes, num_bytes - begin));
      *hashes++ = xxh3_64(std::span(first + begin, size));
    }
  }
};

class HostDevice final : public Device {
 public:
  std::string_view name() const override { return "cpu"; }
  bool is_host() const override { return true; }
  std::map<std::string, std::string> facts() const override { return {}; }
  DeviceQueue& compute() override { return queue_; }
  DeviceQueue& communication() override { return queue_; }
  DeviceQueue& staging() override { return queue_; }
  DeviceMemory allocate(size_t num_bytes) override {
    auto buffer = std::make_shared<FlatBuffer>(static_cast<int64_t>(num_bytes));
    return {buffer->data(), num_bytes, [buffer](std::byte*) {}};
  }
  void pin(std::span<std::byte> /*host_memory*/) override {}
  void unpin(std::span<std::byte> /*host_memory*/) override {}
  DeviceMemoryUse memory_use() const override { return {}; }

 private:
  HostQueue queue_;
};

}  // namespace

Device& host_device() {
  static HostDevice host;  // has no state
  return host;
}

}  // namespace lockstep
