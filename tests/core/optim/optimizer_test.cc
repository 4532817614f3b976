// Optimizers: the same bits wherever a span is cut and in every kernel variant; right against a
// reference in long double, within a bound that follows from the number of roundings.
#include "lockstep/core/optim/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "kernel_variants.h"
#include "lockstep/core/device/device.h"
#include "update_loops.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

constexpr KernelVariant kVariants[] = {KernelVariant::kBaseline, KernelVariant::kAvx2,
                                       KernelVariant::kAvx512};

// Parameter, gradient and slots of some elements.
template <typename T>
struct Elems {
  std::vector<T> param, grad;
  std::vector<std::vector<T>> slots;
  bool operator==(const Elems&) const = default;
};

template <typename T>
std::vector<T> normal_values(size_t count, double scale, std::mt19937* rng) {
  std::vector<T> values(count);
  for (T& value : values) {
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>((*rng)()) / 4294967296.0 - 0.5;
    value = static_cast<T>(sum * scale);
  }
  return values;
}

template <typename T>
Elems<T> random_elems(size_t count, size_t num_slots, uint32_t seed) {
  std::mt19937 rng(seed);
  Elems<T> elems{normal_values<T>(count, 0.1, &rng), normal_values<T>(count, 0.01, &rng), {}};
  for (size_t i = 0; i < num_slots; ++i) {
    auto& slot = elems.slots.emplace_back(normal_values<T>(count, 0.01, &rng));
    if (i == 1) {  // a second moment
      for (T& value : slot) value = value * value;
    }
  }
  return elems;
}

// Updates elements [first, end) of `elems`.
template <typename T>
void update_range(const FlatOptimizer& optimizer, const UpdateScalars& scalars, size_t first,
                  size_t end, Elems<T>* elems) {
  UpdateArrays arrays;
  arrays.param = elems->param.data() + first;
  arrays.grad = elems->grad.data() + first;
  if (!elems->slots.empty()) arrays.first = elems->slots[0].data() + first;
  if (elems->slots.size() > 1) arrays.second = elems->slots[1].data() + first;
  arrays.num_elems = static_cast<int64_t>(end - first);
  optimizer.update(host_device().compute(), sizeof(T) == 4 ? Dtype::kF32 : Dtype::kF64, arrays,
                   scalars);
}

std::unique_ptr<FlatOptimizer> adamw() {
  return make_optimizer({.weight_decay = 0.05}).value();
}
std::unique_ptr<FlatOptimizer> sgd(double momentum) {
  return make_optimizer({.name = "sgd", .weight_decay = 0.05, .momentum = momentum}).value();
}
constexpr UpdateScalars kScalars = {
    .update_index = 3, .learning_rate = 1e-2, .weight_decay = 0.05, .grad_scale = 0.3};

template <typename T>
class Optimizer : public ::testing::Test {};
using ElemTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Optimizer, ElemTypes);

TYPED_TEST(Optimizer, GivesTheSameBitsWhereverASpanIsCut) {
  constexpr size_t kCount = 333;
  for (const auto& optimizer : {adamw(), sgd(0.9), sgd(0)}) {
    const auto start = random_elems<TypeParam>(kCount, optimizer->slot_names().size(), 5);
    auto whole = start;
    update_range(*optimizer, kScalars, 0, kCount, &whole);
    for (size_t cut = 0; cut <= 130; ++cut) {
      auto parts = start;
      update_range(*optimizer, kScalars, 0, cut, &parts);
      update_range(*optimizer, kScalars, cut, kCount, &parts);
      ASSERT_EQ(parts, whole) << optimizer->name() << " cut at " << cut;
    }
    auto one_by_one = start;
    for (size_t i = 0; i < kCount; ++i) update_range(*optimizer, kScalars, i, i + 1, &one_by_one);
    ASSERT_EQ(one_by_one, whole) << optimizer->name();
  }
}

// One rounding an operation, whatever the compiler would like to do.
template <typename T>
T rounded(T value) {
  volatile T kept = value;
  return kept;
}

