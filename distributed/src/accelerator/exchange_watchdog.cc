#include "exchange_watchdog.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

// Between two looks while something is under way.
constexpr auto kLook = std::chrono::milliseconds(20);
constexpr size_t kMaxNamed = 8;
// A wait on the host looks at what may end it after this many polls, and says so when it is slow.
constexpr int kPollsPerLook = 32;
constexpr double kSlowWaitS = 15;

}  // namespace

void WatchedExchange::add_messages(std::span<const SendOp> sends, std::span<const RecvOp> recvs) {
  messages.reserve(sends.size() + recvs.size());
  for (const SendOp& op : sends) messages.push_back({true, op.peer, op.bytes.size()});
  for (const RecvOp& op : recvs) messages.push_back({false, op.peer, op.bytes.size()});
}

std::string WatchedExchange::text() const {
  std::string text = cat(what, ": rank ", world_rank, ", its call ", call);
  if (messages.empty()) return text + " (with all ranks)";
  for (size_t i = 0; i < messages.size() && i < kMaxNamed; ++i) {
    const Message& message = messages[i];
    text += cat(i == 0 ? " (" : ", ", message.is_sent ? "to" : "from", " rank ", message.peer, " ",
                message.num_bytes, " bytes");
  }
  return text + (messages.size() > kMaxNamed ? ", ...)" : ")");
}

Status not_done_error(const std::string& exchange, double timeout_s) {
  return timeout_error(cat(exchange, " was not done within ", timeout_s,
                           " s; one of these ranks did not come to it or sends another size, or the "
                           "network is stuck"));
}

struct ExchangeWatchdog::State {
  State(DeviceQueue& q, Actions a) : queue(q), actions(std::move(a)) {}

  DeviceQueue& queue;
  Actions actions;
  std::thread thread;

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<WatchedExchange> exchanges;  // not seen to be done, oldest first
  std::optional<Deadline> deadline;       // of the oldest, once the device has come to it
  bool is_stopping = false;
  bool has_ended = false;
  Status why;  // it gave up

  Status given_up() {
    std::lock_guard lock(mutex);
    return why;
  }
  /// The device computes: what is watched comes later, and is not late.
  bool is_behind_compute() {
    std::lock_guard lock(mutex);
    return drop_done().is_ok() && !exchanges.empty() && !deadline;
  }

  /// Forgets what is done. Requires: the mutex is held.
  Status drop_done() {
    while (!exchanges.empty()) {
      LOCKSTEP_ASSIGN_OR_RETURN(const bool is_done, queue.has_passed(exchanges.front().end));
      if (!is_done) break;
      exchanges.pop_front();
      deadline.reset();
    }
    if (exchanges.empty() || deadline) return Status::ok();
    LOCKSTEP_ASSIGN_OR_RETURN(const bool is_begun, queue.has_passed(exchanges.front().begin));
    if (is_begun) deadline = Deadline::after_s(exchanges.front().timeout_s);
    return Status::ok();
  }

  /// OK: nothing has to be given up. Requires: the mutex is held by `lock`; lets go of it meanwhile.
  Status look(std::unique_lock<std::mutex>* lock) {
    LOCKSTEP_RETURN_IF_ERROR(drop_done());
    if (exchanges.empty()) return Status::ok();
    const std::string text = exchanges.front().text();
    const double timeout_s = exchanges.front().timeout_s;
    const bool is_late = deadline && deadline->has_passed();
    lock->unlock();
    Status found = actions.look();
    lock->lock();
    if (!found.is_ok()) return found.with_context(text);
    return is_late ? not_done_error(text, timeout_s) : Status::ok();
  }
};

ExchangeWatchdog::ExchangeWatchdog(DeviceQueue& queue, Actions actions)
    : state_(std::make_shared<State>(queue, std::move(actions))) {
  state_->thread = std::thread([state = state_] { run(state); });
}

ExchangeWatchdog::~ExchangeWatchdog() {
  stop();
}

void ExchangeWatchdog::run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (true) {
    state->changed.wait(lock, [&] { return state->is_stopping || !state->exchanges.empty(); });
    if (state->is_stopping) break;
    const Status found = state->look(&lock);
    if (!found.is_ok() && !state->is_stopping) {
      state->why = found;
      lock.unlock();
      state->actions.give_up(found);
      lock.lock();
      break;
    }
    state->changed.wait_for(lock, kLook, [&] { return state->is_stopping; });
  }
  state->has_ended = true;
  state->changed.notify_all();
}

void ExchangeWatchdog::watch(WatchedExchange exchange) {
  std::lock_guard lock(state_->mutex);
  if (state_->has_ended) return;
  // Short ones would pile up between two looks; an error is the thread's to tell.
  state_->drop_done().ignore();
  state_->exchanges.push_back(std::move(exchange));
  if (state_->exchanges.size() == 1) state_->changed.notify_all();
}

std::string ExchangeWatchdog::text_of_oldest() const {
  std::lock_guard lock(state_->mutex);
  return state_->exchanges.empty() ? std::string() : state_->exchanges.front().text();
}

Status ExchangeWatchdog::wait(const std::string& text, Deadline deadline,
                              const std::function<Result<bool>()>& is_done, const Log& log) {
  const Stopwatch watch;
  const PollPause pause;
  double next_warning_s = kSlowWaitS;
  for (int polls = 1;; ++polls) {
    const Result<bool> done = is_done();
    if (!done.is_ok()) return done.status().with_context(text);
    if (*done) return state_->given_up();
    if (polls % kPollsPerLook == 0) {
      const Status found = state_->actions.look();
      if (!found.is_ok()) return found.with_context(text);
      if (watch.elapsed_s() < kMaxComputeS && state_->is_behind_compute())
        deadline = Deadline::after_s(deadline.length_s());
      if (deadline.has_passed()) return not_done_error(text, deadline.length_s());
    }
    if (watch.elapsed_s() > next_warning_s) {
      log.warn(cat(text, ": waiting for ", fixed(watch.elapsed_s(), 0), " s"));
      next_warning_s *= 2;
    }
    pause();
  }
}

Status ExchangeWatchdog::settle(std::string_view what, Deadline deadline, const Log& log) {
  const QueueMark end = state_->queue.mark();
  const std::string oldest = text_of_oldest();
  return wait(oldest.empty() ? std::string(what) : cat(what, ": ", oldest), deadline,
              [&] { return state_->queue.has_passed(end); }, log);
}

bool ExchangeWatchdog::stop(double wait_s) {
  bool has_ended = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->is_stopping = true;
    state_->changed.notify_all();
    has_ended = state_->changed.wait_for(lock, std::chrono::duration<double>(wait_s),
                                         [&] { return state_->has_ended; });
  }
  if (state_->thread.joinable()) {
    if (has_ended) {
      state_->thread.join();
    } else {
      state_->thread.detach();
    }
  }
  return has_ended;
}

}  // namespace lockstep
