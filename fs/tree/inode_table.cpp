#include "fs/tree/inode_table.h"

#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include "fs/base/clock.h"
#include "fs/base/death_point.h"
#include "fs/loop/current_request.h"

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

/// What an inode is taken for whose past is not known: the kernel may have cached anything of it,
/// somebody may have mapped it, and may have got a lock just now.
void note_past(Inode& inode, bool may_be_mapped) noexcept {
  inode.granted_at = nanoseconds_on(CLOCK_MONOTONIC_COARSE);
  inode.attr_cached = true;
  inode.data_cached = true;
  if (may_be_mapped && inode.type() == S_IFREG) inode.mapped = 1;
}

}  // namespace

InodeTable::InodeTable(Book& book, UniqueFd root, std::size_t pin_limit)
    : book_(book), pins_per_shard_(pin_limit / kShards) {
  struct stat st {};
  if (::fstat(root.get(), &st) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot stat the source directory");
  }
  for (Shard& shard : shards_) {
    shard.records.emplace(book);
    shard.names.emplace(book);
  }
  const Device& device = devices_.find_or_add(st, root.get());
  Shard& shard = shards_[shard_index(st.st_ino)];
  std::string handle = device.handle_of(root.get());
  const std::uint32_t generation = generation_of(handle);
  auto inode =
      std::make_unique<Inode>(*this, device, kRootNodeid, st, std::move(handle), generation);
  inode->fd_ = std::move(root);
  shard.by_id.emplace(inode->id_, inode.get());
  root_ = refer(*inode.release());
}

InodeTable::~InodeTable() {
  root_ = {};
  for (Shard& shard : shards_) {
    while (!shard.by_nodeid.empty()) take_out(shard, *shard.by_nodeid.begin()->second);
    // It is emptied while it is gone through.
    const RecordIndex known = std::exchange(shard.known, {});
    known.for_each([&shard](std::uint32_t index) {
      if (shard.records->records()[index].nodeid != 0) free_known(shard, index);
    });
  }
}

void InodeTable::recover_known(bool passthrough) {
  const InodeRecords records(book_);
  const NameRecords names(book_);
  // Made first and put into the shards at the end, when nothing can fail any more.
  struct Found {
    std::size_t count = 0;
    std::size_t named = 0;
    std::uint64_t next_number = 0;
    RecordIndex known;
    RecordIndex known_names;
  };
  std::vector<Found> found(kShards);
  std::vector<bool> names_used(names.high());
  std::vector<std::uint32_t> unused;
  std::vector<std::uint32_t> names_unused;
  std::vector<std::uint32_t> unreferenced;
  std::vector<std::uint32_t> registered;
  const auto shard_at = [this](std::uint64_t nodeid) {
    return static_cast<std::size_t>(&shard_of(nodeid) - shards_.data());
  };

  records.for_each([&](std::uint32_t index, const InodeRecord& record) {
    const std::uint64_t nodeid = record.nodeid.load(std::memory_order_relaxed);
    if (nodeid == 0) {
      unused.push_back(index);
      return;
    }
    Found& shard = found[shard_at(nodeid)];
    ++shard.count;
    if (record.nlookup == 0) unreferenced.push_back(index);
    if (record.backing_id != 0) registered.push_back(index);
    if (record.name != 0) {
      ++shard.named;
      names_used[record.name] = true;
    }
    if ((nodeid & kCountedNodeid) != 0) {
      const std::uint64_t number = (nodeid & ~kCountedNodeid) >> kShardBits;
      shard.next_number = std::max(shard.next_number, number + 1);
    }
  });
  std::map<dev_t, Device::Known> devices;
  dev_t last = root_->id().dev;  // mostly the same
  names.for_each([&](std::uint32_t index, const NameRecord& name) {
    const auto dev = static_cast<dev_t>(name.dev);
    if (!names_used[index]) {
      names_unused.push_back(index);
    } else if (std::exchange(last, dev) != dev && devices_.find(dev) == nullptr) {
      devices[dev] = {name.device_index, name.mount_fd, name.device_traits};
    }
  });
  for (Found& shard : found) {
    shard.known.provide(shard.count);
    shard.known_names.provide(shard.named);
  }
  records.for_each([&](std::uint32_t index, const InodeRecord& record) {
    const std::uint64_t nodeid = record.nodeid.load(std::memory_order_relaxed);
    if (nodeid == 0) return;
    Found& shard = found[shard_at(nodeid)];
    shard.known.insert(mix(nodeid), index);
    if (record.name == 0) return;
    const NameRecord& name = names[record.name];
    shard.known_names.insert(FileIdHash()({static_cast<dev_t>(name.dev), name.ino}), index);
  });

  for (const auto& [dev, known] : devices) devices_.restore(dev, known);
  for (std::size_t i = 0; i < kShards; ++i) {
    Shard& shard = shards_[i];
    const Lock lock(shard.mutex);
    shard.known = std::move(found[i].known);
    shard.known_names = std::move(found[i].known_names);
    shard.known_count = found[i].count;
    shard.next_number = std::max(shard.next_number, found[i].next_number);
    for (std::size_t k = i; k < unused.size(); k += kShards) shard.records->give(unused[k]);
    for (std::size_t k = i; k < names_unused.size(); k += kShards) {
      shard.names->give(names_unused[k]);
    }
  }
  unreferenced_ = std::move(unreferenced);
  registered_ = std::move(registered);
  mapped_before_ = passthrough;
}

