// The CUDA runtime of a GPU that is not there: one device whose memory is the host's. What is kept
// of the real one is what a program can get wrong: streams run on their own and late, events stand
// for the moment at which they were recorded, copies from and to memory that is not pinned wait,
// and so do calls that give memory back; errors stay until they are taken. Only what LibTorch and
// liblockstep_cuda.so call is here; what is missing falls through to the real runtime, which says
// that there is no device.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "emulated_kernels.h"
#include "emulated_stream.h"
#include "emulated_warp.h"

namespace lockstep::emulated_gpu {
namespace {

constexpr size_t kTotalBytes = size_t{8} << 30;
// Copies from memory that is not pinned wait for what the stream did before, from this size on.
constexpr size_t kWaitingBytes = size_t{64} << 10;
constexpr int kVersion = 13000;

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

struct Event {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0, passed = 0;
  std::chrono::steady_clock::time_point passed_at{};
};
using EventPointer = std::shared_ptr<Event>;

EventPointer& event_of(cudaEvent_t handle) {
  return *reinterpret_cast<EventPointer*>(handle);
}

/// Ranges of memory by their first byte.
class Ranges {
 public:
  void add(const void* data, size_t size) {
    std::lock_guard lock(mutex_);
    sizes_[reinterpret_cast<uintptr_t>(data)] = size;
  }
  /// 0: not one of them.
  size_t remove(const void* data) {
    std::lock_guard lock(mutex_);
    const auto found = sizes_.find(reinterpret_cast<uintptr_t>(data));
    if (found == sizes_.end()) return 0;
    const size_t size = found->second;
    sizes_.erase(found);
    return size;
  }
  bool hold(const void* data, size_t size = 1) const {
    std::lock_guard lock(mutex_);
    const auto first = reinterpret_cast<uintptr_t>(data);
    auto found = sizes_.upper_bound(first);
    if (found == sizes_.begin()) return false;
    --found;
    return first + size <= found->first + found->second;
  }
  size_t total() const {
    std::lock_guard lock(mutex_);
    size_t sum = 0;
    for (const auto& [first, size] : sizes_) sum += size;
    return sum;
  }

 private:
  mutable std::mutex mutex_;
  std::map<uintptr_t, size_t> sizes_;
};

// Never destroyed: streams and other threads use it to the end of the process.
struct Gpu {
  Ranges memory, pinned;
  std::mutex mutex;
  std::set<Stream*> streams;
  uint32_t next_seed = 1;
  Stream* default_stream = make_stream();

  Stream* make_stream() {
    std::lock_guard lock(mutex);
    return *streams.insert(new Stream(next_seed++)).first;
  }
};
Gpu& gpu() {
  static Gpu* the_gpu = new Gpu;
  return *the_gpu;
}

/// What a caller may rely on when a copy has returned.
cudaError_t copy(void* to, const void* from, size_t size, Stream& stream) {
  const auto is_plain = [](const void* data, size_t num_bytes) {
    return !gpu().memory.hold(data) && !gpu().pinned.hold(data, num_bytes);
  };
  const bool is_on_gpu = gpu().memory.hold(to) || gpu().memory.hold(from);
  if (gpu().memory.hold(to) && !gpu().memory.hold(to, size)) return told(cudaErrorInvalidValue);
  if (gpu().memory.hold(from) && !gpu().memory.hold(from, size)) return told(cudaErrorInvalidValue);
  if (is_on_gpu && is_plain(from, size)) {
    if (size > kWaitingBytes) stream.synchronize();
    std::vector<char> staged(size);
    std::memcpy(staged.data(), from, size);
    stream.submit(
        [to, staged = std::move(staged)] { std::memcpy(to, staged.data(), staged.size()); });
    return cudaSuccess;
  }
  stream.submit([=] { std::memmove(to, from, size); });
  if (is_plain(to, size)) stream.synchronize();
  return cudaSuccess;
}

}  // namespace

struct Stream::State {
  mutable std::mutex mutex;
  mutable std::condition_variable changed;
  std::deque<std::function<void()>> works;
  bool is_busy = false;
  bool is_stopping = false;
};

Stream::Stream(uint32_t seed) : state_(std::make_shared<State>()) {
  std::thread([state = state_, seed] { run(state, seed); }).detach();
}

Stream::~Stream() {
  std::lock_guard lock(state_->mutex);
  state_->is_stopping = true;
  state_->changed.notify_all();
}

void Stream::submit(std::function<void()> work) {
  std::lock_guard lock(state_->mutex);
  state_->works.push_back(std::move(work));
  state_->changed.notify_all();
}

bool Stream::is_idle() const {
  std::lock_guard lock(state_->mutex);
  return !state_->is_busy && state_->works.empty();
}

void Stream::synchronize() const {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return !state_->is_busy && state_->works.empty(); });
}

