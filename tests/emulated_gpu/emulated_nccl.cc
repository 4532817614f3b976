// NCCL between processes of one machine, over local sockets, on the emulated GPU's streams. What is
// kept of the real one: communicators do not block, so a call is under way until
// ncclCommGetAsyncError says otherwise; the first message between two ranks needs both of them to
// be handed over; whatever can't go on (a peer that does not come, or with another size) hangs
// until the communicator is aborted; a peer that is gone is an asynchronous error.
#include <nccl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "emulated_stream.h"

namespace lockstep::emulated_gpu {
namespace {

// What a receiver takes in of a message that nobody has asked for.
constexpr size_t kUnreadBytes = size_t{1} << 18;
constexpr int kPollMs = 2;

// A hello for each direction, as NCCL connects them apart.
enum class FrameKind : uint32_t { kHelloSender, kHelloReceiver, kData, kBye };
struct FrameHeader {
  FrameKind kind = FrameKind::kData;
  uint32_t reserved = 0;
  uint64_t num_bytes = 0;
};

struct Op {
  bool is_send = false;
  int peer = 0;
  const char* from = nullptr;
  char* to = nullptr;
  size_t num_bytes = 0;
};

/// What a stream does at once.
struct Group {
  std::vector<Op> ops;
  std::vector<Op> sums;  // all-reduces: from, to, bytes
  ncclDataType_t sum_type = ncclFloat32;
  const void* stream = nullptr;
};

sockaddr_un address_of(const std::string& name, socklen_t* length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());  // no file: "abstract"
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

}  // namespace
}  // namespace lockstep::emulated_gpu

using lockstep::emulated_gpu::FrameHeader;
using lockstep::emulated_gpu::FrameKind;
using lockstep::emulated_gpu::Group;
using lockstep::emulated_gpu::Op;

/// The communicator: a thread of its own reads and writes the sockets; streams wait for it.
struct ncclComm {
  ncclComm(int own_rank, int num_ranks, std::string id)
      : rank(own_rank), peers(static_cast<size_t>(num_ranks)), name(std::move(id)) {}

  void start() {
    thread = std::thread([this] { run(); });
  }
  /// Ends the thread, and waits for streams that are in a group.
  void end(bool in_order) {
    {
      std::unique_lock lock(mutex);
      if (!in_order) is_aborted = true;
      is_ending = true;
      changed.notify_all();
      changed.wait(lock, [&] { return num_groups == 0; });
    }
    thread.join();
    for (Peer& peer : peers) {
      if (peer.socket >= 0) close(peer.socket);
    }
  }
  ncclResult_t state() {
    std::lock_guard lock(mutex);
    if (error != ncclSuccess) return error;
    return is_connected && launches.empty() && !is_finalizing ? ncclSuccess : ncclInProgress;
  }
  void launch(Group group) {
    std::lock_guard lock(mutex);
    launches.push_back(std::move(group));
  }
  void finalize() {
    std::lock_guard lock(mutex);
    is_finalizing = true;
  }

 private:
  struct Peer {
    int socket = -1;
    std::string out;  // not written yet
    uint64_t num_queued = 0, num_written = 0;
    std::string in;  // read, and no whole frame yet
    std::deque<std::string> messages;
    // As a sender, as a receiver.
    bool has_said_hello[2] = {}, has_heard_hello[2] = {};
    bool has_said_bye = false, has_heard_bye = false;
    bool is_deaf = false, is_gone = false;
  };

  std::string address(int of_rank) const { return name + "/" + std::to_string(of_rank); }

  void run() {
    std::unique_lock lock(mutex);
    connect(lock);
    while (error == ncclSuccess || !is_ending) {
      if (is_aborted || (is_ending && all_written())) break;
      hand_over();
      say_goodbye();
      move_bytes(lock);
    }
  }

