#include <cstdlib>
#include <utility>

#include "thread_communicator.h"
#include "thread_control_plane.h"
#include "world_impl.h"

namespace lockstep {

World::World(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
World::World(World&&) noexcept = default;
World& World::operator=(World&&) noexcept = default;
World::~World() = default;

World World::solo(const WorldOptions& options) {
  auto hub = std::make_shared<ThreadHub>(1);
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->options.log = options.log.with(0, -1);
  impl->communicator = std::make_unique<ThreadCommunicator>(hub, 0);
  impl->control_plane = std::make_unique<ThreadControlPlane>(hub, 0, "main");
  impl->set_on_peer_lost = [](std::function<void(int)>) {};
  impl->finish = [] { return Status::ok(); };
  impl->end_job = [](int exit_code, std::string_view) { std::_Exit(exit_code); };
  return World(std::move(impl));
}

int World::world_rank() const {
  return impl_->communicator->world_rank();
}
int World::world_size() const {
  return impl_->communicator->world_size();
}
int World::local_rank() const {
  return impl_->local_rank;
}
int World::num_local_ranks() const {
  return impl_->num_local_ranks;
}
int World::num_hosts() const {
  return impl_->num_hosts;
}
int World::ranks_per_host() const {
  return impl_->ranks_per_host;
}
Communicator& World::communicator() {
  return *impl_->communicator;
}
ControlPlane& World::control_plane() {
  return *impl_->control_plane;
}
const Log& World::log() const {
  return impl_->options.log;
}
std::mutex* World::process_lock() {
  return impl_->process_lock;
}

void World::on_peer_lost(std::function<void(int world_rank)> callback) {
  impl_->set_on_peer_lost(std::move(callback));
}

Status World::shutdown() {
  LOCKSTEP_CHECK(!impl_->is_shut_down, "the world was shut down before");
  LOCKSTEP_RETURN_IF_ERROR(
      impl_->control_plane->shutdown(Deadline::after_s(impl_->options.start_timeout_s)));
  impl_->is_shut_down = true;
  impl_->set_on_peer_lost(nullptr);
  impl_->communicator->abort("the world was shut down");
  return impl_->finish();
}

void World::abort_job(int exit_code, std::string_view reason) {
  impl_->options.log.error(cat("aborting the job with exit code ", exit_code, ": ", reason));
  impl_->communicator->abort(reason);
  impl_->end_job(exit_code, reason);
  std::abort();
}

}  // namespace lockstep
