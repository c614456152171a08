/// The passthrough filesystem: every FUSE operation except the lock ones, carried out on the
/// backing files below one source directory. fs/README.md tells how to add one.
///
/// Thread safety: handlers run on any number of threads at once, each prepared with
/// prepare_worker_thread() (fs/base/credentials.h). No lock is held across a system call that may
/// block, save an open directory's own and, while its data is registered for passthrough, one that
/// an inode shares with others (DataPassthroughTable).
///
/// Invariants:
///   1. Each step from a directory to an entry is one component, taken with O_NOFOLLOW relative to
///      the directory's descriptor; no path is ever walked, no symbolic link ever followed.
///   2. The kernel (default_permissions) decides who may do what. The daemon acts as itself, and as
///      the caller only where a new file takes its owner from the process, a changed one keeps or
///      loses its set-ID bits by who changes it, or a name in a sticky folder may have become
///      another's file since the kernel decided.
///   3. Each request is answered exactly once.
///   4. What the kernel is told of, nodeids, references and open files, is in the book before the
///      answer leaves, and out of it before a descriptor is closed: a process that comes after a
///      death goes on from there (recover()).
#pragma once

#include <dirent.h>
#include <fuse3/fuse_lowlevel.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "fs/base/book.h"
#include "fs/base/credentials.h"
#include "fs/loop/operations.h"
#include "fs/nfs/nfs_watch.h"
#include "fs/options/options.h"
#include "fs/tree/data_passthrough.h"
#include "fs/tree/descriptor_shares.h"
#include "fs/tree/handle.h"
#include "fs/tree/handle_set.h"
#include "fs/tree/inode.h"
#include "fs/tree/inode_table.h"
#include "fs/tree/listing_habits.h"
#include "fs/tree/lock_state.h"
#include "fs/tree/records.h"
#include "fs/tree/stale_names.h"

namespace lockfs {

class Filesystem {
 public:
  /// Opens `options.source`: to be called before the mount, which may cover it. Raises the
  /// process's limit of open descriptors and starts a thread: to be called after the last fork().
  /// `options` must outlive the object. Throws std::system_error; what() is one line for the user.
  /// `book` must outlive it too. `root_fd`: the source, where the path may be covered by now; it
  /// stays the caller's.
  Filesystem(const Options& options, Book& book, int root_fd = -1);

  /// The descriptors that the records in a book are about: those a process goes on with.
  static void known_descriptors(const Book& book, std::vector<int>& out);
  /// What kind of record cannot be right, whatever the process died of: memory was written over.
  /// Empty: none. The same is in every room.
  static std::string_view damage_in(Book& book);
  /// Takes those out of the records that are of no use to the next process: of files that are not
  /// open and can be opened anew, since they have names. To be called before it opens anything. May
  /// throw std::bad_alloc.
  static void leave_idle_descriptors(Book& book);

  /// Goes on with what an earlier process left in the book, before the first request and after
  /// set_kernel_passthrough(). An open file that cannot be had again is logged, and answers EBADF
  /// from now on. Throws std::bad_alloc: then the process must end without destroying the object,
  /// as by a signal, for the next one to try.
  void recover();

  /// Closes what an earlier process opened for a request that it did not answer: to be called after
  /// recover(), before the request is carried out once more.
  void discard_unanswered(std::uint64_t unique) noexcept;

  /// Enters every operation but getlk, setlk, flock, flush and release. Handlers expect the
  /// session's user data to be a Mount*.
  static void fill_ops(Operations& ops) noexcept;

  /// What the kernel granted in INIT; called once, before any file is open. `fuse_fd` is the
  /// device descriptor of the session.
  void set_kernel_passthrough(bool granted, int fuse_fd) noexcept;
  /// The session that requests come from; before the first one.
  void attach(fuse_session* session) noexcept { session_ = session; }
  /// Has the kernel ask for the file's attributes anew. Returns false when it had none. Neither
  /// blocks nor waits for requests.
  bool forget_attributes(Inode& inode) noexcept;
  /// The device descriptor is about to be closed.
  void disconnect() noexcept { passthrough_.disconnect(); }

  /// Data part of FLUSH: does what close() of one descriptor does to the backing file (a network
  /// filesystem writes its cache back and reports errors here). Returns 0 or errno; may block.
  int flush_data(const Handle& handle) noexcept;
  /// A descriptor whose close() does that, or a negative errno.
  static int open_to_flush(const Handle& handle) noexcept;