  // Ranks below come to us; we go to those above.
  void connect(std::unique_lock<std::mutex>& lock) {
    using lockstep::emulated_gpu::address_of;
    socklen_t length = 0;
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const sockaddr_un own = address_of(address(rank), &length);
    if (bind(listener, reinterpret_cast<const sockaddr*>(&own), length) != 0 ||
        listen(listener, 64) != 0)
      error = ncclSystemError;
    int num_missing = static_cast<int>(peers.size()) - 1;
    int next_above = rank + 1;
    while (num_missing > 0 && !is_aborted && error == ncclSuccess) {
      lock.unlock();
      int from = -1, joined = -1;
      if (next_above < static_cast<int>(peers.size())) {
        const int there = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const sockaddr_un other = address_of(address(next_above), &length);
        if (::connect(there, reinterpret_cast<const sockaddr*>(&other), length) == 0 &&
            write(there, &rank, sizeof(rank)) == sizeof(rank)) {
          from = next_above++;
          joined = there;
        } else {
          close(there);
        }
      }
      const int here = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      int who = -1;
      if (here >= 0 && read(here, &who, sizeof(who)) != sizeof(who)) who = -1;
      if (from < 0 && here < 0) usleep(2000);
      lock.lock();
      if (from >= 0) peers[static_cast<size_t>(from)].socket = joined;
      if (who >= 0) peers[static_cast<size_t>(who)].socket = here;
      num_missing -= (from >= 0 ? 1 : 0) + (who >= 0 ? 1 : 0);
    }
    close(listener);
    is_connected = true;
  }

  void queue(int peer, FrameKind kind, const char* bytes = nullptr, size_t num_bytes = 0) {
    Peer& other = peers[static_cast<size_t>(peer)];
    if (other.is_deaf) return;
    const FrameHeader header{kind, 0, num_bytes};
    other.out.append(reinterpret_cast<const char*>(&header), sizeof(header));
    if (num_bytes > 0) other.out.append(bytes, num_bytes);
    other.num_queued += sizeof(header) + num_bytes;
  }

  // The oldest group goes to its stream once all its peers have come to one that has us.
  void hand_over() {
    if (launches.empty()) return;
    Group& group = launches.front();
    bool is_ready = true;
    for (const Op& op : group.ops) {
      Peer& other = peers[static_cast<size_t>(op.peer)];
      const size_t mine = op.is_send ? 0 : 1;
      if (!std::exchange(other.has_said_hello[mine], true))
        queue(op.peer, op.is_send ? FrameKind::kHelloSender : FrameKind::kHelloReceiver);
      is_ready = is_ready && other.has_heard_hello[1 - mine];
      if (other.is_gone && !other.has_heard_bye) error = ncclRemoteError;
    }
    if (!is_ready) return;
    ++num_groups;
    auto& stream = lockstep::emulated_gpu::stream_of(group.stream);
    stream.submit([this, work = std::move(group)] { do_group(work); });
    launches.pop_front();
  }

  void say_goodbye() {
    if (!is_finalizing || num_groups > 0 || !launches.empty()) return;
    bool is_done = true;
    for (size_t i = 0; i < peers.size(); ++i) {
      if (static_cast<int>(i) == rank || peers[i].is_gone) continue;
      if (!std::exchange(peers[i].has_said_bye, true)) queue(static_cast<int>(i), FrameKind::kBye);
      is_done = is_done && peers[i].out.empty();
    }
    if (is_done) is_finalizing = false;
  }

  bool all_written() const {
    for (const Peer& peer : peers) {
      if (!peer.out.empty() && !peer.is_gone) return false;
    }
    return true;
  }

