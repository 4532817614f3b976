#include "plane_thread.h"

#include <signal.h>

#include <exception>
#include <string_view>

namespace lockstep {

/// The thread takes no signals: they are for the program's own threads.
void PlaneThread::start(PlaneEnd& end) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, &end] { serve(end); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void PlaneThread::stop() {
  if (!thread_.joinable()) return;
  io_.stop();
  thread_.join();
}

void PlaneThread::serve(PlaneEnd& end) {
  auto fail = [&](std::string_view what) {
    inbox_.fail(internal_error(cat("the control plane's background thread ended: ", what)));
    end.close();
  };
  try {
    io_.run();
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("an exception of unknown type");
  }
}

}  // namespace lockstep
