// Environment variables, host, processors, memory. The one owner of getenv.
#include "lockstep/core/base/environment.h"

#include <elf.h>
#include <link.h>
#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "lockstep/core/base/text.h"

namespace lockstep {

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

void set_environment_variable(const std::string& name, const std::string& value) {
  ::setenv(name.c_str(), value.c_str(), /*overwrite=*/1);
}

std::vector<std::string> environment_variables_beginning_with(const std::string& prefix) {
  std::vector<std::string> found;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    if (std::string_view(*variable).starts_with(prefix)) found.emplace_back(*variable);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string program_folder() {
  char path[4096];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof(path));
  if (size <= 0 || size == static_cast<ssize_t>(sizeof(path))) return "";
  const std::string_view text(path, static_cast<size_t>(size));
  return std::string(text.substr(0, text.rfind('/')));
}

std::string host_name() {
  char buffer[256] = {};
  if (::gethostname(buffer, sizeof(buffer) - 1) != 0) return "unknown-host";
  return buffer;
}

std::string boot_id() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string line;
  std::getline(in, line);
  return std::string(trim(line));
}

int64_t process_id() {
  return ::getpid();
}

std::optional<uint64_t> process_start_ticks(int64_t pid) {
  if (pid <= 0) return std::nullopt;
  std::ifstream in(cat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  // "pid (command) state ppid ..."; the command may hold spaces and parentheses, so count from the
  // last one.
  const size_t end_of_command = text.rfind(')');
  if (end_of_command == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(end_of_command + 1));
  std::string field;
  constexpr int kFirstFieldNumber = 3;
  constexpr int kStartTimeFieldNumber = 22;
  for (int i = kFirstFieldNumber; i <= kStartTimeFieldNumber; ++i) {
    if (!(fields >> field)) return std::nullopt;
    // A zombie has ended; only its parent has not noticed yet.
    if (i == kFirstFieldNumber && (field == "Z" || field == "X")) return std::nullopt;
  }
  uint64_t ticks = 0;
  auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), ticks);
  if (error != std::errc() || end != field.data() + field.size()) return std::nullopt;
  return ticks;
}

int num_usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails on machines with more processors than the set has room for; then the total is the best
  // answer.
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(CPU_COUNT(&set), 1);
  return static_cast<int>(std::max(std::thread::hardware_concurrency(), 1u));
}

std::optional<uint64_t> resident_bytes() {
  std::ifstream in("/proc/self/smaps_rollup");
  std::string line;
  uint64_t total_kib = 0;
  bool found = false;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string key;
    uint64_t kib = 0;
    if (!(fields >> key >> kib)) continue;
    if (key == "Private_Dirty:" || key == "Shared_Dirty:") {
      total_kib += kib;
      found = true;
    }
  }
  if (!found) return std::nullopt;
  return total_kib * 1024;
}

std::string instruction_set() {
  // LibTorch reads the same variable, so a run that forces its kernels down says so in its records.
  if (auto forced = environment_variable("ATEN_CPU_CAPABILITY")) {
    if (*forced == "avx512" || *forced == "avx2" || *forced == "default") return *forced;
  }
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_fma = __builtin_cpu_supports("fma");
  if (has_fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return "avx512";
  if (has_fma && __builtin_cpu_supports("avx2")) return "avx2";
#endif
  return "default";
}

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kServeFromHeapBelowBytes = 1 << 30;
  constexpr int kNeverTrim = -1;
  ::mallopt(M_MMAP_THRESHOLD, kServeFromHeapBelowBytes);
  ::mallopt(M_TRIM_THRESHOLD, kNeverTrim);
#endif
}

void release_freed_memory() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

namespace {

// Finds the note of the first object, which is the program itself, and stops there.
int read_build_id(dl_phdr_info* info, size_t /*size*/, void* out) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_NOTE) continue;
    const auto* at = reinterpret_cast<const unsigned char*>(info->dlpi_addr + header.p_vaddr);
    const auto* end = at + header.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof(note));
      const auto* content = at + sizeof(note) + ((note.n_namesz + 3) & ~3u);
      if (note.n_type == NT_GNU_BUILD_ID) {
        for (unsigned k = 0; k < note.n_descsz; ++k) {
          static_cast<std::string*>(out)->push_back("0123456789abcdef"[content[k] >> 4]);
          static_cast<std::string*>(out)->push_back("0123456789abcdef"[content[k] & 15]);
        }
        return 1;
      }
      at = content + ((note.n_descsz + 3) & ~3u);
    }
  }
  return 1;
}

}  // namespace

void yield_to_other_threads(int steps) {
  if (steps <= 0) return;
  // On Linux a nice value belongs to a thread, and 0 is the calling one.
  const int now = ::getpriority(PRIO_PROCESS, 0);
  ::setpriority(PRIO_PROCESS, 0, std::min(now + steps, 19));
}

std::string build_id() {
  std::string out;
  ::dl_iterate_phdr(read_build_id, &out);
  return out;
}

bool is_terminal(int file) {
  return ::isatty(file) == 1;
}

}  // namespace lockstep
