/// Who conflicts with whom, who waits for whom, and who has to give way: a policy is a value on
/// each of a few independent axes. A preset is a policy with a name.
///
/// No decision of the lock manager knows an axis: it asks the predicates below, which are all that
/// an axis can change: excludes(), space_of(), separates_flocks(), exempts_same_process(),
/// check_open_mode(), queues_behind_waiters(), turn(), reorders(), yields_to_outsiders(),
/// in_deadlock_detection(), knows_processes_by_cookie(), drops_refused_conversion(), guards(),
/// has_lease(), ...
///
/// lockmgr/README.md tells how to add a value, a preset or an axis. Options, reports, help and the
/// conflict matrix read the tables of policy.cpp.
///
/// A Policy is a plain value without strings, copied into every file: the predicates are branches
/// on fields that lie beside what they are asked about.
///
/// Thread safety: a value; no call changes anything but the object it is made on.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockmgr/owner.h"

namespace lockmgr {

// The values of each axis; kCount is their number.
enum class ConflictSpace : std::uint8_t { kUnified, kSeparate, kCount };
enum class SameProcess : std::uint8_t { kConflict, kExempt, kCount };
enum class OpenMode : std::uint8_t { kStrict, kRelaxed, kCount };
enum class Order : std::uint8_t { kFifo, kReaders, kWriters, kNewcomers, kCount };
enum class HandOver : std::uint8_t { kFair, kLocal, kCount };
enum class Deadlock : std::uint8_t { kProcess, kAll, kOff, kCount };
enum class Conversion : std::uint8_t { kKeep, kDrop, kCount };
enum class BypassGuard : std::uint8_t { kOff, kFlock, kCount };

/// The conflict spaces of a file. Locks in different ones never exclude each other, and each is
/// carried to the backing by a kind of lock of its own.
enum class Space : std::uint8_t {
  kRecords,  ///< as record locks, which is also what NFS clients' locks are there
  kFlocks,   ///< as flocks, which NFS clients do not see
};
inline constexpr std::array<Space, 2> kSpaces{Space::kRecords, Space::kFlocks};

/// An owner, and the process that the owner's present locks were taken by: fixed while the owner
/// holds or awaits any. 0: unknown.
struct Party {
  OwnerId owner;
  pid_t process = 0;
};

struct Axis;
struct Preset;

struct Policy {
  // -- the axes; the defaults are the preset "nfs"
  // -------------------------------------------------
  ConflictSpace conflict_space = ConflictSpace::kUnified;
  SameProcess same_process = SameProcess::kConflict;
  OpenMode open_mode = OpenMode::kStrict;
  Order order = Order::kFifo;
  HandOver hand_over = HandOver::kFair;
  Deadlock deadlock = Deadlock::kProcess;
  Conversion conversion = Conversion::kKeep;
  BypassGuard guard = BypassGuard::kOff;
  std::uint32_t lease = 0;          ///< seconds; 0: none
  std::uint32_t lease_waiters = 0;  ///< requests; 0: no bound

  friend bool operator==(const Policy&, const Policy&) = default;

  // -- names -------------------------------------------------------------------------------------
  /// Every axis, in the order in which they are listed.
  static std::span<const Axis> axes();
  static const Axis* find_axis(std::string_view name);
  /// Every preset, the default first.
  static std::span<const Preset> presets();
  static std::vector<std::string_view> names();
  /// The preset called `name`, or nothing.
  static std::optional<Policy> named(std::string_view name);
  /// Sets one axis by name. Returns "", or what is wrong in one line that names what is known.
  std::string set(std::string_view axis, std::string_view value);
  /// Reads "PRESET[,AXIS=VALUE...]" (the preset may be left out: then on top of `base`). Returns ""
  /// and fills `parsed`, or what is wrong; `parsed` is left alone then.
  static std::string parse(std::string_view text, const Policy& base, Policy& parsed);
  /// The nearest preset and what differs from it, as parse() reads it: "nfs,fairness=readers".
  std::string text() const;

  // -- predicates --------------------------------------------------------------------------------
  /// Whether locks of `a` and `b` exclude each other on a common byte, given that their modes
  /// conflict. An NFS client presents the flock and the OFD locks of one open file to its server
  /// under one lock owner (nfs4_get_lock_state() keys on fl_owner, the struct file for both), so
  /// these two never exclude each other. Symmetric.
  bool excludes(const Party& a, const Party& b) const {
    if (a.owner == b.owner) return false;
    const bool a_flock = a.owner.type == OwnerType::kFlock;
    if (a_flock == (b.owner.type == OwnerType::kFlock)) return true;
    if (separates_flocks()) return false;
    if (exempts_same_process() && a.process != 0 && a.process == b.process) {
      return false;
    }
    return a.owner.cookie != b.owner.cookie || a.owner.type == OwnerType::kProcess ||
           b.owner.type == OwnerType::kProcess;
  }

