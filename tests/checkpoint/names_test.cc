#include "lockstep/checkpoint/names.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(Names, AreBuiltAsTheFormatSays) {
  EXPECT_EQ(generation_folder({7, 100}), "gen-000007-step-0000000100");
  EXPECT_EQ(partial_folder({{8, 200}, 3}), ".gen-000008-step-0000000200.a0003.partial");
  EXPECT_EQ(doomed_folder({{8, 200}, 3}), ".gen-000008-step-0000000200.a0003.doomed");
  EXPECT_EQ(shard_file({0, 4}), "shard-00000-of-00004.safetensors");
  EXPECT_EQ(attempt_file(3), "0003");
  EXPECT_EQ(aside_folder(3), "checkpoints-aside-a0003");
  EXPECT_EQ(run_tensor({"adamw.exp_avg", "trainable.F32", 3, 17}),
            "adamw.exp_avg/trainable.F32@3-17");
}

TEST(Names, ParsingUndoesBuilding) {
  for (int64_t n : {int64_t{0}, int64_t{1}, int64_t{9999}, int64_t{1234567}, int64_t{99999999999},
                    (int64_t{1} << 53) - 1}) {
    EXPECT_EQ(parse_generation_folder(generation_folder({n, n / 3})), (GenerationName{n, n / 3}));
    EXPECT_EQ(parse_partial_folder(partial_folder({{n, 5}, n / 7})),
              (TransientName{{n, 5}, n / 7}));
    EXPECT_EQ(parse_doomed_folder(doomed_folder({{n, 5}, n / 7})), (TransientName{{n, 5}, n / 7}));
    EXPECT_EQ(parse_shard_file(shard_file({n / 2, n})), (ShardName{n / 2, n}));
    EXPECT_EQ(parse_attempt_file(attempt_file(n)), n);
    EXPECT_EQ(parse_aside_folder(aside_folder(n)), n);
    EXPECT_EQ(parse_run_tensor(run_tensor({"k", "s@x", n / 2, n})),
              (RunTensorName{"k", "s@x", n / 2, n}));
  }
}

TEST(Names, NumbersThatCanNotBeCountedOnAreNotOurs) {
  for (int64_t n : {int64_t{1} << 53, INT64_MAX}) {
    EXPECT_FALSE(parse_generation_folder(generation_folder({n, 5}))) << n;
    EXPECT_FALSE(parse_generation_folder(generation_folder({5, n}))) << n;
    EXPECT_FALSE(parse_partial_folder(partial_folder({{5, 5}, n}))) << n;
    EXPECT_FALSE(parse_attempt_file(attempt_file(n))) << n;
    EXPECT_FALSE(parse_aside_folder(aside_folder(n))) << n;
  }
}

TEST(Names, WhatMerelyLooksAlikeIsNotOurs) {
  for (const char* name :
       {"", "gen-", "gen-000007", "gen-7-step-100", "gen-0000007-step-0000000100",
        "gen-000007-step-0000000100 ", "gen-000007-step-0000000100.bak",
        "gen-00000-7-step-0000000100", "gen-+00007-step-0000000100",
        "gen-999999999999999999999-step-0000000100", ".gen-000007-step-0000000100",
        "GEN-000007-step-0000000100", "../gen-000007-step-0000000100", "step_100", "100"}) {
    EXPECT_FALSE(parse_generation_folder(name)) << name;
  }
  EXPECT_FALSE(parse_partial_folder(".gen-000008-step-0000000200.a0003.doomed"));
  EXPECT_FALSE(parse_partial_folder("gen-000008-step-0000000200.a0003.partial"));
  EXPECT_FALSE(parse_shard_file("shard-0-of-4.safetensors"));
  EXPECT_FALSE(parse_shard_file("sub/shard-00000-of-00004.safetensors"));
  EXPECT_FALSE(parse_attempt_file("3"));
  EXPECT_FALSE(parse_attempt_file("0003~"));
  EXPECT_FALSE(parse_run_tensor("param/trainable.F32@1"));
  EXPECT_FALSE(parse_run_tensor("param@1-2"));
  EXPECT_FALSE(parse_run_tensor("param/trainable.F32@01-2"));
}

}  // namespace
}  // namespace lockstep
