// The one file that knows liburing.
#include <liburing.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "transfer_engine.h"

namespace lockstep {
namespace {

// A single transfer is a u32 of bytes; whoever asks for more gets a short one and asks again.
constexpr uint64_t kMaxTransferBytes = uint64_t{1} << 30;

class UringEngine final : public TransferEngine {
 public:
  static std::unique_ptr<TransferEngine> make(unsigned entries) {
    auto engine = std::unique_ptr<UringEngine>(new UringEngine);
    if (::io_uring_queue_init(entries, &engine->ring_, 0) != 0) return nullptr;
    engine->is_open_ = true;
    return engine;
  }
  ~UringEngine() override {
    if (is_open_) ::io_uring_queue_exit(&ring_);
  }

  int start(const Transfer& transfer) override {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    if (entry == nullptr) return EBUSY;
    const auto bytes = static_cast<unsigned>(std::min(transfer.bytes, kMaxTransferBytes));
    if (transfer.is_write) {
      ::io_uring_prep_write(entry, transfer.fd, transfer.data, bytes, transfer.offset);
    } else {
      ::io_uring_prep_read(entry, transfer.fd, transfer.data, bytes, transfer.offset);
    }
    ::io_uring_sqe_set_data64(entry, transfer.ticket);
    while (true) {
      const int submitted = ::io_uring_submit(&ring_);
      if (submitted >= 1) return 0;
      if (submitted != -EINTR && submitted != -EAGAIN) return submitted == 0 ? EIO : -submitted;
      if (submitted == -EAGAIN) sleep_ns(kAgainPauseNs);
    }
  }

  std::optional<TransferEnd> wait(Deadline deadline) override {
    while (true) {
      io_uring_cqe* entry = nullptr;
      const double left_s = deadline.remaining_s();
      __kernel_timespec timeout{};
      timeout.tv_sec = static_cast<int64_t>(left_s);
      timeout.tv_nsec = static_cast<int64_t>((left_s - static_cast<double>(timeout.tv_sec)) * 1e9);
      const int rc = ::io_uring_wait_cqe_timeout(&ring_, &entry, &timeout);
      if (rc == 0 && entry != nullptr) {
        const TransferEnd end{entry->user_data, entry->res};
        ::io_uring_cqe_seen(&ring_, entry);
        return end;
      }
      if (deadline.has_passed()) return std::nullopt;
    }
  }

  std::string_view name() const override { return "io_uring"; }

 private:
  static constexpr int64_t kAgainPauseNs = 1'000'000;
  UringEngine() = default;
  io_uring ring_{};
  bool is_open_ = false;
};

}  // namespace

std::unique_ptr<TransferEngine> make_uring_engine(int max_in_flight) {
  // One more than asked: a wait with a timeout may take an entry on old kernels.
  return UringEngine::make(static_cast<unsigned>(std::max(max_in_flight, 1)) + 1);
}

}  // namespace lockstep