  void move_bytes(std::unique_lock<std::mutex>& lock) {
    std::vector<pollfd> polled;
    std::vector<Peer*> polled_peers;
    for (Peer& peer : peers) {
      if (peer.socket < 0 || peer.is_gone) continue;
      const bool may_read =
          peer.messages.empty() || peer.in.size() < lockstep::emulated_gpu::kUnreadBytes;
      polled.push_back(
          {peer.socket,
           static_cast<short>((may_read ? POLLIN : 0) | (peer.out.empty() ? 0 : POLLOUT)), 0});
      polled_peers.push_back(&peer);
    }
    lock.unlock();
    poll(polled.data(), polled.size(), lockstep::emulated_gpu::kPollMs);
    lock.lock();
    for (size_t i = 0; i < polled.size(); ++i) {
      if ((polled[i].revents & POLLOUT) != 0) write_some(*polled_peers[i]);
      if ((polled[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read_some(*polled_peers[i]);
    }
    changed.notify_all();
  }

  void write_some(Peer& peer) {
    const ssize_t count =
        send(peer.socket, peer.out.data(), peer.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0) {
      peer.out.erase(0, static_cast<size_t>(count));
      peer.num_written += static_cast<uint64_t>(count);
    } else if (errno != EAGAIN) {
      // Whether that is an error is known when what the peer wrote has been read to its end.
      peer.out.clear();
      peer.is_deaf = true;
    }
  }

  void read_some(Peer& peer) {
    char bytes[1 << 16];
    const ssize_t count = recv(peer.socket, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (count > 0) {
      peer.in.append(bytes, static_cast<size_t>(count));
    } else if (count == 0 || errno != EAGAIN) {
      lose(peer);
    }
    FrameHeader header;
    while (peer.in.size() >= sizeof(header)) {
      std::memcpy(&header, peer.in.data(), sizeof(header));
      if (peer.in.size() < sizeof(header) + header.num_bytes) break;
      if (header.kind == FrameKind::kHelloSender) peer.has_heard_hello[0] = true;
      if (header.kind == FrameKind::kHelloReceiver) peer.has_heard_hello[1] = true;
      if (header.kind == FrameKind::kBye) peer.has_heard_bye = true;
      if (header.kind == FrameKind::kData)
        peer.messages.push_back(peer.in.substr(sizeof(header), header.num_bytes));
      peer.in.erase(0, sizeof(header) + header.num_bytes);
    }
  }

  void lose(Peer& peer) {
    peer.is_gone = true;
    peer.out.clear();
    if (!peer.has_heard_bye) error = ncclRemoteError;
  }

  // On the stream's thread.
  void do_group(const Group& group) {
    std::unique_lock lock(mutex);
    if (!group.sums.empty()) {
      for (const Op& sum : group.sums) do_sum(sum, group.sum_type, lock);
    } else {
      do_ops(group.ops, lock);
    }
    --num_groups;
    changed.notify_all();
  }

  // False: given up.
  bool do_ops(const std::vector<Op>& ops, std::unique_lock<std::mutex>& lock) {
    for (const Op& op : ops) {
      if (op.is_send) queue(op.peer, FrameKind::kData, op.from, op.num_bytes);
    }
    for (const Op& op : ops) {
      if (op.is_send) continue;
      Peer& peer = peers[static_cast<size_t>(op.peer)];
      changed.wait(lock, [&] {
        return is_aborted ||
               (!peer.messages.empty() && peer.messages.front().size() == op.num_bytes);
      });
      if (is_aborted) return false;
      std::memcpy(op.to, peer.messages.front().data(), op.num_bytes);
      peer.messages.pop_front();
    }
    for (const Op& op : ops) {
      Peer& peer = peers[static_cast<size_t>(op.peer)];
      const uint64_t queued = peer.num_queued;
      changed.wait(lock, [&] { return is_aborted || peer.num_written >= queued; });
      if (is_aborted) return false;
    }
    return true;
  }

  void do_sum(const Op& sum, ncclDataType_t type, std::unique_lock<std::mutex>& lock) {
    std::vector<std::string> values(peers.size(), std::string(sum.num_bytes, '\0'));
    std::memcpy(values[static_cast<size_t>(rank)].data(), sum.from, sum.num_bytes);
    std::vector<Op> ops;
    for (size_t i = 0; i < peers.size(); ++i) {
      const int peer = static_cast<int>(i);
      if (peer == rank) continue;
      ops.push_back({true, peer, sum.from, nullptr, sum.num_bytes});
      ops.push_back({false, peer, nullptr, values[i].data(), sum.num_bytes});
    }
    if (!do_ops(ops, lock)) return;
    if (type == ncclFloat32) {
      add_all<float>(values, sum);
    } else {
      add_all<double>(values, sum);
    }
  }

  template <typename T>
  static void add_all(const std::vector<std::string>& values, const Op& sum) {
    for (size_t i = 0; i < sum.num_bytes / sizeof(T); ++i) {
      T total = 0;
      for (const std::string& each : values) total += reinterpret_cast<const T*>(each.data())[i];
      reinterpret_cast<T*>(sum.to)[i] = total;
    }
  }

  const int rank;
  std::vector<Peer> peers;
  const std::string name;
  std::thread thread;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Group> launches;  // called for, not handed to their stream
  int num_groups = 0;          // handed to their stream
  ncclResult_t error = ncclSuccess;
  bool is_connected = false, is_finalizing = false, is_aborted = false, is_ending = false;
};

namespace {

struct OpenGroup {
  int depth = 0;
  Group group;
  ncclComm* communicator = nullptr;
};
thread_local OpenGroup open_group;

ncclResult_t close_group() {
  if (open_group.communicator == nullptr) return ncclSuccess;
  open_group.communicator->launch(std::exchange(open_group.group, {}));
  open_group.communicator = nullptr;
  return ncclInProgress;
}

ncclResult_t add_to_group(ncclComm_t communicator, const void* stream, const Op& op, bool is_sum) {
  if (open_group.communicator != nullptr && open_group.communicator != communicator)
    return ncclInvalidUsage;
  open_group.communicator = communicator;
  open_group.group.stream = stream;
  (is_sum ? open_group.group.sums : open_group.group.ops).push_back(op);
  return open_group.depth > 0 ? ncclSuccess : close_group();
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<int> next{0};
  std::random_device random;
  const std::string name = "lockstep-nccl-" + std::to_string(getpid()) + "-" +
                           std::to_string(next++) + "-" + std::to_string(random());
  *id = {};
  std::memcpy(id->internal, name.data(), name.size());
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int num_ranks, ncclUniqueId id,
                                    int rank, ncclConfig_t* config) {
  if (config->blocking != 0 || rank < 0 || rank >= num_ranks) return ncclInvalidArgument;
  *communicator = new ncclComm(rank, num_ranks, id.internal);
  (*communicator)->start();
  return ncclInProgress;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) {
  *state = communicator->state();
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t communicator) {
  communicator->finalize();
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  communicator->end(/*in_order=*/true);
  delete communicator;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  communicator->end(/*in_order=*/false);
  delete communicator;
  return ncclSuccess;
}
ncclResult_t ncclGroupStart() {
  ++open_group.depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (open_group.depth == 0) return ncclInvalidUsage;
  return --open_group.depth > 0 ? ncclSuccess : close_group();
}
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t /*type*/, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return add_to_group(communicator, stream,
                      {true, peer, static_cast<const char*>(from), nullptr, count}, false);
}
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t /*type*/, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return add_to_group(communicator, stream, {false, peer, nullptr, static_cast<char*>(to), count},
                      false);
}
ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t /*op*/, ncclComm_t communicator, cudaStream_t stream) {
  if (type != ncclFloat32 && type != ncclFloat64) return ncclInvalidArgument;
  open_group.group.sum_type = type;
  const size_t num_bytes = count * (type == ncclFloat32 ? 4 : 8);
  return add_to_group(communicator, stream,
                      {false, 0, static_cast<const char*>(from), static_cast<char*>(to), num_bytes},
                      true);
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess       ? "no error"
         : result == ncclInProgress  ? "in progress"
         : result == ncclRemoteError ? "a peer is gone"
                                     : "an error of the emulated NCCL";
}
const char* ncclGetLastError(ncclComm_t /*communicator*/) {
  return "";
}

}  // extern "C"
