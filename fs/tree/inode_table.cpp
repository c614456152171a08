#include "fs/tree/inode_table.h"

#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

namespace lockfs {
namespace {

constexpr std::uint64_t kRootNodeid = 1;  // FUSE_ROOT_ID

/// Marks a nodeid that is a counter value, not a number of the device. The shard is in the low
/// bits.
constexpr std::uint64_t kCountedNodeid = std::uint64_t{1} << 63;

/// splitmix64's finisher: spreads consecutive numbers over the shards and buckets.
std::uint64_t mix(std::uint64_t value) noexcept {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31);
}

}  // namespace

InodeTable::InodeTable(UniqueFd root, std::size_t pin_limit)
    : pins_per_shard_(pin_limit / kShards) {
  struct stat st {};
  if (::fstat(root.get(), &st) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot stat the source directory");
  }
  Device& device = devices_.find_or_add(st, root.get());
  Shard& shard = shards_[shard_index(st.st_ino)];
  std::string handle = device.handle_of(root.get());
  auto inode =
      std::make_unique<Inode>(*this, device, kRootNodeid, std::move(root), st, std::move(handle));
  shard.by_id.emplace(inode->id_, inode.get());
  root_ = refer(*inode.release());
}

InodeTable::~InodeTable() {
  root_ = {};
  for (Shard& shard : shards_) {
    while (!shard.by_nodeid.empty()) take_out(shard, *shard.by_nodeid.begin()->second);
  }
}

int InodeTable::acquire(std::uint64_t nodeid, InodePtr& inode) noexcept {
  if (nodeid == kRootNodeid) {
    inode = root_;
    return 0;
  }
  Shard& shard = shard_of(nodeid);
  InodePtr found;
  bool pinned = false;
  {
    const Lock lock(shard.mutex);
    const auto it = shard.by_nodeid.find(nodeid);
    if (it == shard.by_nodeid.end()) return ESTALE;
    found = refer(*it->second);
    found->used_ = true;
    pinned = found->fd_.valid();
  }
  if (!pinned) {
    if (const int error = repin(shard, *found); error != 0) return error;
  }
  inode = std::move(found);
  return 0;
}

int InodeTable::recover(std::uint64_t nodeid, InodePtr& inode) {
  if ((nodeid & kCountedNodeid) != 0) return ESTALE;
  UniqueFd fd(root_->device().open_number(nodeid));
  if (!fd) return ESTALE;
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return errno;
  if (st.st_dev != root_->id().dev) return ESTALE;
  InodePtr found = intern(std::move(fd), st);
  if (found->nodeid() != nodeid) return ESTALE;
  inode = std::move(found);
  return 0;
}

int InodeTable::repin(Shard& shard, Inode& inode) noexcept {
  const int fd = inode.device_.open_handle(inode.handle_);
  if (fd < 0) return -fd;
  UniqueFd mine(fd);
  Evicted evicted;  // all are closed after the mutex is released
  const Lock lock(shard.mutex);
  pin(shard, inode, mine);
  evict(shard, evicted);
  return 0;
}

InodePtr InodeTable::intern(UniqueFd path_fd, const struct stat& st) {
  Device& device = devices_.find_or_add(st, path_fd.get());
  std::string handle = device.handle_of(path_fd.get());
  Evicted evicted;  // closed, as path_fd is, after the mutex is released
  Shard& shard = shards_[shard_index(st.st_ino)];
  const Lock lock(shard.mutex);

  const auto it = shard.by_id.find(FileId{st.st_dev, st.st_ino});
  if (it != shard.by_id.end() && it->second->is(st, handle)) {
    InodePtr inode = refer(*it->second);
    inode->used_ = true;
    pin(shard, *inode, path_fd);
    evict(shard, evicted);
    return inode;
  }
  if (it != shard.by_id.end()) {
    it->second->replaced_ = true;
    shard.by_id.erase(it);
  }
  InodePtr inode = refer(add(shard, device, std::move(path_fd), st, std::move(handle)));
  evict(shard, evicted);
  return inode;
}

InodePtr InodeTable::find(const FileId& id, bool* pinned) noexcept {
  Shard& shard = shards_[shard_index(id.ino)];
  const Lock lock(shard.mutex);
  const auto it = shard.by_id.find(id);
  if (it == shard.by_id.end()) return {};
  if (pinned != nullptr) *pinned = it->second->fd_.valid();
  it->second->used_ = true;
  return refer(*it->second);
}

void InodeTable::add_lookup(Inode& inode) noexcept {
  if (inode.nodeid() == kRootNodeid) return;  // stays for ever, and is not counted in forget()
  const Lock lock(shard_of(inode).mutex);
  ++inode.nlookup_;
}

void InodeTable::forget(std::uint64_t nodeid, std::uint64_t count) noexcept {
  if (nodeid == kRootNodeid) return;
  Shard& shard = shard_of(nodeid);
  std::unique_ptr<Inode> dead;  // destroyed after the mutex is released
  const Lock lock(shard.mutex);
  const auto it = shard.by_nodeid.find(nodeid);
  if (it == shard.by_nodeid.end()) return;
  Inode& inode = *it->second;
  inode.nlookup_ -= std::min(count, inode.nlookup_);
  if (inode.nlookup_ == 0 && inode.refs_.load(std::memory_order_acquire) == 0) {
    dead = take_out(shard, inode);
  }
}

