// Which device a rank works on, and what is said where there is none. A machine with GPUs runs the
// rest: tests/gpu.
// Covers: accelerator.cc gpu_choice.cc
#include "lockstep/distributed/accelerator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "cuda_library.h"
#include "distributed/test_settings.h"
#include "gpu_choice.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

TEST(GpuChoice, OneVisibleDeviceIsEveryonesElseTheRanksOwn) {
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(choose_gpu(1, rank, 4, false).value(), 0);
    EXPECT_EQ(choose_gpu(4, rank, 4, false).value(), rank);
    EXPECT_EQ(choose_gpu(8, rank, 4, false).value(), rank);
  }
}

TEST(GpuChoice, MoreRanksThanDevicesIsAnErrorUnlessTheyMayShare) {
  const auto refused = choose_gpu(2, 2, 3, false);
  EXPECT_EQ(refused.status().code(), StatusCode::kUnsupported);
  EXPECT_THAT(refused.status().message(), HasSubstr("3 ranks on this host, but 2 GPUs"));
  EXPECT_EQ(choose_gpu(2, 2, 3, true).value(), 0);
  EXPECT_EQ(choose_gpu(0, 0, 1, true).status().code(), StatusCode::kUnsupported);
}

TEST(GpuChoice, TwoRanksOnOneDeviceAreToldInATable) {
  std::vector<ChosenGpu> chosen = {{0, "a", "GPU-1", "cuda:0 X"},
                                   {1, "a", "GPU-2", "cuda:1 X"},
                                   {2, "b", "GPU-1", "cuda:0 X"}};
  const Status refused = check_not_shared(chosen);
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("rank 0  a  cuda:0 X  GPU-1  shared"));
  EXPECT_THAT(refused.message(), HasSubstr("rank 1  a  cuda:1 X  GPU-2\n"));
  EXPECT_THAT(refused.message(), HasSubstr("rank 2  b  cuda:0 X  GPU-1  shared"));
  EXPECT_THAT(refused.message(), HasSubstr("--share-gpu"));
  EXPECT_TRUE(is_shared(chosen, 0));
  EXPECT_FALSE(is_shared(chosen, 1));
  EXPECT_TRUE(is_shared(chosen, 2));
  chosen[2].uuid = "GPU-3";
  EXPECT_FALSE(is_shared(chosen, 0));
  EXPECT_TRUE(check_not_shared(chosen).is_ok());
}

TEST(GpuChoice, TextsComeBack) {
  const ChosenGpu gpu{3, "host", "GPU-ab", "cuda:1 NVIDIA H200"};
  const ChosenGpu back = parse_gpu(3, gpu_text(gpu)).value();
  EXPECT_EQ(back.world_rank, 3);
  EXPECT_EQ(back.host + back.uuid + back.name, gpu.host + gpu.uuid + gpu.name);
  EXPECT_EQ(parse_gpu(0, "host only").status().code(), StatusCode::kInternal);
}

bool has_driver() {
  return load_cuda_library().status().code() != StatusCode::kNotFound;
}

Result<std::shared_ptr<Accelerator>> open(const std::string& wanted) {
  World world = World::solo(testing::quiet());
  return open_accelerator(world, {.wanted = wanted});
}

TEST(Accelerator, TheProcessorNeedsNothingAndAnUnknownWordIsRefused) {
  EXPECT_EQ(open("cpu").value(), nullptr);
  const auto unknown = open("tpu");
  EXPECT_EQ(unknown.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(unknown.status().message(), HasSubstr("known are auto, cpu and cuda"));
}

TEST(Accelerator, WithoutADriverAutoMeansTheProcessorAndCudaIsAnError) {
  if (has_driver()) GTEST_SKIP() << "this machine has a driver; tests/gpu looks further";
  EXPECT_EQ(open("auto").value(), nullptr);
  const auto refused = open("cuda");
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("no NVIDIA driver here"));
  EXPECT_THAT(refused.status().message(), HasSubstr("device cpu, or auto"));
}

TEST(Accelerator, ThreadsOfOneProcessTrainOnTheProcessor) {
  Status status = World::run_threads(
      2,
      [](World& world) {
        auto refused = open_accelerator(world, {.wanted = "cuda"});
        EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
        EXPECT_THAT(refused.status().message(), HasSubstr("ranks that are threads"));
        return open_accelerator(world, {.wanted = "auto"}).status();
      },
      testing::quiet());
  EXPECT_TRUE(status.is_ok()) << status.to_string();
}

}  // namespace
}  // namespace lockstep
