#pragma once
// Streams and events of the emulated GPU. A stream is a thread that does its work in order, after
// pauses now and then, so that what was not put in order shows.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace lockstep::emulated_gpu {

class Stream {
 public:
  explicit Stream(uint32_t seed);
  /// What it was handed is still done.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void submit(std::function<void()> work);
  bool is_idle() const;
  void synchronize() const;

 private:
  struct State;
  static void run(const std::shared_ptr<State>& state, uint32_t seed);
  std::shared_ptr<State> state_;  // the thread's too
};

/// Handed out as a cudaStream_t; null and the two named ones are the default stream.
Stream& stream_of(const void* handle);
/// Of all streams.
void synchronize_device();

}  // namespace lockstep::emulated_gpu