template <typename T>
void reference_adamw(const AdamWFactors<T>& f, Elems<T>* e) {
  for (size_t i = 0; i < e->param.size(); ++i) {
    T& m = e->slots[0][i];
    T& v = e->slots[1][i];
    const T g = rounded<T>(e->grad[i] * f.grad_scale);
    m = rounded<T>(m + rounded<T>(rounded<T>(g - m) * f.one_minus_beta1));
    v = rounded<T>(rounded<T>(v * f.beta2) + rounded<T>(rounded<T>(g * g) * f.one_minus_beta2));
    const T root = rounded<T>(std::sqrt(v));
    const T denominator = rounded<T>(rounded<T>(root * f.inv_sqrt_correction2) + f.eps);
    const T decayed = rounded<T>(e->param[i] * f.decay);
    e->param[i] = rounded<T>(decayed - rounded<T>(f.step_size * rounded<T>(m / denominator)));
  }
}

TYPED_TEST(Optimizer, AdamWEqualsAScalarLoopInEveryVariant) {
  using T = TypeParam;
  const AdamWFactors<T> factors = {.grad_scale = T(0.3),
                                   .decay = T(0.9995),
                                   .one_minus_beta1 = T(0.1),
                                   .beta2 = T(0.999),
                                   .one_minus_beta2 = T(0.001),
                                   .inv_sqrt_correction2 = T(18.3),
                                   .eps = T(1e-8),
                                   .step_size = T(0.037)};
  const auto start = random_elems<T>(1000, 2, 6);
  auto expected = start;
  reference_adamw(factors, &expected);
  ASSERT_NE(expected.param, start.param);
  for (const KernelVariant variant : kVariants) {
    if (!can_run(variant)) continue;
    auto found = start;
    run_kernel<AdamWUpdate>(variant, found.param.data(), static_cast<const T*>(found.grad.data()),
                            found.slots[0].data(), found.slots[1].data(), int64_t{1000}, factors);
    EXPECT_EQ(found, expected) << "variant " << static_cast<int>(variant);
  }
}

TYPED_TEST(Optimizer, SgdEqualsAScalarLoopInEveryVariant) {
  using T = TypeParam;
  const SgdFactors<T> f = {
      .grad_scale = T(0.3), .weight_decay = T(0.05), .momentum = T(0.9), .learning_rate = T(0.01)};
  const auto start = random_elems<T>(1000, 1, 7);
  auto expected = start;
  auto expected_plain = start;
  for (size_t i = 0; i < 1000; ++i) {
    const T g = rounded<T>(rounded<T>(start.grad[i] * f.grad_scale) +
                           rounded<T>(start.param[i] * f.weight_decay));
    T& buffer = expected.slots[0][i];
    buffer = rounded<T>(rounded<T>(buffer * f.momentum) + g);
    expected.param[i] = rounded<T>(start.param[i] - rounded<T>(f.learning_rate * buffer));
    expected_plain.param[i] = rounded<T>(start.param[i] - rounded<T>(f.learning_rate * g));
  }
  for (const KernelVariant variant : kVariants) {
    if (!can_run(variant)) continue;
    auto found = start;
    const T* grad = start.grad.data();
    run_kernel<SgdMomentumUpdate>(variant, found.param.data(), grad, found.slots[0].data(),
                                  int64_t{1000}, f);
    EXPECT_EQ(found, expected) << "variant " << static_cast<int>(variant);
    found = start;
    run_kernel<SgdUpdate>(variant, found.param.data(), grad, int64_t{1000}, f);
    EXPECT_EQ(found, expected_plain) << "variant " << static_cast<int>(variant);
  }
}

