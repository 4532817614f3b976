// Speed of the loops that touch every parameter in every step, in bytes of memory traffic per
// second of CPU time. Sizes: 256 KiB of each operand stays in the second-level cache; 64 MiB comes
// from memory. Compare figures only inside one run.

#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "lockstep/core/device/device.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/digest.h"
#include "lockstep/core/flat/flat_buffer.h"
#include "lockstep/core/flat/norms.h"
#include "lockstep/core/flat/vector_ops.h"
#include "lockstep/core/optim/optimizer.h"

namespace lockstep {
namespace {

constexpr int64_t kElemBytes = sizeof(float);

// Small, ordinary numbers: zeros or denormals would measure something else.
FlatBuffer filled_buffer(int64_t num_bytes) {
  FlatBuffer buffer(num_bytes);
  float value = 1e-3f;
  for (float& elem : buffer.as<float>()) elem = value = value < 1e-2f ? value * 1.01f : 1e-3f;
  return buffer;
}

// `streams`: how often each byte of an operand's length is read or written in an iteration.
void report_bytes(benchmark::State& state, int64_t streams) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0) * streams);
}

FlatSpace space_of_bytes(int64_t num_bytes) {
  return {.name = "trainable.F32",
          .role = SpaceRole::kTrainable,
          .dtype = Dtype::kF32,
          .num_elems = num_bytes / kElemBytes,
          .tensors = {}};
}

void bm_memcpy(benchmark::State& state) {
  const FlatBuffer from = filled_buffer(state.range(0));
  FlatBuffer to(state.range(0));
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.bytes().size());
    benchmark::ClobberMemory();
  }
  report_bytes(state, 2);
}

void bm_add_into(benchmark::State& state) {
  const FlatBuffer from = filled_buffer(state.range(0));
  FlatBuffer into = filled_buffer(state.range(0));
  for (auto _ : state) {
    add_into(into.as<float>().data(), from.as<float>().data(), state.range(0) / kElemBytes);
    benchmark::ClobberMemory();
  }
  report_bytes(state, 3);
}

void bm_sum_of_squares(benchmark::State& state) {
  const FlatBuffer values = filled_buffer(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(sum_of_squares(values.as<float>()));
  report_bytes(state, 1);
}

void bm_update(benchmark::State& state, const OptimizerSpec& spec) {
  const auto optimizer = make_optimizer(spec).value();
  FlatBuffer param = filled_buffer(state.range(0));
  const FlatBuffer grad = filled_buffer(state.range(0));
  std::vector<FlatBuffer> slots;
  for (size_t i = 0; i < optimizer->slot_names().size(); ++i)
    slots.push_back(filled_buffer(state.range(0)));
  UpdateArrays arrays{param.data(), grad.data()};
  arrays.num_elems = state.range(0) / kElemBytes;
  if (!slots.empty()) arrays.first = slots[0].data();
  if (slots.size() > 1) arrays.second = slots[1].data();
  UpdateScalars scalars = update_scalars(spec, {}, 1.0, 1, 1.0);
  for (auto _ : state) {
    optimizer->update(host_device().compute(), Dtype::kF32, arrays, scalars);
    scalars.update_index += 1;
    benchmark::ClobberMemory();
  }
  report_bytes(state, 3 + 2 * static_cast<int64_t>(slots.size()));
}
void bm_adamw(benchmark::State& state) {
  bm_update(state, {.name = "adamw"});
}
void bm_sgd_momentum(benchmark::State& state) {
  bm_update(state, {.name = "sgd", .momentum = 0.9});
}

void bm_hash_blocks(benchmark::State& state) {
  const FlatBuffer values = filled_buffer(state.range(0));
  const FlatSpace space = space_of_bytes(state.range(0));
  std::vector<uint64_t> hashes(static_cast<size_t>(space.num_blocks()));
  for (auto _ : state) {
    hash_blocks(space, {0, space.num_blocks()}, values.bytes(), hashes);
    benchmark::DoNotOptimize(hashes.data());
  }
  report_bytes(state, 1);
}

// What staging a checkpoint does: each block copied and hashed while it is in the cache.
void bm_copy_and_hash_blocks(benchmark::State& state) {
  const FlatBuffer from = filled_buffer(state.range(0));
  FlatBuffer to(state.range(0));
  constexpr size_t kBlockBytes = kBlockElems * kElemBytes;
  for (auto _ : state) {
    for (size_t at = 0; at < from.bytes().size(); at += kBlockBytes)
      benchmark::DoNotOptimize(copy_and_xxh3_64(from.bytes().subspan(at, kBlockBytes),
                                                to.bytes().subspan(at, kBlockBytes)));
    benchmark::ClobberMemory();
  }
  report_bytes(state, 2);
}

void sizes(benchmark::internal::Benchmark* bench) {
  bench->Arg(256 << 10)->Arg(64 << 20)->ArgName("bytes");
}

BENCHMARK(bm_memcpy)->Apply(sizes);
BENCHMARK(bm_add_into)->Apply(sizes);
BENCHMARK(bm_sum_of_squares)->Apply(sizes);
BENCHMARK(bm_adamw)->Apply(sizes);
BENCHMARK(bm_sgd_momentum)->Apply(sizes);
BENCHMARK(bm_hash_blocks)->Apply(sizes);
BENCHMARK(bm_copy_and_hash_blocks)->Apply(sizes);

}  // namespace
}  // namespace lockstep

BENCHMARK_MAIN();
