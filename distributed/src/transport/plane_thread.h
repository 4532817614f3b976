#pragma once
// PlaneThread: the background thread of a TCP control plane. Nothing that is thrown on it ends the
// process: it ends the plane, with an error for the caller and closed connections for the peers.

#include <thread>

#include "asio_headers.h"
#include "plane_end.h"

namespace lockstep {

class PlaneThread {
 public:
  explicit PlaneThread(PlaneInbox& inbox) : inbox_(inbox) {}
  PlaneThread(const PlaneThread&) = delete;
  PlaneThread& operator=(const PlaneThread&) = delete;
  ~PlaneThread() { stop(); }

  asio::io_context& io() { return io_; }
  /// Serves io() until stop(). `end`, which must outlive the thread, is closed and the inbox told
  /// when a handler throws.
  void start(PlaneEnd& end);
  /// Returns once no handler runs and none will.
  void stop();

 private:
  void serve(PlaneEnd& end);

  PlaneInbox& inbox_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  std::thread thread_;
};

}  // namespace lockstep
