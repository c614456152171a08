#include "fs/tree/filesystem.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

#include "fs/loop/current_request.h"

namespace lockfs {
namespace {

constexpr std::size_t kMaxPins = 50'000;
constexpr rlim_t kDescriptorsWanted = 1 << 20;  // fs.nr_open's default
/// Half a megabyte of the kernel's memory: what is pinned, and some open files.
constexpr std::size_t kDescriptorsForeseen = 1 << 16;
/// An open file takes its own descriptor and its inode's; its locks take as many again.
constexpr std::size_t kDescriptorsAFile = 2;

/// Descriptors of inodes that nobody uses.
std::size_t most_pins(std::size_t descriptors) noexcept {
  constexpr std::size_t kFew = 8192;
  return descriptors < kFew ? descriptors / 4 : std::min(descriptors / 2, kMaxPins);
}

/// Files that users may have open; an eighth is for the daemon itself, and for root.
std::size_t most_open(std::size_t descriptors) noexcept {
  return (descriptors - descriptors / 8 - most_pins(descriptors)) / kDescriptorsAFile;
}

constexpr auto kIdlePeriod = std::chrono::seconds(5);

/// Raises the limit of open descriptors as far as allowed and returns it.
std::size_t raise_descriptor_limit() noexcept {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  const struct rlimit wanted {
    std::max(limit.rlim_max, kDescriptorsWanted), std::max(limit.rlim_max, kDescriptorsWanted)
  };
  if (::setrlimit(RLIMIT_NOFILE, &wanted) == 0) return wanted.rlim_cur;  // root only
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

/// Raises the limit of open descriptors and has the kernel's table of them grow at once, before
/// there are threads: it doubles as it fills, and with threads each time waits for an RCU grace
/// period (expand_fdtable()), ten milliseconds in which requests wait as well. Returns the limit.
std::size_t provide_descriptors() noexcept {
  const std::size_t limit = raise_descriptor_limit();
  const UniqueFd any(::open("/", O_PATH | O_CLOEXEC));
  const auto last = static_cast<int>(std::min(limit, kDescriptorsForeseen)) - 1;
  const UniqueFd grown(::fcntl(any.get(), F_DUPFD_CLOEXEC, last));
  return limit;
}

/// `root_fd`: the source, opened earlier, or -1.
UniqueFd open_source(const std::string& source, int root_fd) {
  UniqueFd fd(root_fd >= 0 ? ::fcntl(root_fd, F_DUPFD_CLOEXEC, 0)
                           : ::open(source.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd) throw std::system_error(errno, std::generic_category(), "cannot open " + source);
  // Open files are reached through /proc: without it nothing would work, and late.
  if (::access(ProcPath(fd.get()).c_str(), F_OK) != 0) {
    throw std::system_error(errno, std::generic_category(), "/proc is needed but not usable");
  }
  return fd;
}

}  // namespace

Filesystem::Filesystem(const Options& options, Book& book, int root_fd)
    : options_(options),
      book_(book),
      descriptors_(provide_descriptors()),
      shares_(most_open(descriptors_), options.allow_other),
      cache_times_{options.attr_timeout, options.entry_timeout, options.negative_timeout},
      access_times_{options.noatime, options.nodiratime},
      passthrough_(options.passthrough, access_times_.keep),
      inodes_(book, open_source(options.source_path, root_fd), most_pins(descriptors_)),
      files_(book),
      directories_(book),
      nfs_watch_(options.source_path, options.mountpoint_path),
      housekeeper_([this](const std::stop_token& stop) { run_housekeeping(stop); }) {}

std::pair<int, DescriptorShares::Share> Filesystem::take_share(uid_t uid) {
  auto share = shares_.take(uid);
  if (share.first != 0 && !told_of_shares_.exchange(true)) {
    spdlog::warn(
        "open: uid {} has {} files open, which is its share of {} (the daemon's limit of "
        "descriptors is {}): {} (errno {}); said once",
        uid, shares_.of(uid), shares_.most(), descriptors_, std::strerror(ENFILE), ENFILE);
  }
  return share;
}

void Filesystem::run_housekeeping(const std::stop_token& stop) {
  nfs_watch_.look();
  std::unique_lock lock(idle_mutex_);
  while (!idle_stop_.wait_for(lock, stop, kIdlePeriod, [&] { return stop.stop_requested(); })) {
    inodes_.close_idle();
    inodes_.release_memory();
    nfs_watch_.look();
  }
}

void Filesystem::set_kernel_passthrough(bool granted, int fuse_fd) noexcept {
  if (granted) passthrough_.enable(fuse_fd);
}

int Filesystem::read_attributes(Inode& inode, struct stat& st) noexcept {
  inode.attr_cached.store(true);
  if (::fstat(inode.fd(), &st) != 0) return errno;
  inode.lower_known_size(st.st_size);
  st.st_ino = inode.device().shown_ino(st.st_ino);
  return 0;
}

bool Filesystem::forget_attributes(Inode& inode) noexcept {
  if (!inodes_.clear_attr_cached(inode)) return false;
  // A negative offset leaves the page cache alone.
  fuse_lowlevel_notify_inval_inode(session_, inode.nodeid(), -1, 0);
  return true;
}

/// Whether somebody may store to the backing file through a mapping. Once no open file can be
/// mapped any more, a mapping that is left keeps the backing file open for writing, as does whoever
/// else writes to it: then it cannot be leased for reading (check_conflicting_open()).
bool Filesystem::may_be_mapped(Inode& inode) noexcept {
  std::uint32_t opened = inode.mapped;
  if (opened == 0) return false;
  if (inode.mappers != 0) return true;
  const UniqueFd fd(inode.reopen(O_RDONLY | O_NONBLOCK));
  if (!fd || ::fcntl(fd.get(), F_SETLEASE, F_RDLCK) != 0) return true;
  ::fcntl(fd.get(), F_SETLEASE, F_UNLCK);
  // Unless it was opened meanwhile.
  return !inode.mapped.compare_exchange_strong(opened, 0);
}

/// Files that may be mapped for passed-through writing are asked for each time: stores change the
/// times of the backing file only. So are programs with set-ID bits when they are run: the
/// kernel clears the bits of a file that it writes to (data passthrough) without learning of it.
/// None either while locks are in use. The kernel marks attributes as valid just before it stores
/// the size (fuse_change_attributes_common()): who has just got a lock could be shown the old one
/// when somebody else's answer is taken over at that moment. Nor soon after: the time until which
/// the answer before was valid is replaced later than the mark. To be asked when they have been
/// read: a lock granted later has the kernel notified.
double Filesystem::attr_timeout(Inode& inode, const struct stat& st) const noexcept {
  const bool locked = locks_ != nullptr && locks_->in_use(inode);
  const bool asked = locked || may_be_mapped(inode) || has_set_id_bits(st);
  return asked ? 0 : cache_times_.attr.load();
}

int Filesystem::act_as_caller(fuse_req_t req, const Inode& inode,
                              std::optional<CallerIdentity>& identity) {
  struct stat st {};
  if (::fstat(inode.fd(), &st) != 0) return errno;
  if (!has_set_id_bits(st)) return 0;
  identity.emplace(req);
  return identity->error();
}

int Filesystem::enter(UniqueFd path_fd, Entry& entry) {
  const std::uint64_t looks = inodes_.attribute_looks();
  if (::fstat(path_fd.get(), &entry.st) != 0) return errno;
  const FileId id{entry.st.st_dev, entry.st.st_ino};
  // Where two descriptors are open and have one number, they are of one file.
  bool pinned = false;
  InodePtr found = inodes_.find(id, &pinned);
  entry.known = static_cast<bool>(found);
  if (found && pinned && found->device().is_local()) {
    entry.inode = std::move(found);
  } else {
    entry.inode = inodes_.intern(std::move(path_fd), entry.st);
  }
  if (!inodes_.set_attr_cached(*entry.inode, looks)) return read_attributes(*entry.inode, entry.st);
  entry.st.st_ino = entry.inode->device().shown_ino(id.ino);
  return 0;
}

std::optional<int> Filesystem::find_known(const Inode& parent, const char* name,
                                          Entry& entry) noexcept {
  const std::uint32_t added = inodes_.added();
  const std::uint64_t looks = inodes_.attribute_looks();
  const auto look = [&] {
    constexpr int kFlags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    return ::fstatat(parent.fd(), name, &entry.st, kFlags) == 0 ? 0 : errno;
  };
  if (const int error = look(); error != 0) return error;
  const FileId id{entry.st.st_dev, entry.st.st_ino};
  bool pinned = false;
  InodePtr found = inodes_.find(id, &pinned);
  // It was known before and is there now, so it was what has been looked at: numbers are not given
  // to another file while it is there, handles never.
  if (!found || !found->device().is_local() || !InodeTable::is_among(added, *found)) return {};
  if (!inodes_.set_attr_cached(*found, looks)) {
    if (const int error = look(); error != 0) return error;
    if (id != FileId{entry.st.st_dev, entry.st.st_ino}) return {};
  }
  if (!pinned && !found->is_at(parent.fd(), name)) return {};
  entry.st.st_ino = found->device().shown_ino(id.ino);
  entry.inode = std::move(found);
  entry.known = true;
  return 0;
}

int Filesystem::find_child(Inode& parent, const char* name, Entry& entry, bool expect_known) {
  const bool up = std::strcmp(name, "..") == 0;
  if (expect_known && !up && parent.device().is_local()) {
    if (const std::optional<int> error = find_known(parent, name, entry)) return *error;
  }
  // NFS servers look up ".." to connect a directory to its parents.
  UniqueFd fd(::openat(parent.fd(), name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return errno;
  if (up && !is_below_source(fd.get())) return ESTALE;
  return enter(std::move(fd), entry);
}

/// What an NFS server does with a file handle: turns a nodeid into an inode, whatever its type.
int Filesystem::find_by_nodeid(fuse_ino_t nodeid, Entry& entry) {
  int error = inodes_.acquire(nodeid, entry.inode);
  if (error == ESTALE) {
    error = inodes_.recover(nodeid, entry.inode);
    const bool outside =
        error == 0 && entry.inode->type() == S_IFDIR && !is_below_source(entry.inode->fd());
    if (outside) error = ESTALE;
    if (error != 0) note_lost_handle();
  }
  return error != 0 ? error : read_attributes(*entry.inode, entry.st);
}

void Filesystem::note_lost_handle() {
  if (inodes_.root()->device().finds_numbers() || told_of_handles_.test_and_set()) return;
  spdlog::warn(
      "an NFS server came with the handle of a forgotten file: the filesystem of {} cannot find it "
      "again (root can on ext4, xfs, btrfs, f2fs, jfs and tmpfs), so NFS clients get ESTALE; "
      "export "
      "the source instead of the mount",
      options_.source_path);
}

int Filesystem::find_child(fuse_ino_t parent, const char* name, Entry& entry, bool expect_known) {
  if (std::strcmp(name, ".") == 0) return find_by_nodeid(parent, entry);
  InodePtr directory;
  if (const int error = inodes_.acquire(parent, directory); error != 0) return error;
  return find_child(*directory, name, entry, expect_known);
}

bool Filesystem::is_below_source(int directory) const noexcept {
  const FileId source = inodes_.root()->id();
  UniqueFd current;
  FileId last;
  for (int fd = directory;; fd = current.get()) {
    struct stat st {};
    if (::fstat(fd, &st) != 0) return false;
    const FileId id{st.st_dev, st.st_ino};
    if (id == source) return true;
    if (id == last) return false;  // the root of all directories is its own parent
    last = id;
    current.reset(::openat(fd, "..", O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!current) return false;
  }
}

fuse_entry_param Filesystem::entry_param(const Entry& entry) const noexcept {
  fuse_entry_param param{};
  entry.inode->lower_known_size(entry.st.st_size);
  param.ino = entry.inode->nodeid();
  param.generation = param.ino == FUSE_ROOT_ID ? 0 : entry.inode->generation();
  param.attr = entry.st;
  param.attr_timeout = attr_timeout(*entry.inode, entry.st);
  param.entry_timeout = cache_times_.entry;
  return param;
}

int Filesystem::reply_entry(fuse_req_t req, const Entry& entry) {
  const fuse_entry_param param = entry_param(entry);
  inodes_.add_lookup(*entry.inode);
  if (fuse_reply_entry(req, &param) != 0) inodes_.forget(entry.inode->nodeid(), 1);
  return 0;
}

int Filesystem::reply_attributes(fuse_req_t req, Inode& inode) {
  struct stat st {};
  if (const int error = read_attributes(inode, st); error != 0) return error;
  fuse_reply_attr(req, &st, attr_timeout(inode, st));
  return 0;
}

/// Each function here is a row of fuse_lowlevel_ops.
struct Ops {
  static Filesystem& filesystem(fuse_req_t req) noexcept {
    return static_cast<Mount*>(fuse_req_userdata(req))->filesystem;
  }

  template <auto Handler, class... Args>
  static int run(fuse_req_t req, Args... args) noexcept {
    try {
      return (filesystem(req).*Handler)(req, args...);
    } catch (const std::bad_alloc&) {
      return ENOMEM;
    }
  }

  /// The handler returns 0 or the errno to answer.
  template <auto Handler, class... Args>
  static void status(fuse_req_t req, Args... args) noexcept {
    fuse_reply_err(req, run<Handler>(req, args...));
  }

  /// The handler has answered if it returns 0.
  template <auto Handler, class... Args>
  static void reply(fuse_req_t req, Args... args) noexcept {
    if (const int error = run<Handler>(req, args...); error != 0) fuse_reply_err(req, error);
  }

  static void init(void* userdata, fuse_conn_info* conn) noexcept {
    static_cast<Mount*>(userdata)->filesystem.init(*conn);
  }

  static void forget(fuse_req_t req, fuse_ino_t nodeid, std::uint64_t count) noexcept {
    if (counts_made() == 0) filesystem(req).forget(nodeid, count);
    fuse_reply_none(req);
  }

  static void forget_multi(fuse_req_t req, size_t count, fuse_forget_data* forgets) noexcept {
    for (size_t i = counts_made(); i < count; ++i) {
      filesystem(req).forget(forgets[i].ino, forgets[i].nlookup);
    }
    fuse_reply_none(req);
  }

  /// How many counts an earlier process has changed for this request.
  static std::uint32_t counts_made() noexcept {
    return CurrentRequest::repeated() ? CurrentRequest::counts_made() : 0;
  }
};

void Filesystem::fill_ops(Operations& ops) noexcept {
  using Table = fuse_lowlevel_ops;
  ops.enter(&Table::init, &Ops::init, Pace::kOrdered, FUSE_INIT);
  ops.enter(&Table::lookup, &Ops::reply<&Filesystem::lookup>, Pace::kQuick, FUSE_LOOKUP);
  ops.enter(&Table::forget, &Ops::forget, Pace::kQuick, FUSE_FORGET);
  ops.enter(&Table::forget_multi, &Ops::forget_multi, Pace::kQuick, FUSE_BATCH_FORGET);
  ops.enter(&Table::getattr, &Ops::reply<&Filesystem::getattr>, Pace::kQuick, FUSE_GETATTR);
  ops.enter(&Table::setattr, &Ops::reply<&Filesystem::setattr>, Pace::kQuick, FUSE_SETATTR);
  ops.enter(&Table::readlink, &Ops::reply<&Filesystem::readlink>, Pace::kQuick, FUSE_READLINK);
  ops.enter(&Table::access, &Ops::status<&Filesystem::access>, Pace::kQuick, FUSE_ACCESS);
  ops.enter(&Table::statfs, &Ops::reply<&Filesystem::statfs>, Pace::kQuick, FUSE_STATFS);

  ops.enter(&Table::mknod, &Ops::reply<&Filesystem::mknod>, Pace::kQuick, FUSE_MKNOD);
  ops.enter(&Table::mkdir, &Ops::reply<&Filesystem::mkdir>, Pace::kQuick, FUSE_MKDIR);
  ops.enter(&Table::symlink, &Ops::reply<&Filesystem::symlink>, Pace::kQuick, FUSE_SYMLINK);
  ops.enter(&Table::link, &Ops::reply<&Filesystem::link>, Pace::kQuick, FUSE_LINK);
  ops.enter(&Table::unlink, &Ops::status<&Filesystem::unlink>, Pace::kQuick, FUSE_UNLINK);
  ops.enter(&Table::rmdir, &Ops::status<&Filesystem::rmdir>, Pace::kQuick, FUSE_RMDIR);
  ops.enter(&Table::rename, &Ops::status<&Filesystem::rename>, Pace::kQuick, FUSE_RENAME,
            FUSE_RENAME2);

  ops.enter(&Table::open, &Ops::reply<&Filesystem::open>, Pace::kQuick, FUSE_OPEN);
  ops.enter(&Table::create, &Ops::reply<&Filesystem::create>, Pace::kQuick, FUSE_CREATE);
  ops.enter(&Table::read, &Ops::reply<&Filesystem::read>, Pace::kByLength, FUSE_READ);
  ops.enter(&Table::write, &Ops::reply<&Filesystem::write>, Pace::kByLength, FUSE_WRITE);
  ops.enter(&Table::fsync, &Ops::status<&Filesystem::fsync>, Pace::kSlow, FUSE_FSYNC);
  ops.enter(&Table::fallocate, &Ops::status<&Filesystem::fallocate>, Pace::kSlow, FUSE_FALLOCATE);
  ops.enter(&Table::copy_file_range, &Ops::reply<&Filesystem::copy_file_range>, Pace::kSlow,
            FUSE_COPY_FILE_RANGE);
  ops.enter(&Table::lseek, &Ops::reply<&Filesystem::lseek>, Pace::kQuick, FUSE_LSEEK);
  ops.enter(&Table::ioctl, &Ops::reply<&Filesystem::ioctl>, Pace::kQuick, FUSE_IOCTL);

  ops.enter(&Table::opendir, &Ops::reply<&Filesystem::opendir>, Pace::kQuick, FUSE_OPENDIR);
  ops.enter(&Table::readdir, &Ops::reply<&Filesystem::readdir>, Pace::kQuick, FUSE_READDIR);
  ops.enter(&Table::readdirplus, &Ops::reply<&Filesystem::readdirplus>, Pace::kQuick,
            FUSE_READDIRPLUS);
  ops.enter(&Table::releasedir, &Ops::status<&Filesystem::releasedir>, Pace::kQuick,
            FUSE_RELEASEDIR);
  ops.enter(&Table::fsyncdir, &Ops::status<&Filesystem::fsyncdir>, Pace::kSlow, FUSE_FSYNCDIR);

  ops.enter(&Table::setxattr, &Ops::status<&Filesystem::setxattr>, Pace::kQuick, FUSE_SETXATTR);
  ops.enter(&Table::getxattr, &Ops::reply<&Filesystem::getxattr>, Pace::kQuick, FUSE_GETXATTR);
  ops.enter(&Table::listxattr, &Ops::reply<&Filesystem::listxattr>, Pace::kQuick, FUSE_LISTXATTR);
  ops.enter(&Table::removexattr, &Ops::status<&Filesystem::removexattr>, Pace::kQuick,
            FUSE_REMOVEXATTR);
}

}  // namespace lockfs