void Stream::run(const std::shared_ptr<State>& state, uint32_t seed) {
  std::mt19937 random(seed);
  std::unique_lock lock(state->mutex);
  while (true) {
    state->changed.wait(lock, [&] { return state->is_stopping || !state->works.empty(); });
    if (state->works.empty()) return;
    const std::function<void()> work = std::move(state->works.front());
    state->works.pop_front();
    state->is_busy = true;
    lock.unlock();
    if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    work();
    lock.lock();
    state->is_busy = false;
    state->changed.notify_all();
  }
}

Stream& stream_of(const void* handle) {
  const auto number = reinterpret_cast<uintptr_t>(handle);
  if (number <= 2) return *gpu().default_stream;  // null, cudaStreamLegacy, cudaStreamPerThread
  return *static_cast<Stream*>(const_cast<void*>(handle));
}

void synchronize_device() {
  std::vector<Stream*> streams;
  {
    std::lock_guard lock(gpu().mutex);
    streams.assign(gpu().streams.begin(), gpu().streams.end());
  }
  for (const Stream* stream : streams) stream->synchronize();
}

cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread) {
  if (config.gridDim.x == 0 || config.blockDim.x == 0 || config.blockDim.x > 1024 ||
      config.gridDim.y * config.gridDim.z * config.blockDim.y * config.blockDim.z != 1)
    return told(cudaErrorInvalidConfiguration);
  stream_of(config.stream)
      .submit([blocks = config.gridDim.x, threads = config.blockDim.x, thread = std::move(thread)] {
        run_grid(blocks, threads, thread);
      });
  return cudaSuccess;
}

}  // namespace lockstep::emulated_gpu

using namespace lockstep::emulated_gpu;  // NOLINT: the functions below are C's

