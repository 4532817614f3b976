// The watchdog over a queue whose marks the test passes itself.
#include "exchange_watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "distributed/engine/delayed_device.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using testing::delayed_mark;
using testing::DelayedMark;
using ::testing::HasSubstr;
using testing::ImmediateQueue;

constexpr double kLongS = 20;

class BrokenQueue final : public ImmediateQueue {
 public:
  Result<bool> has_passed(const QueueMark& mark) override {
    if (is_broken) return internal_error("cuda:0 has failed: an illegal address");
    return ImmediateQueue::has_passed(mark);
  }
  std::atomic<bool> is_broken{false};
};

/// A watchdog, what it says, and exchanges for it.
class Watched {
 public:
  WatchedExchange exchange(double timeout_s) {
    WatchedExchange made;
    made.what = "bucket 3";
    made.call = 17;
    made.world_rank = 0;
    made.timeout_s = timeout_s;
    made.begin = std::make_shared<DelayedMark>();
    made.end = std::make_shared<DelayedMark>();
    return made;
  }
  /// What it gave up with; OK if it did not within `seconds`.
  Status given_up(double seconds) {
    if (said_.wait_for(std::chrono::duration<double>(seconds)) != std::future_status::ready)
      return Status::ok();
    return said_.get();
  }
  void lose(Status why) {
    const std::lock_guard lock(mutex_);
    loss_ = std::move(why);
  }

  BrokenQueue queue;
  std::atomic<int> num_looks{0};

 private:
  std::mutex mutex_;
  Status loss_;
  std::promise<Status> promise_;
  std::future<Status> said_ = promise_.get_future();

 public:
  ExchangeWatchdog watchdog{queue,
                            {[this] {
                               ++num_looks;
                               const std::lock_guard lock(mutex_);
                               return loss_;
                             },
                             [this](const Status& why) { promise_.set_value(why); }}};
};

TEST(ExchangeWatchdog, NamesWhatIsNotDone) {
  Watched watched;
  WatchedExchange exchange = watched.exchange(0.2);
  std::array<std::byte, 8192> bytes{};
  const SendOp send{1, std::span(bytes).first(4096)};
  const RecvOp recv{2, bytes};
  exchange.add_messages({&send, 1}, {&recv, 1});
  delayed_mark(exchange.begin).pass();
  const Stopwatch watch;
  watched.watchdog.watch(exchange);
  EXPECT_THAT(watched.watchdog.text_of_oldest(), HasSubstr("bucket 3"));
  const Status said = watched.given_up(kLongS);
  EXPECT_GE(watch.elapsed_s(), 0.2);
  EXPECT_EQ(said.code(), StatusCode::kTimeout);
  EXPECT_THAT(
      said.message(),
      AllOf(HasSubstr("bucket 3: rank 0, its call 17 (to rank 1 4096 bytes, from rank 2 8192 "
                      "bytes) was not done within 0.2 s"),
            HasSubstr("did not come to it")));
}

TEST(ExchangeWatchdog, TimeCountsFromWhenTheDeviceComesToIt) {
  Watched watched;
  const WatchedExchange exchange = watched.exchange(0.1);
  watched.watchdog.watch(exchange);
  EXPECT_TRUE(watched.given_up(0.5).is_ok());
  delayed_mark(exchange.begin).pass();
  EXPECT_EQ(watched.given_up(kLongS).code(), StatusCode::kTimeout);
}

TEST(ExchangeWatchdog, AWaitOfTheHostCountsFromThereToo) {
  Watched watched;
  const WatchedExchange exchange = watched.exchange(kLongS);
  watched.watchdog.watch(exchange);
  std::thread later([&] {
    sleep_ns(500'000'000);
    delayed_mark(exchange.begin).pass();
  });
  const Stopwatch watch;
  const Status late = watched.watchdog.wait(
      "parameters", Deadline::after_s(0.2), [] { return Result<bool>(false); }, Log::silent());
  later.join();
  EXPECT_GE(watch.elapsed_s(), 0.6);
  EXPECT_EQ(late.code(), StatusCode::kTimeout);
  EXPECT_THAT(late.message(), HasSubstr("parameters was not done within 0.2 s"));
}

TEST(ExchangeWatchdog, WhatWasGivenUpIsDoneAndHasNotCome) {
  Watched watched;
  EXPECT_TRUE(watched.watchdog.settle("nothing", Deadline::after_s(0), Log::silent()).is_ok());
  const WatchedExchange exchange = watched.exchange(0.1);
  delayed_mark(exchange.begin).pass();
  watched.watchdog.watch(exchange);
  EXPECT_FALSE(watched.given_up(kLongS).is_ok());
  EXPECT_EQ(watched.watchdog.settle("sums", Deadline::after_s(kLongS), Log::silent()).code(),
            StatusCode::kTimeout);
}

TEST(ExchangeWatchdog, AWaitEndsWithALostRankOrTheDevicesError) {
  Watched watched;
  const auto wait = [&](Result<bool> is_done) {
    return watched.watchdog.wait(
        "sums", Deadline::after_s(kLongS), [&] { return is_done; }, Log::silent());
  };
  EXPECT_THAT(wait(internal_error("an illegal address")).message(),
              AllOf(HasSubstr("sums"), HasSubstr("an illegal address")));
  EXPECT_TRUE(wait(true).is_ok());
  watched.lose(peer_failure_error("rank 1 gone"));
  EXPECT_EQ(wait(false).code(), StatusCode::kPeerFailure);
}

