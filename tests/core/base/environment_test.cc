#include "lockstep/core/base/environment.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/process.h"

namespace lockstep {
namespace {

TEST(Environment, VariablesAreReadAndSet) {
  EXPECT_EQ(environment_variable("LOCKSTEP_TEST_UNSET"), std::nullopt);
  set_environment_variable("LOCKSTEP_TEST_SET", "");
  EXPECT_EQ(environment_variable("LOCKSTEP_TEST_SET"), "");
  set_environment_variable("LOCKSTEP_TEST_SET", "a b");
  EXPECT_EQ(environment_variable("LOCKSTEP_TEST_SET"), "a b");
}

TEST(Environment, AProcessIsAsOldAsItsStartSays) {
  const double at_first = process_age_s();
  sleep_ns(50'000'000);
  const double later = process_age_s();
  EXPECT_GE(later - at_first, 0.04);
  // A child is younger than its parent, although both ask at the same moment.
  int ends[2] = {};
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const double age = process_age_s();
    ::_exit(::write(ends[1], &age, sizeof(age)) == sizeof(age) ? 0 : 1);
  }
  double age_of_child = -1;
  ASSERT_EQ(::read(ends[0], &age_of_child, sizeof(age_of_child)),
            static_cast<ssize_t>(sizeof(age_of_child)));
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_GE(age_of_child, 0);
  EXPECT_LT(age_of_child, later - 0.03);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(Environment, StartTicksTellLivingProcessesFromDeadOnes) {
  const auto own = process_start_ticks(process_id());
  ASSERT_TRUE(own.has_value());
  EXPECT_EQ(own, process_start_ticks(process_id()));
  EXPECT_GT(*own, process_start_ticks(1).value());
  EXPECT_EQ(process_start_ticks(0), std::nullopt);
  EXPECT_EQ(process_start_ticks(-1), std::nullopt);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_GT(child, 0);
  const Deadline deadline = Deadline::after_s(10);
  while (process_start_ticks(child).has_value() && !deadline.has_passed()) sleep_ns(1'000'000);
  EXPECT_EQ(process_start_ticks(child), std::nullopt)
      << "a process that has ended is gone before it is waited for";
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(process_start_ticks(child), std::nullopt);
}

TEST(Environment, ResidentBytesFollowsWhatIsTouched) {
  constexpr size_t kBytes = 64 << 20;
  const auto before = resident_bytes();
  ASSERT_TRUE(before.has_value());
  std::vector<char> memory(kBytes, 1);
  const auto after = resident_bytes();
  EXPECT_GE(*after, *before + kBytes - kBytes / 50);
  EXPECT_LE(*after, *before + kBytes + kBytes / 50);
}

TEST(Environment, TheInstructionSetCanBeForcedAsLibTorchsCan) {
  const std::string native = instruction_set();
  EXPECT_TRUE(native == "avx512" || native == "avx2" || native == "default") << native;
  set_environment_variable("ATEN_CPU_CAPABILITY", "default");
  EXPECT_EQ(instruction_set(), "default");
  set_environment_variable("ATEN_CPU_CAPABILITY", "");
  EXPECT_EQ(instruction_set(), native);
}

TEST(Environment, HostAndProcessorsAreThere) {
  EXPECT_FALSE(host_name().empty());
  EXPECT_GE(num_usable_cpus(), 1);
  EXPECT_EQ(boot_id(), boot_id());
  EXPECT_EQ(process_id(), ::getpid());
}

}  // namespace
}  // namespace lockstep
