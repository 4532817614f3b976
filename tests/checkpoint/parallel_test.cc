#include "parallel.h"

#include <gmock/gmock.h>

#include <stdexcept>
#include <vector>

namespace lockstep {
namespace {

TEST(RunParallel, DoesEachTaskOnce) {
  for (const int num_threads : {-1, 1, 2, 7}) {
    std::vector<std::atomic<int>> done(100);
    std::atomic<int> num_workers = 0;
    const Status status = run_parallel(done.size(), num_threads, [&] {
      ++num_workers;
      return Worker([&](size_t task) {
        ++done[task];
        return Status::ok();
      });
    });
    EXPECT_TRUE(status.is_ok());
    for (const auto& times : done) EXPECT_EQ(times, 1);
    EXPECT_LE(num_workers, std::max(num_threads, 1));
  }
}

TEST(RunParallel, StopsAtAnErrorAndReturnsIt) {
  for (const int num_threads : {1, 4}) {
    std::atomic<int> num_done = 0;
    const Status status = run_parallel(100'000, num_threads, [&] {
      return Worker([&](size_t task) {
        ++num_done;
        return task == 10 ? io_error("the tenth") : Status::ok();
      });
    });
    EXPECT_EQ(status.message(), "the tenth");
    EXPECT_LT(num_done, 100'000);
  }
}

TEST(RunParallel, AnExceptionIsAnError) {
  const Status status =
      run_parallel(2, 2, [] { return Worker([](size_t) -> Status { throw std::bad_alloc(); }); });
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
}

TEST(ByteProgress, NeverShrinks) {
  uint64_t last = 0;
  const OnProgress on_progress = [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(total, 4000U);
    EXPECT_GE(done, last);
    last = done;
  };
  ByteProgress progress(on_progress, 4000);
  const Status status = run_parallel(4000, 4, [&] {
    return Worker([&](size_t) {
      progress.add(1);
      return Status::ok();
    });
  });
  EXPECT_TRUE(status.is_ok());
  EXPECT_GT(last, 0U);
}

}  // namespace
}  // namespace lockstep