TYPED_TEST(Optimizer, AdamWFollowsTheAlgorithmInLongDouble) {
  using T = TypeParam;
  constexpr size_t kCount = 200;
  constexpr int kSteps = 20;
  const OptimizerSpec spec{.learning_rate = 1e-2, .weight_decay = 0.05};
  const auto optimizer = make_optimizer(spec).value();
  auto elems = random_elems<T>(kCount, 2, 8);
  for (auto& slot : elems.slots) std::fill(slot.begin(), slot.end(), T(0));
  std::vector<long double> param(elems.param.begin(), elems.param.end()), m(kCount), v(kCount);
  std::mt19937 rng(9);
  for (int t = 1; t <= kSteps; ++t) {
    elems.grad = normal_values<T>(kCount, 0.01, &rng);
    update_range(*optimizer, update_scalars(spec, {}, 1.0, t, 0.5), 0, kCount, &elems);
    for (size_t i = 0; i < kCount; ++i) {
      const long double g = static_cast<long double>(elems.grad[i]) * 0.5L;
      m[i] = 0.9L * m[i] + 0.1L * g;
      v[i] = 0.999L * v[i] + 0.001L * g * g;
      const long double m_hat = m[i] / (1 - std::pow(0.9L, t));
      const long double v_hat = v[i] / (1 - std::pow(0.999L, t));
      param[i] -= 0.01L * 0.05L * param[i];
      param[i] -= 0.01L * m_hat / (std::sqrt(v_hat) + 1e-8L);
    }
  }
  // Per step the parameter (below 1 in size) takes 2 roundings, and the update (below 10 x learning
  // rate in size) about 10 for its factors; the moments lose at most 4 roundings a step, and m /
  // sqrt(v) amplifies those of m by max|g| / rms(g), below 10. Together below 4 + 0.1 * (10 + 40) <
  // 10 units in the last place of 1 for each step.
  const double bound = 10 * kSteps * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (size_t i = 0; i < kCount; ++i)
    ASSERT_NEAR(static_cast<double>(elems.param[i]), static_cast<double>(param[i]), bound) << i;
}

TYPED_TEST(Optimizer, SgdFollowsTheAlgorithmInLongDouble) {
  using T = TypeParam;
  constexpr size_t kCount = 200;
  constexpr int kSteps = 20;
  const OptimizerSpec spec{
      .name = "sgd", .learning_rate = 0.1, .weight_decay = 0.05, .momentum = 0.9};
  const auto optimizer = make_optimizer(spec).value();
  auto elems = random_elems<T>(kCount, 1, 10);
  std::fill(elems.slots[0].begin(), elems.slots[0].end(), T(0));
  std::vector<long double> param(elems.param.begin(), elems.param.end()), buffer(kCount);
  std::mt19937 rng(11);
  for (int t = 1; t <= kSteps; ++t) {
    elems.grad = normal_values<T>(kCount, 0.01, &rng);
    update_range(*optimizer, update_scalars(spec, {}, 1.0, t, 1.0), 0, kCount, &elems);
    for (size_t i = 0; i < kCount; ++i) {
      buffer[i] = 0.9L * buffer[i] + (static_cast<long double>(elems.grad[i]) + 0.05L * param[i]);
      param[i] -= 0.1L * buffer[i];
    }
  }
  // All quantities stay below 1 in size and the recursion is stable: below 8 roundings an element
  // and step.
  const double bound = 8 * kSteps * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (size_t i = 0; i < kCount; ++i)
    ASSERT_NEAR(static_cast<double>(elems.param[i]), static_cast<double>(param[i]), bound) << i;
}

TYPED_TEST(Optimizer, PaddingStaysZeroBitForBit) {
  for (const auto& optimizer : {adamw(), sgd(0.9), sgd(0)}) {
    Elems<TypeParam> elems{std::vector<TypeParam>(64), std::vector<TypeParam>(64), {}};
    elems.slots.resize(optimizer->slot_names().size(), std::vector<TypeParam>(64));
    UpdateScalars scalars = kScalars;
    for (scalars.update_index = 1; scalars.update_index < 5; ++scalars.update_index)
      update_range(*optimizer, scalars, 0, 64, &elems);
    for (const TypeParam value : elems.param) EXPECT_TRUE(value == 0 && !std::signbit(value));
    for (const auto& slot : elems.slots) {
      for (const TypeParam value : slot) EXPECT_TRUE(value == 0 && !std::signbit(value));
    }
  }
}

