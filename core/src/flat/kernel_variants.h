#pragma once
// How a plain loop is compiled for several instruction sets, one of which is chosen when it runs.
// Each variant does the same IEEE operations in the same order (no contraction, no reassociation),
// so all give the same bits; only the speed differs. Explicit instead of the compiler's
// target_clones: that one resolves before the sanitizers are ready, and its variants can't be
// called one by one, which the tests do.

#include <cstdint>

namespace lockstep {

enum class KernelVariant : uint8_t { kBaseline, kAvx2, kAvx512 };

/// Whether this processor can run the variant.
inline bool can_run(KernelVariant variant) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (variant == KernelVariant::kAvx512) return __builtin_cpu_supports("avx512f");
  if (variant == KernelVariant::kAvx2) return __builtin_cpu_supports("avx2");
#endif
  return variant == KernelVariant::kBaseline;
}

inline KernelVariant best_kernel_variant() {
  if (can_run(KernelVariant::kAvx512)) return KernelVariant::kAvx512;
  return can_run(KernelVariant::kAvx2) ? KernelVariant::kAvx2 : KernelVariant::kBaseline;
}

namespace kernel_detail {
template <typename Kernel, typename... Args>
[[gnu::noinline]] auto run_baseline(Args... args) {
  return Kernel::run(args...);
}
#if defined(__x86_64__) && defined(__GNUC__)
template <typename Kernel, typename... Args>
[[gnu::noinline, gnu::target("avx2")]] auto run_avx2(Args... args) {
  return Kernel::run(args...);
}
template <typename Kernel, typename... Args>
[[gnu::noinline, gnu::target("avx512f,prefer-vector-width=512")]] auto run_avx512(Args... args) {
  return Kernel::run(args...);
}
#endif
}  // namespace kernel_detail

/// Calls Kernel::run(args...), which must be [[gnu::always_inline]], compiled for `variant`.
/// Requires: can_run(variant).
template <typename Kernel, typename... Args>
auto run_kernel(KernelVariant variant, Args... args) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (variant == KernelVariant::kAvx512) return kernel_detail::run_avx512<Kernel>(args...);
  if (variant == KernelVariant::kAvx2) return kernel_detail::run_avx2<Kernel>(args...);
#endif
  return kernel_detail::run_baseline<Kernel>(args...);
}

}  // namespace lockstep
