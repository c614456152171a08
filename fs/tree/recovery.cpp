/// Going on with the files that an earlier process had open.

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <unordered_set>
#include <utility>

#include "fs/tree/filesystem.h"

namespace lockfs {
namespace {

/// As Records, for who only looks.
template <typename Record>
const Record* records_of(const Book& book, Kind kind) noexcept {
  return reinterpret_cast<const Record*>(book.records(kind));
}

}  // namespace

void Filesystem::known_descriptors(const Book& book, std::vector<int>& out) {
  const auto* const handles = records_of<HandleRecord>(book, Kind::kHandles);
  for (std::uint32_t i = 1; i < book.high(Kind::kHandles); ++i) {
    if (handles[i].fh != 0) out.push_back(handles[i].fd);
  }
  const auto* const inodes = records_of<InodeRecord>(book, Kind::kInodes);
  const auto* const names = records_of<NameRecord>(book, Kind::kNames);
  std::vector<int> mounts;  // few
  for (std::uint32_t i = 1; i < book.high(Kind::kInodes); ++i) {
    if (inodes[i].nodeid == 0) continue;
    if (const int fd = inodes[i].descriptor(); fd >= 0) out.push_back(fd);
    if (inodes[i].name == 0) continue;
    const int mount = names[inodes[i].name].mount_fd;
    const bool seen = std::find(mounts.begin(), mounts.end(), mount) != mounts.end();
    if (mount >= 0 && !seen) mounts.push_back(mount);
  }
  out.insert(out.end(), mounts.begin(), mounts.end());
}

std::string_view Filesystem::damage_in(Book& book) {
  const std::uint32_t names_end = book.high(Kind::kNames);
  const NameRecords names(book);
  const bool inodes_right = InodeRecords(book).all_of([&](const InodeRecord& inode) {
    if (inode.nodeid == 0) return true;
    if (inode.name == 0) return !inode.needs_descriptor();
    return inode.name < names_end && names[inode.name].handle_size <= sizeof NameRecord::handle;
  });
  if (!inodes_right) return "an inode";
  const bool handles_right = HandleRecords(book).all_of(
      [](const HandleRecord& handle) { return handle.fh == 0 || handle.fd > STDERR_FILENO; });
  return handles_right ? "" : "an open file";
}

void Filesystem::leave_idle_descriptors(Book& book) {
  std::unordered_set<std::uint64_t> open;
  const HandleRecords handles(book);
  handles.for_each([&](std::uint32_t /*index*/, const HandleRecord& handle) {
    if (handle.fh != 0) open.insert(handle.nodeid);
  });
  const InodeRecords inodes(book);
  inodes.for_each([&](std::uint32_t /*index*/, InodeRecord& inode) {
    if (inode.nodeid == 0 || inode.fd.load() >= -1 || open.contains(inode.nodeid)) return;
    // One that was removed has nothing else that keeps it: a device that is open, a working folder.
    struct stat st {};
    const bool removed = ::fstat(inode.descriptor(), &st) == 0 && st.st_nlink == 0;
    if (!removed) inode.fd = -1;
  });
}

void Filesystem::recover() {
  inodes_.recover_known(passthrough_.is_enabled());
  const HandleRecords records(book_);
  records.for_each([&](std::uint32_t index, HandleRecord& record) {
    if (record.fh != 0 && restore(record)) return;
    // One that is lost goes altogether: its descriptor's number may come to mean another file.
    if (record.fh.exchange(0) != 0) ::close(record.fd);
    files_.provide(index);
  });
  inodes_.adopt_descriptors();
  inodes_.finish_recovery([this](std::int32_t id) { passthrough_.unregister(id); });
}

/// False: it cannot be had. Throws std::bad_alloc.
bool Filesystem::restore(const HandleRecord& record) {
  // The handles get their descriptors last: whatever fails before, these stay open, as the record
  // says.
  InodePtr inode;
  if (const int error = inodes_.acquire_open(record.nodeid, record.fd, inode); error != 0) {
    if (error == ENOMEM) throw std::bad_alloc();
    spdlog::error("an open file is lost: {} (errno {})", std::strerror(error), error);
    return false;
  }
  DescriptorShares::Share share = shares_.take_again(record.uid);
  if ((record.flags & HandleRecord::kDirectory) != 0) {
    auto handle = std::make_unique<DirHandle>(std::move(share), std::move(inode), UniqueFd());
    handle->offset = DirHandle::kUnknown;
    directories_.restore(record, std::move(handle)).fd.reset(record.fd);
    return true;
  }
  auto made = std::make_unique<Handle>(std::move(share), std::move(inode), UniqueFd(),
                                       static_cast<int>(record.open_flags));
  made->append_only = (record.flags & HandleRecord::kAppendOnly) != 0;
  Handle& handle = files_.restore(record, std::move(made));
  handle.fd.reset(record.fd);
  passthrough_.attach_again(handle);
  return true;
}

void Filesystem::discard_unanswered(std::uint64_t unique) noexcept {
  if (unique == 0) return;
  const HandleRecords records(book_);
  records.for_each([&](std::uint32_t /*index*/, const HandleRecord& record) {
    const std::uint64_t fh = record.fh;
    if (fh == 0 || record.unique != unique) return;
    if (Handle* const handle = files_.find(fh); handle != nullptr) close_handle(handle);
    directories_.remove(fh);
  });
}

}  // namespace lockfs
