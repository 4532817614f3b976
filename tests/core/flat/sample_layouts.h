#pragma once
// Tensors and layouts for tests: random ones from a fixed generator.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/flat/layout.h"

namespace lockstep {

/// A trainable F32 tensor in row-major order.
inline TensorSpec row_major_tensor(std::string name, std::vector<int64_t> shape) {
  TensorSpec spec;
  spec.name = std::move(name);
  spec.order.resize(shape.size());
  std::iota(spec.order.begin(), spec.order.end(), 0);
  spec.shape = std::move(shape);
  return spec;
}

/// 1 to 12 tensors of any role, dtype, rank and storage order; some empty, some with aliases.
inline std::vector<TensorSpec> random_tensors(uint32_t seed) {
  std::mt19937 rng(seed);
  const auto below = [&rng](uint32_t n) { return static_cast<int64_t>(rng() % n); };
  std::vector<TensorSpec> tensors;
  for (int64_t i = 0, count = 1 + below(12); i < count; ++i) {
    std::vector<int64_t> shape;
    for (int64_t dims = below(5); dims > 0; --dims)
      shape.push_back(below(20) == 0 ? 0 : 1 + below(24));
    TensorSpec spec = row_major_tensor("layer" + std::to_string(i) + ".weight", shape);
    for (size_t last = spec.order.size(); last > 1; --last)
      std::swap(spec.order[last - 1],
                spec.order[static_cast<size_t>(below(static_cast<uint32_t>(last)))]);
    spec.role = static_cast<SpaceRole>(below(3));
    const bool is_trainable = spec.role == SpaceRole::kTrainable;
    spec.dtype = static_cast<Dtype>(below(is_trainable ? 4 : 11));
    if (below(4) == 0) spec.aliases.push_back("tied" + std::to_string(i));
    tensors.push_back(std::move(spec));
  }
  return tensors;
}

/// A space of one F32 tensor of `num_elems` elements (rounded up to whole alignment units).
inline FlatSpace f32_space(int64_t num_elems) {
  return FlatLayout::plan({row_major_tensor("w", {num_elems})}).value().spaces().at(0);
}

}  // namespace lockstep
