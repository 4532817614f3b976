#include "exchange_watchdog.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr int kNumThreads = 2;
// Between two looks while something is under way; between two looks at those.
constexpr auto kLook = std::chrono::milliseconds(20);
constexpr auto kLookOfLooks = std::chrono::milliseconds(200);
// For the device to say that it is done with what a lost rank took part in.
constexpr double kLostLookS = 5;
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
  return timeout_error(
      cat(exchange, " was not done within ", timeout_s,
          " s; one of these ranks did not come to it or sends another size, or the "
          "network is stuck"));
}

struct ExchangeWatchdog::State {
  State(DeviceQueue& q, Actions a, double most_s)
      : queue(q), actions(std::move(a)), most_look_s(most_s) {}

  DeviceQueue& queue;
  Actions actions;
  double most_look_s;
  std::vector<std::thread> threads;

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<WatchedExchange> exchanges;  // not seen to be done, oldest first
  uint64_t num_done = 0;                  // of all that were watched
  std::optional<Deadline> deadline;       // of the oldest, once the device has come to it
  std::optional<Deadline> look_deadline;  // of the look that is under way
  Status seen;                            // by it, before it asked the device
  bool is_stopping = false;
  int num_ended = 0;  // threads
  Status why;         // it gave up

  Status given_up() {
    std::lock_guard lock(mutex);
    return why;
  }
  /// The device computes: what is watched comes later, and is not late.
  bool is_behind_compute() {
    std::unique_lock lock(mutex);
    return drop_done(&lock).is_ok() && !exchanges.empty() && !deadline;
  }

  Result<bool> ask(const QueueMark& mark, std::unique_lock<std::mutex>* lock) {
    lock->unlock();
    Result<bool> has_passed = queue.has_passed(mark);
    lock->lock();
    return has_passed;
  }

  /// Forgets what is done. Requires: the mutex is held by `lock`; lets go of it while it asks the
  /// device, whose driver may take its time.
  Status drop_done(std::unique_lock<std::mutex>* lock) {
    while (!exchanges.empty()) {
      const uint64_t asked = num_done;
      const QueueMark begin = exchanges.front().begin, end = exchanges.front().end;
      LOCKSTEP_ASSIGN_OR_RETURN(const bool is_done, ask(end, lock));
      if (num_done != asked) continue;  // another thread saw it
      if (!is_done) {
        // Once it is given up the queue may go.
        if (deadline || is_stopping || !why.is_ok()) break;
        LOCKSTEP_ASSIGN_OR_RETURN(const bool is_begun, ask(begin, lock));
        if (is_begun && num_done == asked)
          deadline = Deadline::after_s(exchanges.front().timeout_s);
        break;
      }
      exchanges.pop_front();
      ++num_done;
      deadline.reset();
    }
    return Status::ok();
  }

  /// OK: nothing has to be given up. Requires: as drop_done.
  Status look(std::unique_lock<std::mutex>* lock) {
    look_deadline = Deadline::after_s(std::max(most_look_s, exchanges.front().timeout_s));
    lock->unlock();
    const Status found = actions.look();
    lock->lock();
    if (exchanges.empty()) return Status::ok();  // seen to be done on the host meanwhile
    if (!found.is_ok()) {
      // What is under way may be done all the same; but it takes no answer of the device to end.
      seen = found.with_context(exchanges.front().text());
      look_deadline = Deadline::after_s(std::min(most_look_s, kLostLookS));
    }
    LOCKSTEP_RETURN_IF_ERROR(drop_done(lock));
    seen = Status::ok();
    if (exchanges.empty()) return Status::ok();
    const WatchedExchange& oldest = exchanges.front();
    if (!found.is_ok()) return found.with_context(oldest.text());
    return deadline && deadline->has_passed() ? not_done_error(oldest.text(), oldest.timeout_s)
                                              : Status::ok();
  }

  /// Once, whichever thread comes first. Requires: the mutex is held by `lock`; lets go of it
  /// meanwhile.
  void give_up(std::unique_lock<std::mutex>* lock, const Status& found) {
    if (is_stopping || !why.is_ok()) return;
    why = found;
    lock->unlock();
    caught([&] {
      actions.give_up(found);
      return Status::ok();
    }).ignore();
    lock->lock();
  }

  void end_thread() {
    ++num_ended;
    changed.notify_all();
  }
};

ExchangeWatchdog::ExchangeWatchdog(DeviceQueue& queue, Actions actions, double most_look_s)
    : state_(std::make_shared<State>(queue, std::move(actions), most_look_s)) {
  state_->threads.emplace_back([state = state_] { run(state); });
  state_->threads.emplace_back([state = state_] { watch_looks(state); });
}

ExchangeWatchdog::~ExchangeWatchdog() {
  if (state_->threads[0].joinable()) stop();
}

void ExchangeWatchdog::run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (state->why.is_ok()) {
    state->changed.wait(lock, [&] { return state->is_stopping || !state->exchanges.empty(); });
    if (state->is_stopping) break;
    const Status found = caught([&] { return state->look(&lock); });
    if (!lock.owns_lock()) lock.lock();  // an exception passed through
    state->look_deadline.reset();
    if (!found.is_ok()) {
      state->give_up(&lock, found);
      break;
    }
    state->changed.wait_for(lock, kLook, [&] { return state->is_stopping; });
  }
  state->end_thread();
}

// The driver may keep a look waiting for the very exchange that hangs.
void ExchangeWatchdog::watch_looks(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (!state->is_stopping && state->why.is_ok()) {
    if (state->look_deadline && state->look_deadline->has_passed()) {
      const Status found = timeout_error(
          cat(state->exchanges.empty() ? "" : state->exchanges.front().text(),
              ": the GPU's driver does not answer since ", state->look_deadline->length_s(), " s"));
      state->give_up(&lock, state->seen.is_ok() ? found : Status(state->seen));
      break;
    }
    state->changed.wait_for(lock, kLookOfLooks, [&] { return state->is_stopping; });
  }
  state->end_thread();
}

void ExchangeWatchdog::watch(WatchedExchange exchange) {
  std::unique_lock lock(state_->mutex);
  if (!state_->why.is_ok()) return;
  // Short ones would pile up between two looks; an error is the thread's to tell.
  state_->drop_done(&lock).ignore();
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
  return wait(
      oldest.empty() ? std::string(what) : cat(what, ": ", oldest), deadline,
      [&] { return state_->queue.has_passed(end); }, log);
}

bool ExchangeWatchdog::stop(double wait_s) {
  bool has_ended = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->is_stopping = true;
    state_->changed.notify_all();
    has_ended = state_->changed.wait_for(lock, std::chrono::duration<double>(wait_s),
                                         [&] { return state_->num_ended == kNumThreads; });
  }
  for (std::thread& thread : state_->threads) {
    if (!thread.joinable()) continue;
    if (has_ended) {
      thread.join();
    } else {
      thread.detach();
    }
  }
  return has_ended;
}

}  // namespace lockstep