extern "C" {

// Of the driver, LibTorch asks one thing: whether the device is in use already.
int cuDevicePrimaryCtxGetState(int /*device*/, unsigned* flags, int* is_active) {
  *flags = 0;
  *is_active = 1;
  return 0;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  *count = visible != nullptr && *visible == '\0' ? 0 : 1;
  return told(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return told(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return told(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "emulated GPU");
  std::memcpy(properties->uuid.bytes, "lockstep's own 1", sizeof(properties->uuid.bytes));
  properties->totalGlobalMem = kTotalBytes;
  properties->major = 9;
  properties->multiProcessorCount = 1;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr /*attribute*/, int /*device*/) {
  *value = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  synchronize_device();
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  return last_error;
}

cudaError_t cudaMalloc(void** data, size_t size) {
  const size_t used = gpu().memory.total();
  if (size > kTotalBytes || used + size > kTotalBytes) return told(cudaErrorMemoryAllocation);
  void* found = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return told(cudaErrorMemoryAllocation);
  std::memset(found, 0x5a, size);  // it is not zero on a GPU either
  gpu().memory.add(found, size);
  *data = found;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  synchronize_device();
  const size_t size = gpu().memory.remove(data);
  if (size == 0) return told(cudaErrorInvalidValue);
  munmap(data, size);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = kTotalBytes - gpu().memory.total();
  *total = kTotalBytes;
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* data, size_t size, unsigned /*flags*/) {
  if (gpu().pinned.hold(data)) return told(cudaErrorHostMemoryAlreadyRegistered);
  gpu().pinned.add(data, size);
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* data) {
  synchronize_device();
  return told(gpu().pinned.remove(data) == 0 ? cudaErrorHostMemoryNotRegistered : cudaSuccess);
}
cudaError_t cudaHostAlloc(void** data, size_t size, unsigned /*flags*/) {
  *data = std::aligned_alloc(4096, (size + 4095) / 4096 * 4096);
  gpu().pinned.add(*data, size);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  synchronize_device();
  if (gpu().pinned.remove(data) == 0) return told(cudaErrorInvalidValue);
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  *attributes = {};
  const bool is_pinned = gpu().pinned.hold(data);
  attributes->type = gpu().memory.hold(data) ? cudaMemoryTypeDevice
                     : is_pinned             ? cudaMemoryTypeHost
                                             : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind /*kind*/,
                            cudaStream_t stream) {
  return copy(to, from, size, stream_of(stream));
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind /*kind*/) {
  const cudaError_t error = copy(to, from, size, stream_of(nullptr));
  stream_of(nullptr).synchronize();
  return error;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
  if (!gpu().memory.hold(to, size)) return told(cudaErrorInvalidValue);
  stream_of(stream).submit([=] { std::memset(to, value, size); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t size) {
  return cudaMemsetAsync(to, value, size, nullptr);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned /*flags*/,
                                         int /*priority*/) {
  *stream = reinterpret_cast<cudaStream_t>(gpu().make_stream());
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Stream* stream = &stream_of(handle);
  {
    std::lock_guard lock(gpu().mutex);
    gpu().streams.erase(stream);
  }
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream_of(stream).synchronize();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return told(stream_of(stream).is_idle() ? cudaSuccess : cudaErrorNotReady);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t /*stream*/, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t /*stream*/, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* num_dependencies) {
  *status = cudaStreamCaptureStatusNone;
  if (id != nullptr) *id = 0;
  if (graph != nullptr) *graph = nullptr;
  if (dependencies != nullptr) *dependencies = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (num_dependencies != nullptr) *num_dependencies = 0;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  *mode = cudaStreamCaptureModeGlobal;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned /*flags*/) {
  const EventPointer event = event_of(handle);
  std::lock_guard lock(event->mutex);
  stream_of(stream).submit([event, recorded = event->recorded] {
    std::unique_lock wait_lock(event->mutex);
    event->changed.wait(wait_lock, [&] { return event->passed >= recorded; });
  });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = reinterpret_cast<cudaEvent_t>(new EventPointer(std::make_shared<Event>()));
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &event_of(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  const EventPointer event = event_of(handle);
  std::lock_guard lock(event->mutex);
  stream_of(stream).submit([event, recorded = ++event->recorded] {
    std::lock_guard pass_lock(event->mutex);
    event->passed = std::max(event->passed, recorded);
    event->passed_at = std::chrono::steady_clock::now();
    event->changed.notify_all();
  });
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned /*flags*/) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  const EventPointer event = event_of(handle);
  std::lock_guard lock(event->mutex);
  return told(event->passed >= event->recorded ? cudaSuccess : cudaErrorNotReady);
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const EventPointer event = event_of(handle);
  std::unique_lock lock(event->mutex);
  event->changed.wait(lock, [&] { return event->passed >= event->recorded; });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t first, cudaEvent_t second) {
  for (cudaEvent_t handle : {first, second}) {
    const cudaError_t state = cudaEventQuery(handle);
    if (state != cudaSuccess) return state;
  }
  *ms = std::chrono::duration<float, std::milli>(event_of(second)->passed_at -
                                                 event_of(first)->passed_at)
            .count();
  return cudaSuccess;
}

}  // extern "C"