TEST(UpdateScalars, GroupsOverrideTheSpec) {
  const OptimizerSpec spec{.learning_rate = 0.5, .weight_decay = 0.25};
  const UpdateScalars plain = update_scalars(spec, {}, 0.5, 7, 2.0);
  EXPECT_EQ(plain.learning_rate, 0.25);
  EXPECT_EQ(plain.weight_decay, 0.25);
  EXPECT_EQ(plain.update_index, 7);
  EXPECT_EQ(plain.grad_scale, 2.0);
  const ParamGroup group{.name = "norms", .learning_rate_scale = 0.5, .weight_decay = 0.0};
  const UpdateScalars grouped = update_scalars(spec, group, 0.5, 7, 2.0);
  EXPECT_EQ(grouped.learning_rate, 0.125);
  EXPECT_EQ(grouped.weight_decay, 0.0);
}

TEST(MakeOptimizer, NamesItsSlotsAndHyperparameters) {
  EXPECT_EQ(adamw()->slot_names(), (std::vector<std::string>{"adamw.exp_avg", "adamw.exp_avg_sq"}));
  EXPECT_EQ(sgd(0.9)->slot_names(), std::vector<std::string>{"sgd.momentum"});
  EXPECT_TRUE(sgd(0)->slot_names().empty());
  EXPECT_EQ(make_optimizer({}).value()->hyperparameters_text(),
            "adamw learning_rate=0.001 beta1=0.9 beta2=0.999 eps=1e-08 weight_decay=0.01");
  EXPECT_EQ(sgd(0.9)->hyperparameters_text(),
            "sgd learning_rate=0.001 momentum=0.9 weight_decay=0.05");
}

TEST(MakeOptimizer, RefusesWhatItCannotDoAndNamesTheField) {
  const auto message = [](const OptimizerSpec& spec) {
    const auto result = make_optimizer(spec);
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
    return result.status().message();
  };
  EXPECT_THAT(message({.name = "adamW"}), HasSubstr("did you mean adamw?"));
  EXPECT_THAT(message({.name = "lion"}), HasSubstr("known are adamw and sgd"));
  EXPECT_THAT(message({.learning_rate = -1}), HasSubstr("learning_rate is -1"));
  EXPECT_THAT(message({.learning_rate = std::nan("")}), HasSubstr("learning_rate"));
  EXPECT_THAT(message({.beta1 = 1}), HasSubstr("beta1"));
  EXPECT_THAT(message({.beta2 = -0.1}), HasSubstr("beta2"));
  EXPECT_THAT(message({.eps = 0}), HasSubstr("eps"));
  EXPECT_THAT(message({.weight_decay = std::numeric_limits<double>::infinity()}),
              HasSubstr("weight_decay"));
  EXPECT_THAT(message({.name = "sgd", .momentum = 1.5}), HasSubstr("momentum"));
}

TEST(FlatOptimizer, RefusesAnotherNumberOfSlotsAnotherDtypeAndTheZerothUpdate) {
  auto elems = random_elems<float>(8, 2, 12);
  FlatKernels& kernels = host_device().compute();
  UpdateArrays arrays{elems.param.data(), elems.grad.data(), elems.slots[0].data(), nullptr, 8};
  EXPECT_THROW(adamw()->update(kernels, Dtype::kF32, arrays, kScalars), UsageError);
  EXPECT_THROW(sgd(0)->update(kernels, Dtype::kF32, arrays, kScalars), UsageError);
  arrays.second = elems.slots[1].data();
  EXPECT_THROW(adamw()->update(kernels, Dtype::kBF16, arrays, kScalars), UsageError);
  EXPECT_THROW(sgd(0.9)->update(kernels, Dtype::kF32, arrays, kScalars), UsageError);
  UpdateScalars zeroth = kScalars;
  zeroth.update_index = 0;
  EXPECT_THROW(adamw()->update(kernels, Dtype::kF32, arrays, zeroth), UsageError);
}

}  // namespace
}  // namespace lockstep