TEST(ExchangeWatchdog, EachExchangeHasItsOwnTime) {
  Watched watched;
  for (int i = 0; i < 6; ++i) {
    const WatchedExchange exchange = watched.exchange(1.5);
    delayed_mark(exchange.begin).pass();
    watched.watchdog.watch(exchange);
    ASSERT_TRUE(watched.given_up(0.3).is_ok()) << i;
    delayed_mark(exchange.end).pass();
  }
}

TEST(ExchangeWatchdog, ForgetsWhatIsDoneAndThenLooksNoMore) {
  Watched watched;
  for (int i = 0; i < 1000; ++i) {
    const WatchedExchange exchange = watched.exchange(kLongS);
    delayed_mark(exchange.begin).pass();
    delayed_mark(exchange.end).pass();
    watched.watchdog.watch(exchange);
  }
  const Deadline soon = Deadline::after_s(kLongS);
  while (!watched.watchdog.text_of_oldest().empty() && !soon.has_passed()) sleep_ns(1'000'000);
  EXPECT_EQ(watched.watchdog.text_of_oldest(), "");
  watched.lose(peer_failure_error("rank 1 gone"));
  EXPECT_TRUE(watched.given_up(0.2).is_ok()) << "nothing is under way that could be given up";
}

TEST(ExchangeWatchdog, ALostRankEndsWhatIsUnderWay) {
  Watched watched;
  const WatchedExchange exchange = watched.exchange(1000);
  watched.watchdog.watch(exchange);
  EXPECT_TRUE(watched.given_up(0.1).is_ok());
  EXPECT_GT(watched.num_looks, 0);
  watched.lose(peer_failure_error("rank 1 gone"));
  const Status said = watched.given_up(kLongS);
  EXPECT_EQ(said.code(), StatusCode::kPeerFailure);
  EXPECT_THAT(said.message(),
              AllOf(HasSubstr("bucket 3"), HasSubstr("with all ranks"), HasSubstr("rank 1 gone")));
}

TEST(ExchangeWatchdog, AnErrorOfTheDeviceIsTold) {
  Watched watched;
  watched.watchdog.watch(watched.exchange(1000));
  watched.queue.is_broken = true;
  EXPECT_THAT(watched.given_up(kLongS).message(), HasSubstr("an illegal address"));
}

/// Whoever asks it waits until it is let go.
class SilentQueue final : public ImmediateQueue {
 public:
  Result<bool> has_passed(const QueueMark& mark) override {
    if (mark != nullptr) answer_.wait();
    return ImmediateQueue::has_passed(mark);
  }
  void let_go() { promise_.set_value(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> answer_ = promise_.get_future();
};

TEST(ExchangeWatchdog, ADriverThatDoesNotAnswerKeepsNobody) {
  for (const bool is_lost : {false, true}) {
    SilentQueue queue;
    std::promise<Status> promise;
    ExchangeWatchdog watchdog(
        queue,
        {[&] { return is_lost ? peer_failure_error("rank 1 gone") : Status::ok(); },
         [&](const Status& why) {
           promise.set_value(why);
           queue.let_go();  // as an aborted exchange lets the driver
         }},
        /*most_look_s=*/0.3);
    WatchedExchange exchange;
    exchange.what = "bucket 3";
    exchange.begin = std::make_shared<DelayedMark>();
    exchange.end = std::make_shared<DelayedMark>();
    watchdog.watch(exchange);
    std::future<Status> said = promise.get_future();
    ASSERT_EQ(said.wait_for(std::chrono::duration<double>(kLongS)), std::future_status::ready);
    const Status why = said.get();
    EXPECT_EQ(why.code(), is_lost ? StatusCode::kPeerFailure : StatusCode::kTimeout);
    EXPECT_THAT(why.message(),
                AllOf(HasSubstr("bucket 3"), HasSubstr(is_lost ? "rank 1 gone" : "driver")));
    EXPECT_TRUE(watchdog.stop());
  }
}

TEST(ExchangeWatchdog, ADeviceThatThrowsIsTold) {
  class ThrowingQueue final : public ImmediateQueue {
    Result<bool> has_passed(const QueueMark&) override { throw std::runtime_error("CUDA error"); }
  } queue;
  std::promise<Status> promise;
  ExchangeWatchdog watchdog(
      queue, {[] { return Status::ok(); }, [&](const Status& why) { promise.set_value(why); }});
  WatchedExchange exchange;
  exchange.end = std::make_shared<DelayedMark>();
  watchdog.watch(exchange);
  std::future<Status> said = promise.get_future();
  ASSERT_EQ(said.wait_for(std::chrono::duration<double>(kLongS)), std::future_status::ready);
  EXPECT_THAT(said.get().message(), HasSubstr("CUDA error"));
}

TEST(ExchangeWatchdog, OneThatHangsInGivingUpIsLeftToItself) {
  ImmediateQueue queue;
  std::promise<void> is_in, may_leave;
  auto left = std::make_shared<std::promise<void>>();
  std::future<void> has_left = left->get_future();
  {
    ExchangeWatchdog watchdog(queue, {[] { return internal_error("broken"); },
                                      [&, left](const Status&) {
                                        is_in.set_value();
                                        may_leave.get_future().wait();
                                        left->set_value();
                                      }});
    WatchedExchange exchange;
    exchange.end = std::make_shared<DelayedMark>();
    watchdog.watch(exchange);
    is_in.get_future().wait();
    EXPECT_FALSE(watchdog.stop(0.1));
    may_leave.set_value();
    EXPECT_TRUE(watchdog.stop());
  }
  EXPECT_EQ(has_left.wait_for(std::chrono::seconds(20)), std::future_status::ready);
}

}  // namespace
}  // namespace lockstep