  /// The open file that the kernel has by this number. Null: there is none, or no more.
  [[nodiscard]] Handle* find_handle(std::uint64_t fh) const noexcept { return files_.find(fh); }

  /// Data part of RELEASE: closes and frees what OPEN or CREATE made.
  void close_handle(Handle* handle) noexcept;

  [[nodiscard]] InodeTable& inodes() noexcept { return inodes_; }

  /// How long the kernel may believe what it is told, in seconds. May change at any time; what it
  /// was told before keeps its term.
  struct CacheTimes {
    std::atomic<double> attr;
    std::atomic<double> entry;
    std::atomic<double> negative;
  };
  [[nodiscard]] CacheTimes& cache_times() noexcept { return cache_times_; }

  /// Whose access times stay as they are, of what is opened from now on. May change at any time.
  struct AccessTimes {
    std::atomic<bool> keep;              ///< of everything
    std::atomic<bool> keep_directories;  ///< of directories
  };
  [[nodiscard]] AccessTimes& access_times() noexcept { return access_times_; }

  /// What a user has for one more open file, or for the locks of one, or ENFILE. Throws
  /// std::bad_alloc.
  std::pair<int, DescriptorShares::Share> take_share(uid_t uid);
  /// The same for what the user had in an earlier process; never refused.
  DescriptorShares::Share take_share_again(uid_t uid) { return shares_.take_again(uid); }

  /// Who knows which files have locks; before the first request. It must outlive the last one.
  void set_lock_state(LockState* locks) noexcept { locks_ = locks; }

 private:
  /// The C functions behind fill_ops: they call the handlers below and answer what those return.
  friend struct Ops;

  /// A file and its attributes, on the way to a reply.
  struct Entry {
    InodePtr inode;
    struct stat st {};
    bool known = false;  ///< the table had its number
  };

  // filesystem.cpp: what several handlers need. All return 0 or an errno.
  /// `expect_known`: tries find_known() first, which saves most of the work for files the table has
  /// and costs a system call for others.
  int find_child(Inode& parent, const char* name, Entry& entry, bool expect_known);
  int find_child(fuse_ino_t parent, const char* name, Entry& entry, bool expect_known);
  /// Finds a child without opening it; fd() of the inode may not be open. Nothing: whether the
  /// table has it cannot be told so.
  std::optional<int> find_known(const Inode& parent, const char* name, Entry& entry) noexcept;
  int find_by_nodeid(fuse_ino_t nodeid, Entry& entry);
  void note_lost_handle();
  int enter(UniqueFd path_fd, Entry& entry);
  /// Takes the caller's identity when the file has set-ID bits, so that the backing filesystem
  /// decides as for the caller whether a change takes these away.
  static int act_as_caller(fuse_req_t req, const Inode& inode,
                           std::optional<CallerIdentity>& identity);
  static bool may_be_mapped(Inode& inode) noexcept;
  [[nodiscard]] double attr_timeout(Inode& inode, const struct stat& st) const noexcept;
  static int read_attributes(Inode& inode, struct stat& st) noexcept;
  [[nodiscard]] fuse_entry_param entry_param(const Entry& entry) const noexcept;
  int reply_entry(fuse_req_t req, const Entry& entry);
  int reply_attributes(fuse_req_t req, Inode& inode);
  [[nodiscard]] bool is_below_source(int directory) const noexcept;
  // recovery.cpp
  bool restore(const HandleRecord& record);

  void run_housekeeping(const std::stop_token& stop);

  // The handlers return 0 or an errno. Those that have more to say than "done" answer success
  // themselves, as their last step.

  // metadata_ops.cpp
  void init(fuse_conn_info& conn) noexcept;
  int lookup(fuse_req_t req, fuse_ino_t parent, const char* name);
  void forget(fuse_ino_t nodeid, std::uint64_t count) noexcept;
  int getattr(fuse_req_t req, fuse_ino_t nodeid, fuse_file_info* fi);
  int setattr(fuse_req_t req, fuse_ino_t nodeid, struct stat* attr, int to_set, fuse_file_info* fi);
  int readlink(fuse_req_t req, fuse_ino_t nodeid);
  int access(fuse_req_t req, fuse_ino_t nodeid, int mask);
  int statfs(fuse_req_t req, fuse_ino_t nodeid);

