/// The floor that lock calls through FUSE are measured against: a filesystem of one file whose
/// daemon answers every lock request with success at once, one thread reading and answering.
///
/// usage: bench_null_daemon MOUNTPOINT
///
/// Runs in the foreground until unmounted or signalled; prints "ready" once the mount is usable.
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace {

constexpr fuse_ino_t kFile = 2;
constexpr const char* kFileName = "file";
constexpr double kTimeout = 3600;

struct stat attributes(fuse_ino_t ino) {
  struct stat st = {};
  st.st_ino = ino;
  st.st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0666;
  st.st_nlink = 1;
  return st;
}

void init(void* /*userdata*/, fuse_conn_info* /*conn*/) {
  std::puts("ready");
  std::fflush(stdout);
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (parent != FUSE_ROOT_ID || std::strcmp(name, kFileName) != 0) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  fuse_entry_param entry = {};
  entry.ino = kFile;
  entry.attr = attributes(kFile);
  entry.attr_timeout = kTimeout;
  entry.entry_timeout = kTimeout;
  fuse_reply_entry(req, &entry);
}

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info* /*fi*/) {
  const struct stat st = attributes(ino);
  fuse_reply_attr(req, &st, kTimeout);
}

void open(fuse_req_t req, fuse_ino_t /*ino*/, fuse_file_info* fi) { fuse_reply_open(req, fi); }

void succeed(fuse_req_t req, fuse_ino_t /*ino*/, fuse_file_info* /*fi*/) { fuse_reply_err(req, 0); }

void getlk(fuse_req_t req, fuse_ino_t /*ino*/, fuse_file_info* /*fi*/, struct flock* lock) {
  lock->l_type = F_UNLCK;
  fuse_reply_lock(req, lock);
}

void setlk(fuse_req_t req, fuse_ino_t /*ino*/, fuse_file_info* /*fi*/, struct flock* /*lock*/,
           int /*sleep*/) {
  fuse_reply_err(req, 0);
}

void flock_op(fuse_req_t req, fuse_ino_t /*ino*/, fuse_file_info* /*fi*/, int /*operation*/) {
  fuse_reply_err(req, 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench_null_daemon MOUNTPOINT\n");
    return 2;
  }

  fuse_lowlevel_ops ops = {};
  ops.init = init;
  ops.lookup = lookup;
  ops.getattr = getattr;
  ops.open = open;
  ops.flush = succeed;
  ops.release = succeed;
  ops.getlk = getlk;
  ops.setlk = setlk;
  ops.flock = flock_op;

  fuse_args args = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&args, argv[0]);
  fuse_opt_add_arg(&args, "-ofsname=bench_null_daemon,subtype=bench_null");
  fuse_session* session = fuse_session_new(&args, &ops, sizeof ops, nullptr);
  int status = 1;
  if (session != nullptr && fuse_set_signal_handlers(session) == 0) {
    if (fuse_session_mount(session, argv[1]) == 0) {
      status = fuse_session_loop(session) < 0 ? 1 : 0;
      fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
  }
  if (session != nullptr) fuse_session_destroy(session);
  fuse_opt_free_args(&args);
  return status;
}
