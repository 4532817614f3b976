#include "comm_worker.h"

namespace lockstep {

CommWorker::CommWorker() : thread_([this] { run(); }) {}

CommWorker::~CommWorker() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    tasks_.clear();
  }
  work_.notify_one();
  thread_.join();
}

uint64_t CommWorker::submit(std::function<void()> task) {
  uint64_t number = 0;
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    number = num_submitted_++;
  }
  work_.notify_one();
  return number;
}

void CommWorker::wait_for(uint64_t task) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return num_done_ > task; });
}

void CommWorker::drain() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return num_done_ == num_submitted_; });
}

bool CommWorker::is_idle() const {
  std::lock_guard lock(mutex_);
  return num_done_ == num_submitted_;
}

void CommWorker::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return !tasks_.empty() || stopping_; });
    if (tasks_.empty()) return;
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
    ++num_done_;
    done_.notify_all();
  }
}

}  // namespace lockstep