  /// Whether a flock and a record lock of one process go together.
  bool exempts_same_process() const { return same_process == SameProcess::kExempt; }

  /// Where an owner of this type has its locks.
  Space space_of(OwnerType type) const {
    return separates_flocks() && type == OwnerType::kFlock ? Space::kFlocks : Space::kRecords;
  }
  /// Whether flocks have a conflict space of their own.
  bool separates_flocks() const { return conflict_space == ConflictSpace::kSeparate; }
  /// Whether every owner has its locks in the same space as under `other`.
  bool places_like(const Policy& other) const { return conflict_space == other.conflict_space; }

  /// Checks the open mode a flock needs: 0, or EBADF as from an NFS client (nfs_flock(), since its
  /// server-side lock is a POSIX lock). The kernel checks the other types before anybody is asked.
  [[nodiscard]] int check_open_mode(OwnerType type, Mode mode, bool readable, bool writable) const;

  /// Whether a blocking request queues behind a waiter it conflicts with and whose turn comes
  /// before its own, although nothing granted stands in its way.
  bool queues_behind_waiters() const { return order != Order::kNewcomers; }

  /// The turn of a request that was the `arrival`-th to come: the smaller goes first.
  std::uint64_t turn(Mode mode, std::uint64_t arrival) const {
    const bool later = (order == Order::kReaders && mode == Mode::kExclusive) ||
                       (order == Order::kWriters && mode == Mode::kShared);
    return later ? arrival | kLaterTurn : arrival;
  }
  /// Whether turn() lets later requests pass earlier ones, whose patience is then bounded.
  bool reorders() const { return order == Order::kReaders || order == Order::kWriters; }

  /// Whether outsiders who wait at the backing get their turn when a lock is handed over.
  bool yields_to_outsiders() const { return hand_over == HandOver::kFair; }

  /// Whether a request of an owner of this type is refused with EDEADLK when it would close a
  /// cycle. POSIX defines it for process-owned locks only; an open file may be released by another
  /// process.
  bool in_deadlock_detection(OwnerType type) const {
    if (deadlock == Deadlock::kProcess) return type == OwnerType::kProcess;
    return deadlock == Deadlock::kAll;
  }
  /// Whether the wait-for graph is of processes alone, each named by the cookie of its owners; else
  /// threads, which may use several owners, have to be told apart too.
  bool knows_processes_by_cookie() const { return deadlock == Deadlock::kProcess; }
  /// Whether every cycle found under `other` is found under this one, and no more.
  bool finds_cycles_like(const Policy& other) const { return deadlock == other.deadlock; }

  /// Whether a request that would change the mode of what the owner holds, and is refused or has to
  /// wait, costs it the old lock (flock_lock_inode() of Linux deletes it before it looks).
  bool drops_refused_conversion(OwnerType type) const {
    return conversion == Conversion::kDrop && type == OwnerType::kFlock;
  }

  /// Whether the strongest mode granted anywhere on a file is also carried as a flock of the whole
  /// file. Where flocks are carried as flocks already it has no say: there they are a world apart.
  bool guards() const { return guard == BypassGuard::kFlock && !separates_flocks(); }

  /// Whether locks that others wait for can be broken: after `lease` seconds of waiting, or when
  /// more than `lease_waiters` requests wait, as GlusterFS's revocation does. Looked at by
  /// LockManager::relent().
  bool has_lease() const { return lease != 0 || lease_waiters != 0; }
  /// Whether a lock may be broken that somebody has waited for that long.
  bool outlasts_lease(std::chrono::nanoseconds waited) const {
    return lease != 0 && waited >= std::chrono::seconds(lease);
  }
  /// How many may wait for a lock before it may be broken; nothing: any number.
  std::optional<std::uint32_t> most_waiters() const {
    return lease_waiters != 0 ? std::optional(lease_waiters) : std::nullopt;
  }

  /// A turn with this bit comes after all turns without.
  static constexpr std::uint64_t kLaterTurn = std::uint64_t{1} << 63;
};

/// A value of an axis, and whose behaviour it follows.
struct AxisValue {
  std::string_view name;  ///< in capitals: stands for a whole number
  std::string_view follows;
};

/// How one field of Policy is called and read.
struct Axis {
  std::string_view name;      ///< as options spell it
  std::string_view question;  ///< what it decides
  std::span<const AxisValue> values;
  std::string (*get)(const Policy&);
  bool (*set)(Policy&, std::string_view value);  ///< false: no such value
};

struct Preset {
  std::string_view name;
  std::string_view follows;  ///< whose behaviour it is, or what it is for
  Policy policy;
};

}  // namespace lockmgr