  // name_ops.cpp
  /// Runs `create(parent's descriptor)`, a call returning 0 or -1 with errno, as the caller, and
  /// answers with the new entry.
  template <class Create>
  int make_entry(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t type,
                 const Create& create);
  int mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev);
  int mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode);
  int symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name);
  int link(fuse_req_t req, fuse_ino_t nodeid, fuse_ino_t parent, const char* name);
  static int guard_names(fuse_req_t req, const Inode& folder,
                         std::optional<CallerIdentity>& identity);
  /// A name is about to be taken away. What it stands for may be in use by the kernel and not be
  /// open here, as a device that is open or a working folder.
  void keep_removed(const Inode& folder, const char* name) noexcept;
  int remove_name(fuse_req_t req, fuse_ino_t parent, const char* name, int flags);
  int unlink(fuse_req_t req, fuse_ino_t parent, const char* name);
  int rmdir(fuse_req_t req, fuse_ino_t parent, const char* name);
  int rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
             const char* new_name, unsigned flags);

  // data_ops.cpp
  static int open_descriptor(fuse_req_t req, const Inode& inode, int flags, UniqueFd& fd);
  static int create_descriptor(fuse_req_t req, const Inode& directory, const char* name,
                               mode_t mode, int flags, UniqueFd& fd);
  int open(fuse_req_t req, fuse_ino_t nodeid, fuse_file_info* fi);
  int create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi);
  int read(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset, fuse_file_info* fi);
  int write(fuse_req_t req, fuse_ino_t nodeid, const char* data, size_t size, off_t offset,
            fuse_file_info* fi);
  int fsync(fuse_req_t req, fuse_ino_t nodeid, int datasync, fuse_file_info* fi);
  int fallocate(fuse_req_t req, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
                fuse_file_info* fi);
  int copy_file_range(fuse_req_t req, fuse_ino_t nodeid_in, off_t offset_in, fuse_file_info* fi_in,
                      fuse_ino_t nodeid_out, off_t offset_out, fuse_file_info* fi_out,
                      size_t length, int flags);
  int lseek(fuse_req_t req, fuse_ino_t nodeid, off_t offset, int whence, fuse_file_info* fi);
  int ioctl(fuse_req_t req, fuse_ino_t nodeid, unsigned command, void* argument, fuse_file_info* fi,
            unsigned flags, const void* in, size_t in_size, size_t out_size);

  // dir_ops.cpp
  int plus_param(const DirHandle& handle, const dirent64& entry, fuse_entry_param& param,
                 InodePtr& inode);
  int opendir(fuse_req_t req, fuse_ino_t nodeid, fuse_file_info* fi);
  int readdir(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset, fuse_file_info* fi);
  int readdirplus(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset, fuse_file_info* fi);
  int releasedir(fuse_req_t req, fuse_ino_t nodeid, fuse_file_info* fi);
  int fsyncdir(fuse_req_t req, fuse_ino_t nodeid, int datasync, fuse_file_info* fi);

  // xattr_ops.cpp
  int setxattr(fuse_req_t req, fuse_ino_t nodeid, const char* name, const char* value, size_t size,
               int flags);
  int getxattr(fuse_req_t req, fuse_ino_t nodeid, const char* name, size_t size);
  int listxattr(fuse_req_t req, fuse_ino_t nodeid, size_t size);
  int removexattr(fuse_req_t req, fuse_ino_t nodeid, const char* name);

  const Options& options_;
  Book& book_;
  const std::size_t descriptors_;  ///< the process's limit
  DescriptorShares shares_;        ///< before what the handles are in
  std::atomic<bool> told_of_shares_{false};
  fuse_session* session_ = nullptr;
  CacheTimes cache_times_;
  AccessTimes access_times_;
  StaleNames stale_names_;
  LockState* locks_ = nullptr;
  DataPassthroughTable passthrough_;  ///< before inodes_, which hold registrations
  InodeTable inodes_;
  HandleSet<Handle> files_;           ///< after what the handles refer to
  HandleSet<DirHandle> directories_;  ///< likewise
  ListingHabits habits_;
  /// What the last lookup found was known: a tree is either met for the first time, or its names
  /// have run out in the kernel's cache.
  std::atomic<bool> expect_known_{false};
  std::atomic_flag told_of_handles_;
  NfsWatch nfs_watch_;
  std::mutex idle_mutex_;
  std::condition_variable_any idle_stop_;
  std::jthread housekeeper_;  ///< last: it uses inodes_ and nfs_watch_
};

}  // namespace lockfs
