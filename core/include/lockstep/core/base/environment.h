#pragma once
// What the process can know of its surroundings: environment variables (the one place that reads
// them), host, processors, memory, other processes. Thread-safety: all functions may be called from
// any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

/// The variable's value, or nothing when it is not set.
std::optional<std::string> environment_variable(const std::string& name);
/// Sets a variable for this process and its children; call before threads start that read some.
void set_environment_variable(const std::string& name, const std::string& value);

/// "NAME=value" of every variable whose name begins so, sorted.
std::vector<std::string> environment_variables_beginning_with(const std::string& prefix);

std::string host_name();
/// Changes at each boot of the host; empty when the system does not say.
std::string boot_id();
int64_t process_id();
/// Start time of a process in clock ticks since boot, or nothing when there is no such process
/// (or it has ended and waits for its parent): with it a process
/// id names one process, also after the id was reused.
std::optional<uint64_t> process_start_ticks(int64_t pid);
/// Processors that this process may run on.
int num_usable_cpus();
/// Memory that this process has written to and holds, in bytes (smaps_rollup: Private_Dirty +
/// Shared_Dirty), or nothing when the system does not say. Pages of libraries are not in it: how
/// they count changes when another process maps them.
std::optional<uint64_t> resident_bytes();
/// The vector instruction set that LibTorch and our kernels choose by: "avx512", "avx2" or
/// "default".
std::string instruction_set();
/// Best-effort settings for large buffers: glibc keeps freed memory instead of handing it back to
/// the kernel at every step (facts: a fifth of a step's time was page faults). No effect with
/// another allocator.
void keep_freed_memory();
/// Hands memory that was freed back to the kernel once, so that resident_bytes() tells what is in
/// use.
void release_freed_memory();
/// Lets other threads of the machine go first: raises the calling thread's nice value by `steps` (0
/// to 19). Threads that it starts inherit it. A wish: where it is refused nothing changes.
void yield_to_other_threads(int steps);
/// Hex of the linker's build id of this program: differs between any two builds that differ; empty
/// without one.
std::string build_id();
/// The folder that this program's file is in; empty when the system does not say.
std::string program_folder();
/// Whether standard output (1) or standard error (2) is a terminal.
bool is_terminal(int file);

}  // namespace lockstep