void InodeTable::release(Inode& inode) noexcept {
  std::uint32_t refs = inode.refs_.load(std::memory_order_relaxed);
  while (refs > 1) {
    if (inode.refs_.compare_exchange_weak(refs, refs - 1, std::memory_order_release,
                                          std::memory_order_relaxed)) {
      return;
    }
  }
  // Perhaps the last one: counted down under the mutex, so that nobody can find the inode in
  // between and free it first.
  Shard& shard = shard_of(inode);
  std::unique_ptr<Inode> dead;
  const Lock lock(shard.mutex);
  if (inode.refs_.fetch_sub(1, std::memory_order_acq_rel) == 1 && inode.nlookup_ == 0) {
    dead = take_out(shard, inode);
  }
}

void InodeTable::close_idle() noexcept {
  for (Shard& shard : shards_) {
    std::size_t left = 0;
    {
      const Lock lock(shard.mutex);
      left = shard.clock.size();
    }
    for (; left > 0; --left) {
      Descriptors idle;  // closed after the mutex is released
      const Lock lock(shard.mutex);
      idle = advance_hand(shard);
    }
  }
}

void InodeTable::release_memory() noexcept {
  constexpr std::size_t kWorthIt = 10'000;
  const std::size_t inodes = counts().inodes;
  most_inodes_ = std::max(most_inodes_, inodes);
  if (most_inodes_ < kWorthIt || inodes > most_inodes_ / 4) return;
  most_inodes_ = inodes;
  for (Shard& shard : shards_) {
    const Lock lock(shard.mutex);
    try {
      shard.by_nodeid.rehash(0);
      shard.by_id.rehash(0);
    } catch (const std::bad_alloc&) {
      return;  // it stays as it is
    }
  }
  ::malloc_trim(0);
}

InodeTable::Counts InodeTable::counts() const noexcept {
  Counts counts;
  for (const Shard& shard : shards_) {
    const Lock lock(shard.mutex);
    counts.inodes += shard.by_nodeid.size();
    counts.pinned += shard.clock.size();
  }
  return counts;
}

std::size_t InodeTable::FileIdHash::operator()(const FileId& id) const noexcept {
  return mix(id.ino ^ (id.dev << 32));
}

std::size_t InodeTable::shard_index(ino_t ino) noexcept { return mix(ino) >> (64 - kShardBits); }

InodeTable::Shard& InodeTable::shard_of(std::uint64_t nodeid) noexcept {
  const bool counted = (nodeid & kCountedNodeid) != 0;
  return shards_[counted ? nodeid % kShards : shard_index(Device::ino_of(nodeid))];
}

std::uint64_t InodeTable::new_nodeid(Shard& shard, const Device& device, ino_t ino,
                                     const std::string& handle) noexcept {
  const std::uint64_t number = device.is_source() ? device.number_of(ino, handle) : 0;
  if (number > kRootNodeid && !shard.by_nodeid.contains(number)) return number;
  return kCountedNodeid | (shard.next_number++ << kShardBits) | shard_index(ino);
}

Inode& InodeTable::add(Shard& shard, Device& device, UniqueFd path_fd, const struct stat& st,
                       std::string handle) {
  const std::uint64_t nodeid = new_nodeid(shard, device, st.st_ino, handle);
  auto inode =
      std::make_unique<Inode>(*this, device, nodeid, std::move(path_fd), st, std::move(handle));
  inode->serial_ = ++added_;
  const auto it = shard.by_id.emplace(inode->id_, inode.get()).first;
  try {
    shard.by_nodeid.emplace(nodeid, inode.get());
  } catch (...) {
    shard.by_id.erase(it);
    throw;
  }
  if (inode->can_reopen()) shard.clock.push_back(*inode);
  return *inode.release();
}

InodePtr InodeTable::refer(Inode& inode) noexcept {
  inode.refs_.fetch_add(1, std::memory_order_relaxed);
  return InodePtr(&inode);
}

void InodeTable::pin(Shard& shard, Inode& inode, UniqueFd& path_fd) noexcept {
  if (inode.fd_.valid()) return;
  inode.fd_ = std::move(path_fd);
  shard.clock.push_back(inode);
}

void InodeTable::evict(Shard& shard, Evicted& evicted) const noexcept {
  int steps = 16;  // never walks a long row of inodes in use
  for (Descriptors& slot : evicted) {
    while (!slot.fd && shard.clock.size() > pins_per_shard_ && steps-- > 0) {
      slot = advance_hand(shard);
    }
  }
}

InodeTable::Descriptors InodeTable::advance_hand(Shard& shard) noexcept {
  if (shard.clock.empty()) return {};
  Inode& inode = shard.clock.front();
  shard.clock.pop_front();
  if (!inode.used_ && inode.refs_.load(std::memory_order_acquire) == 0) {
    return {std::move(inode.fd_), std::move(inode.data_mode.backing)};
  }
  inode.used_ = false;
  shard.clock.push_back(inode);
  return {};
}

std::unique_ptr<Inode> InodeTable::take_out(Shard& shard, Inode& inode) noexcept {
  shard.by_nodeid.erase(inode.nodeid_);
  if (!inode.replaced_) shard.by_id.erase(inode.id_);
  if (inode.clock_hook_.is_linked()) shard.clock.erase(shard.clock.iterator_to(inode));
  return std::unique_ptr<Inode>(&inode);
}

}  // namespace lockfs
