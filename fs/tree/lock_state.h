/// What the tree knows of locks: that they keep something with an inode and an open file, and
/// whether a file's are in use. The lock operations (fs/locks) implement it.
///
/// Thread safety: said at each member.
#pragma once

namespace lockfs {

class Filesystem;
class Inode;

/// What the lock operations keep with an inode or an open file; only they look inside.
class LockAttachment {
 public:
  LockAttachment() = default;
  virtual ~LockAttachment() = default;
  LockAttachment(const LockAttachment&) = delete;
  LockAttachment& operator=(const LockAttachment&) = delete;
};

class LockState {
 public:
  /// Whether locks on the file are held or awaited through this mount, or were granted less than a
  /// second ago. From any thread; does not block.
  [[nodiscard]] virtual bool in_use(Inode& inode) noexcept = 0;

 protected:
  LockState() = default;
  ~LockState() = default;
  LockState(const LockState&) = default;
  LockState& operator=(const LockState&) = default;
};

/// The two halves of a mount: the user data of its session, from which every handler finds its own.
struct Mount {
  Filesystem& filesystem;
  LockState& locks;
};

}  // namespace lockfs
