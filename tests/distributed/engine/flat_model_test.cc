#include "flat_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/types.h>

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string error_of(torch::nn::Module& module) {
  auto flat = FlatModel::make(module);
  EXPECT_FALSE(flat.is_ok());
  if (flat.is_ok()) return "";
  EXPECT_EQ(flat.status().code(), StatusCode::kInvalidArgument);
  return flat.status().message();
}

TEST(FlatModel, KeepsValuesAndStorageOrder) {
  struct Net : torch::nn::Module {
    torch::Tensor rows = register_parameter("rows", torch::arange(6.0).reshape({2, 3}));
    torch::Tensor image = register_parameter(
        "image",
        torch::arange(24.0).reshape({2, 3, 2, 2}).contiguous(at::MemoryFormat::ChannelsLast));
    torch::Tensor transposed =
        register_parameter("transposed", torch::arange(6.0).reshape({2, 3}).t());
  } net;
  std::vector<torch::Tensor> before;
  for (const auto& parameter : net.parameters()) before.push_back(parameter.detach().clone());
  FlatModel flat = FlatModel::make(net).value();
  ASSERT_EQ(flat.storages().size(), 1u);
  auto after = net.parameters();
  for (size_t i = 0; i < after.size(); ++i) {
    EXPECT_TRUE(torch::equal(after[i], before[i])) << i;
    EXPECT_EQ(after[i].strides(), before[i].strides()) << i;
    EXPECT_EQ(after[i].storage().data(), flat.storages()[0].storage().data()) << i;
  }
  flat.check_still_flat();
}

TEST(FlatModel, OneTensorUnderTwoNamesStaysOne) {
  struct Net : torch::nn::Module {
    torch::Tensor a = register_parameter("a", torch::ones({4}));
    torch::Tensor b = register_parameter("b", a);
  } net;
  FlatModel flat = FlatModel::make(net).value();
  EXPECT_EQ(flat.layout().spaces()[0].tensors.size(), 1u);
  EXPECT_EQ(net.a.const_data_ptr(), net.b.const_data_ptr());
}

// Moving them would part what the model's author thinks is one.
TEST(FlatModel, TwoTensorsInTheSameMemoryAreRefused) {
  struct Net : torch::nn::Module {
    torch::Tensor weight = register_parameter("weight", torch::ones({8}));
    torch::Tensor shadow = register_buffer("shadow", weight.detach());
  } whole;
  EXPECT_THAT(error_of(whole), AllOf(HasSubstr("'weight'"), HasSubstr("'shadow'")));
  struct Parts : torch::nn::Module {
    torch::Tensor all = torch::ones({8});
    torch::Tensor front = register_parameter("front", all.slice(0, 0, 5));
    torch::Tensor back = register_parameter("back", all.slice(0, 4, 8));
  } parts;
  EXPECT_THAT(error_of(parts), AllOf(HasSubstr("'front'"), HasSubstr("'back'")));
}

TEST(FlatModel, NeighboursInOneStorageAreFine) {
  struct Net : torch::nn::Module {
    torch::Tensor all = torch::arange(8.0);
    torch::Tensor front = register_parameter("front", all.slice(0, 0, 4));
    torch::Tensor back = register_parameter("back", all.slice(0, 4, 8));
    torch::Tensor none = register_parameter("none", torch::empty({0, 3}));
  } net;
  ASSERT_TRUE(FlatModel::make(net).is_ok());
  EXPECT_EQ(net.back[0].item<float>(), 4);
}

TEST(FlatModel, ExpandedTensorsAreRefused) {
  struct Net : torch::nn::Module {
    torch::Tensor wide = register_parameter("wide", torch::ones({1, 3}).expand({4, 3}));
  } net;
  EXPECT_THAT(error_of(net), AllOf(HasSubstr("'wide'"), HasSubstr("expanded")));
}

TEST(FlatModel, DtypesWithoutASpaceAreRefused) {
  struct Net : torch::nn::Module {
    torch::Tensor spin = register_buffer("spin", torch::zeros({2}, torch::kComplexFloat));
  } net;
  EXPECT_THAT(error_of(net), AllOf(HasSubstr("'spin'"), HasSubstr("Complex")));
}

TEST(FlatModel, AReplacedTensorIsNoticed) {
  struct Net : torch::nn::Module {
    torch::Tensor weight = register_parameter("weight", torch::ones({8}));
  } net;
  FlatModel flat = FlatModel::make(net).value();
  net.weight.set_data(torch::zeros({8}));
  EXPECT_THROW(flat.check_still_flat(), UsageError);
}

}  // namespace
}  // namespace lockstep