int InodeTable::acquire(std::uint64_t nodeid, InodePtr& inode) noexcept {
  if (nodeid == kRootNodeid) {
    inode = root_;
    return 0;
  }
  Shard& shard = shard_of(nodeid);
  InodePtr found;
  bool pinned = false;
  std::uint32_t known = 0;
  {
    const Lock lock(shard.mutex);
    const auto it = shard.by_nodeid.find(nodeid);
    if (it != shard.by_nodeid.end()) {
      found = refer(*it->second);
      found->used_ = true;
      pinned = found->fd_.valid();
    } else {
      known = find_known(shard, nodeid);
      if (known == 0) return ESTALE;
    }
  }
  if (known != 0) return acquire_known(shard, nodeid, known, inode);
  if (!pinned) {
    if (const int error = repin(shard, *found); error != 0) return error;
  }
  inode = std::move(found);
  return 0;
}

InodeTable::Trace InodeTable::trace_of(const Shard& shard, std::uint32_t index) {
  const InodeRecord& record = shard.records->records()[index];
  Trace trace;
  trace.nodeid = record.nodeid;
  trace.generation = record.generation;
  trace.open = record.needs_descriptor();
  trace.named = record.name != 0;
  if (!trace.named) return trace;
  const NameRecord& name = shard.names->records()[record.name];
  trace.st.st_dev = static_cast<dev_t>(name.dev);
  trace.st.st_ino = name.ino;
  trace.st.st_mode = name.type;
  trace.handle.assign(name.handle, name.handle_size);
  return trace;
}

/// Opens the file, unless the record has a descriptor, and looks whether it is the one. Returns 0
/// or an errno.
int InodeTable::open_known(Trace& trace, const Device& device, UniqueFd& path_fd) {
  if (trace.open) return 0;
  const int fd = trace.named ? device.open_handle(trace.handle) : device.open_number(trace.nodeid);
  if (fd < 0) return -fd;
  path_fd.reset(fd);
  if (trace.named) return 0;  // a whole handle has the file's generation
  if (::fstat(fd, &trace.st) != 0) return errno;
  trace.handle = device.handle_of(fd);
  const bool same =
      trace.st.st_dev == device.dev() && generation_of(trace.handle) == trace.generation;
  return same ? 0 : ESTALE;
}

