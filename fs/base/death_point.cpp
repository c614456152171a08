#include "fs/base/death_point.h"

#ifdef LOCKFS_HAS_DEATH_POINTS

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "fs/base/unique_fd.h"

namespace lockfs {
namespace {

/// Null: nobody is to die.
DeathOrders* map_orders() noexcept {
  const char* const path = std::getenv("LOCKFS_TEST_DEATH");
  if (path == nullptr) return nullptr;
  const int before = errno;
  const UniqueFd fd(::open(path, O_RDWR | O_CLOEXEC));
  void* const memory =
      fd ? ::mmap(nullptr, sizeof(DeathOrders), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0)
         : MAP_FAILED;
  errno = before;  // who passes a point may be about to look at it
  return memory == MAP_FAILED ? nullptr : static_cast<DeathOrders*>(memory);
}

void collect(DeathOrders& orders, const char* name) noexcept {
  const auto length = static_cast<std::uint32_t>(std::strlen(name));
  const std::uint32_t at = orders.size.fetch_add(length + 1);
  if (at > sizeof orders.passed - length - 1) return;
  std::memcpy(orders.passed + at, name, length);
  orders.passed[at + length] = '\n';
}

}  // namespace

void death_point(const char* name) noexcept {
  static DeathOrders* const orders = map_orders();
  if (orders == nullptr) return;
  if (orders->collects.load(std::memory_order_relaxed) != 0) collect(*orders, name);
  const std::uint32_t next = orders->next.load();
  if (next >= orders->count.load()) return;
  DeathOrders::Order& order = orders->orders[next];
  if (std::strcmp(order.point, name) != 0 || order.left.fetch_sub(1) != 1) return;
  orders->next.store(next + 1);
  if (order.action == DeathOrders::kDieAlone) ::kill(::getppid(), SIGSTOP);
  ::kill(::getpid(), SIGKILL);
}

}  // namespace lockfs

#endif