int InodeTable::acquire_known(Shard& shard, std::uint64_t nodeid, std::uint32_t known,
                              InodePtr& inode) noexcept try {
  Trace trace;
  {
    // Another thread may have made an inode of it meanwhile: what it says is the same.
    const Lock lock(shard.mutex);
    if (shard.records->records()[known].nodeid != nodeid) return ESTALE;
    trace = trace_of(shard, known);
  }
  const Device* const device = trace.named ? devices_.find(trace.st.st_dev) : &root_->device();
  if (device == nullptr) return ESTALE;
  UniqueFd path_fd;
  if (const int error = open_known(trace, *device, path_fd); error != 0) return error;
  Evicted evicted;  // closed, as path_fd is, after the mutex is released
  InodePtr found;
  {
    const Lock lock(shard.mutex);
    if (const auto it = shard.by_nodeid.find(nodeid); it != shard.by_nodeid.end()) {
      found = refer(*it->second);
      found->used_ = true;
      if (path_fd) pin(shard, *found, path_fd);
    } else {
      known = find_known(shard, nodeid);
      if (known == 0) return ESTALE;  // forgotten meanwhile
      replace(shard, {trace.st.st_dev, trace.st.st_ino});
      found = refer(add(shard, *device, path_fd, trace.st, std::move(trace.handle), known));
    }
    evict(shard, evicted);
  }
  inode = std::move(found);
  return 0;
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

int InodeTable::acquire_open(std::uint64_t nodeid, int open_fd, InodePtr& inode) noexcept try {
  if (nodeid == kRootNodeid) return acquire(nodeid, inode);
  Shard& shard = shard_of(nodeid);
  InodePtr found;
  {
    const Lock lock(shard.mutex);
    const auto it = shard.by_nodeid.find(nodeid);
    if (it != shard.by_nodeid.end() && it->second->fd_) found = refer(*it->second);
  }
  if (found) {
    inode = std::move(found);
    return 0;
  }
  struct stat st {};
  if (::fstat(open_fd, &st) != 0) return errno;
  const Device& device = devices_.find_or_add(st, open_fd);
  std::uint32_t index = 0;
  bool has_descriptor = false;
  {
    const Lock lock(shard.mutex);
    if (!shard.by_nodeid.contains(nodeid)) index = find_known(shard, nodeid);
    has_descriptor = index != 0 && shard.records->records()[index].descriptor() >= 0;
  }
  UniqueFd path_fd;
  if (!has_descriptor) {
    const int fd = lockfs::reopen(open_fd, O_PATH);
    if (fd < 0) return -fd;
    path_fd.reset(fd);
  }
  {
    std::string handle = device.handle_of(open_fd);
    const Lock lock(shard.mutex);
    if (index != 0) {
      replace(shard, {st.st_dev, st.st_ino});
      found = refer(add(shard, device, path_fd, st, std::move(handle), index));
    }
  }
  inode = found ? std::move(found) : intern(std::move(path_fd), st);
  return 0;
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

void InodeTable::adopt_descriptors() {
  const InodeRecords records(book_);
  records.for_each([this](std::uint32_t /*index*/, InodeRecord& record) {
    const std::uint64_t nodeid = record.nodeid;
    if (nodeid == 0 || record.fd.load() >= -1) return;
    InodePtr inode;  // where that fails it stays as it is
    if (acquire_open(nodeid, record.descriptor(), inode) == ENOMEM) throw std::bad_alloc();
  });
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
  const Device& device = devices_.find_or_add(st, path_fd.get());
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
  replace(shard, {st.st_dev, st.st_ino});
  const std::uint32_t known = find_known(shard, device, st, handle);
  InodePtr inode = refer(add(shard, device, path_fd, st, std::move(handle), known));
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

bool InodeTable::may_lose(const FileId& id) noexcept {
  Shard& shard = shards_[shard_index(id.ino)];
  const Lock lock(shard.mutex);
  const auto it = shard.by_id.find(id);
  return it == shard.by_id.end() ? shard.known_count != 0 : !it->second->fd_.valid();
}

void InodeTable::add_lookup(Inode& inode) noexcept {
  if (inode.nodeid() == kRootNodeid) return;  // stays for ever, and is not counted in forget()
  const Lock lock(shard_of(inode).mutex);
  const std::uint64_t before = inode.record_->nlookup.load(std::memory_order_relaxed);
  const CurrentRequest::CountChange change(inode.nodeid(), before + 1);
  inode.record_->nlookup.store(before + 1, std::memory_order_release);
}

void InodeTable::forget(std::uint64_t nodeid, std::uint64_t count) noexcept {
  Shard& shard = shard_of(nodeid);
  std::unique_ptr<Inode> dead;  // destroyed after the mutex is released, as `closed` is
  UniqueFd closed;
  const Lock lock(shard.mutex);
  const auto it = shard.by_nodeid.find(nodeid);
  const bool made = it != shard.by_nodeid.end();
  const std::uint32_t known = made ? 0 : find_known(shard, nodeid);
  InodeRecord* record = nullptr;
  if (made) record = it->second->record_;
  if (known != 0) record = &shard.records->records()[known];
  if (record == nullptr) {
    const CurrentRequest::CountChange none(nodeid, 0);  // a request's changes are numbered
    return;
  }
  const std::uint64_t before = record->nlookup.load(std::memory_order_relaxed);
  const std::uint64_t after = before - std::min(count, before);
  {
    const CurrentRequest::CountChange change(nodeid, after);
    record->nlookup.store(after, std::memory_order_release);
  }
  if (after != 0) return;
  if (known != 0) {
    closed = free_known(shard, known);
  } else if (it->second->refs_.load(std::memory_order_acquire) == 0) {
    dead = take_out(shard, *it->second);
  }
}

std::uint64_t InodeTable::lookups(std::uint64_t nodeid) noexcept {
  Shard& shard = shard_of(nodeid);
  const Lock lock(shard.mutex);
  if (const auto it = shard.by_nodeid.find(nodeid); it != shard.by_nodeid.end()) {
    return it->second->record_->nlookup;
  }
  const std::uint32_t known = find_known(shard, nodeid);
  return known == 0 ? 0 : shard.records->records()[known].nlookup.load();
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
  if (inode.refs_.fetch_sub(1, std::memory_order_acq_rel) == 1 && inode.is_forgotten()) {
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
    counts.inodes += shard.by_nodeid.size() + shard.known_count;
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
  const bool free = !shard.by_nodeid.contains(number) && find_known(shard, number) == 0;
  if (number > kRootNodeid && free) return number;
  return kCountedNodeid | (shard.next_number++ << kShardBits) | shard_index(ino);
}

std::uint32_t InodeTable::find_known(const Shard& shard, std::uint64_t nodeid) noexcept {
  if (shard.known_count == 0 || nodeid == 0) return 0;
  const InodeRecords& records = shard.records->records();
  return shard.known.find(mix(nodeid), [&](std::uint32_t index) {
    return records[index].nodeid.load(std::memory_order_relaxed) == nodeid;
  });
}

std::uint32_t InodeTable::find_known(const Shard& shard, const Device& device,
                                     const struct stat& st, const std::string& handle) noexcept {
  if (shard.known_count == 0) return 0;
  const InodeRecords& records = shard.records->records();
  const NameRecords& names = shard.names->records();
  const std::uint64_t number = device.is_source() ? device.number_of(st.st_ino, handle) : 0;
  if (number > kRootNodeid && !shard.by_nodeid.contains(number)) {
    const std::uint32_t index = find_known(shard, number);
    if (index != 0 && records[index].generation == generation_of(handle)) return index;
  }
  return shard.known_names.find(FileIdHash()({st.st_dev, st.st_ino}), [&](std::uint32_t index) {
    const std::uint64_t nodeid = records[index].nodeid.load(std::memory_order_relaxed);
    if (nodeid == 0 || records[index].name == 0) return false;
    const NameRecord& name = names[records[index].name];
    return name.dev == st.st_dev && name.ino == st.st_ino && name.type == (st.st_mode & S_IFMT) &&
           handle == std::string_view(name.handle, name.handle_size) &&
           !shard.by_nodeid.contains(nodeid);
  });
}

void InodeTable::leave_known(Shard& shard) noexcept {
  if (--shard.known_count != 0) return;
  shard.known.clear();
  shard.known_names.clear();
}

UniqueFd InodeTable::free_known(Shard& shard, std::uint32_t index) noexcept {
  InodeRecord& record = shard.records->records()[index];
  UniqueFd fd(record.descriptor());
  free_record(shard, record);
  leave_known(shard);
  return fd;
}

void InodeTable::free_record(Shard& shard, InodeRecord& record) noexcept {
  record.nodeid.store(0, std::memory_order_release);
  death_point("inode.removed");
  if (record.name != 0) shard.names->give(record.name);
  shard.records->give(shard.records->records().index_of(record));
}

void InodeTable::write_record(Shard& shard, Inode& inode) noexcept {
  InodeRecord& record = shard.records->records()[shard.records->take()];
  record.nlookup.store(0, std::memory_order_relaxed);
  record.generation = inode.generation_;
  record.backing_id.store(0, std::memory_order_relaxed);
  record.set_descriptor(inode.fd_.get(), inode.can_reopen());
  record.name = 0;
  if ((inode.nodeid_ & kCountedNodeid) != 0 || record.needs_descriptor()) {
    record.name = shard.names->take();
    NameRecord& name = shard.names->records()[record.name];
    name.dev = inode.id_.dev;
    name.ino = inode.id_.ino;
    name.mount_fd = inode.device_.is_source() ? -1 : inode.device_.mount_fd();
    name.device_index = inode.device_.index();
    name.device_traits = inode.device_.traits();
    name.type = inode.type_;
    name.handle_size =
        static_cast<std::uint32_t>(inode.handle_.copy(name.handle, sizeof name.handle));
  }
  record.nodeid.store(inode.nodeid_, std::memory_order_release);
  death_point("inode.written");
  inode.record_ = &record;
}

void InodeTable::replace(Shard& shard, const FileId& id) noexcept {
  const auto it = shard.by_id.find(id);
  if (it == shard.by_id.end()) return;
  it->second->replaced_ = true;
  shard.by_id.erase(it);
}

Inode& InodeTable::add(Shard& shard, const Device& device, UniqueFd& path_fd, const struct stat& st,
                       std::string handle, std::uint32_t known) {
  InodeRecord* const record = known == 0 ? nullptr : &shard.records->records()[known];
  const std::uint64_t nodeid = record == nullptr ? new_nodeid(shard, device, st.st_ino, handle)
                                                 : record->nodeid.load(std::memory_order_relaxed);
  const std::uint32_t generation = record == nullptr ? generation_of(handle) : record->generation;
  if (record == nullptr) {
    const bool named = (nodeid & kCountedNodeid) != 0 || !device.can_reopen() || handle.empty();
    const bool provided = shard.records->provide() && (!named || shard.names->provide());
    if (!provided) throw std::bad_alloc();
  }
  auto inode = std::make_unique<Inode>(*this, device, nodeid, st, std::move(handle), generation);
  inode->serial_ = ++added_;
  const auto it = shard.by_id.emplace(inode->id_, inode.get()).first;
  try {
    shard.by_nodeid.emplace(nodeid, inode.get());
  } catch (...) {
    shard.by_id.erase(it);
    throw;
  }
  if (record == nullptr) {
    inode->fd_ = std::move(path_fd);
    write_record(shard, *inode);
  } else {
    if (record->descriptor() < 0) record->set_descriptor(path_fd.get(), inode->can_reopen());
    inode->fd_ =
        record->descriptor() == path_fd.get() ? std::move(path_fd) : UniqueFd(record->descriptor());
    inode->record_ = record;
    leave_known(shard);
    note_past(*inode, mapped_before_);
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
  inode.record_->set_descriptor(inode.fd_.get(), true);
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
    inode.record_->set_descriptor(-1, true);
    Descriptors given_up{std::move(inode.fd_), std::move(inode.data_mode.backing)};
    inode.record_backing();
    return given_up;
  }
  inode.used_ = false;
  shard.clock.push_back(inode);
  return {};
}

std::unique_ptr<Inode> InodeTable::take_out(Shard& shard, Inode& inode) noexcept {
  shard.by_nodeid.erase(inode.nodeid_);
  if (!inode.replaced_) shard.by_id.erase(inode.id_);
  if (inode.clock_hook_.is_linked()) shard.clock.erase(shard.clock.iterator_to(inode));
  if (inode.record_ != nullptr) free_record(shard, *inode.record_);
  return std::unique_ptr<Inode>(&inode);
}

}  // namespace lockfs
