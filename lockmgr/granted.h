/// What is granted on one file, and to whom: the bytes, without those who wait and without the
/// backing.
///
/// Granted locks lie in B+-trees, the exclusive and the shared ones of each conflict space, which
/// also know the farthest byte that an owner *other than the asker* reaches beneath each node; so
/// the search for a conflict stays logarithmic even among a million locks of the asker itself. Each
/// owner has its own locks in order besides: they are disjoint, and neighbours of equal mode are
/// merged, as POSIX asks.
///
/// Where there is a Journal each change is written down as it is made, in the order that journal.h
/// asks for; what a process before has written down is put back by restore().
///
/// Thread safety: guarded by the mutex of its file; takes none.
///
/// Invariants (check() verifies them):
///  1. Two granted locks of owners that exclude each other do not overlap unless both are shared,
///     or the policy has been switched since the older was granted.
///  2. An owner's locks are disjoint; neighbours that touch differ in mode.
///  3. Every granted lock is in the tree of its space and mode, and among its owner's.
///  4. An owner's tally is the number of its locks.
///  5. An owner without locks and waiters is one of the few that its Opened keeps.
///  6. Where there is a Journal each granted lock is written down there in a record of its own, and
///     nothing else is.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <boost/intrusive/unordered_set.hpp>
#include <cstdint>
#include <memory>
#include <utility>

#include "lockmgr/accounting.h"
#include "lockmgr/journal.h"
#include "lockmgr/lock_trees.h"
#include "lockmgr/owner.h"
#include "lockmgr/owner_table.h"
#include "lockmgr/policy.h"
#include "lockmgr/range.h"

namespace lockmgr {

namespace bi = boost::intrusive;

class Opened;

/// Somebody who holds or awaits locks on a file. Guarded by the mutex of the file.
struct Owner {
  Owner(Ledger& ledger, const OwnerId& owner_id, const Caller& who)
      : id(owner_id), caller(who), tally(ledger, who.uid, Tally::Kind::kLocks) {}

  bool idle() const { return locks.empty() && waiting == 0; }
  Party party() const { return {id, process}; }
  /// Whether it holds anything within `range`.
  bool holds(const Range& range) const {
    const auto first = locks.from(range.first);
    return first != locks.end() && first->range.first <= range.last;
  }
  /// The bounds of what it holds within `range`. REQUIRES: holds(range).
  Range bounds(const Range& range) const {
    // Locks are disjoint: the last one that begins within the range also ends last.
    return common({locks.from(range.first)->range.first, locks.last_from(range.last)->range.last},
                  range);
  }

  const OwnerId id;
  Caller caller;      ///< who asked last
  pid_t process = 0;  ///< who asked when it was last idle; see Party
  HeldTree locks;
  std::uint32_t waiting = 0;  ///< parked requests
  Tally tally;
  Opened* opened = nullptr;  ///< the open file it first came through; null once that closed
  bool kept = false;         ///< it is in Opened::idle_, not in Opened::busy_
  bi::list_member_hook<> opened_hook;
  bi::unordered_set_member_hook<> table_hook;
};
using OwnerList =
    bi::list<Owner, bi::member_hook<Owner, bi::list_member_hook<>, &Owner::opened_hook>,
             bi::constant_time_size<false>>;

/// An open file description as the manager sees it: what modes it may take, and the owners that
/// first came through it. Its holder passes it to FileLocks and must close() it there before it is
/// destroyed. Fields are guarded by the mutex of the file.
class Opened {
 public:
  /// `name`: what its holder finds it by in a Journal.
  Opened(bool readable, bool writable, std::uint64_t name = 0)
      : name_(name), readable_(readable), writable_(writable) {}
  ~Opened() = default;
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;

  bool readable() const { return readable_; }
  bool writable() const { return writable_; }
  std::uint64_t name() const { return name_; }

 private:
  friend class Granted;
  friend class Queue;

  const std::uint64_t name_;
  const bool readable_;
  const bool writable_;
  OwnerList busy_;            ///< with locks or waiters, or about to ask
  OwnerList idle_;            ///< kept for their next request; the last to become idle comes first
  std::uint32_t parked_ = 0;  ///< requests that came through it and wait
};

/// The granted locks of a conflict space.
struct LockSpace {
  bool empty() const { return exclusive.empty() && shared.empty(); }
  LockTree& tree(Mode mode) { return mode == Mode::kExclusive ? exclusive : shared; }
  const LockTree& tree(Mode mode) const { return mode == Mode::kExclusive ? exclusive : shared; }

  LockTree exclusive;
  LockTree shared;
};

class Granted {
 public:
  /// `journal`: null where nothing is to be written down.
  explicit Granted(const Policy& policy, std::unique_ptr<Journal> journal = nullptr)
      : policy_(policy), journal_(std::move(journal)) {}
  Granted(const Granted&) = delete;
  Granted& operator=(const Granted&) = delete;

  /// Who excludes whom, here and in the other parts of the file.
  const Policy& policy() const { return policy_; }
  /// How often the policy was switched.
  std::uint16_t epoch() const { return epoch_; }

  // -- looking -----------------------------------------------------------------------------------
  /// A lock in the way of such a request, or null. `self` is the asker, null when it holds nothing.
  const Lock* find_conflict(const Party& party, const Owner* self, const Range& range,
                            Mode mode) const;
  /// As find_conflict(), but of all that are in the way the one that blocks the first byte.
  const Lock* first_conflict(const Party& party, const Owner* self, const Range& range,
                             Mode mode) const;
  /// Calls visit(lock) for every lock in the way of such a request, until it returns false.
  template <typename Visit>
  void for_each_conflict(const Party& party, const Owner* self, const Range& range, Mode mode,
                         const Visit& visit) const {
    const auto reach = reach_without(self);
    const auto check = [&](const Lock& l) {
      return l.owner == self || !policy_.excludes(l.owner->party(), party) || visit(l);
    };
    const LockSpace& space = space_of(party.owner);
    if (space.exclusive.for_each_overlap(range, reach, check) && mode == Mode::kExclusive) {
      space.shared.for_each_overlap(range, reach, check);
    }
  }
  /// The strongest mode that owners other than `left_out` hold at `at`, and in `last` how far,
  /// within `limit`, that is certain.
  Mode mode_at(Space where, Offset at, Offset limit, const Owner* left_out, Offset* last) const;
  /// Whether shared locks are known to cover all of `range`.
  static bool covered(const LockSpace& space, const Range& range);
  /// What is granted anywhere on the file as record locks.
  Mode strongest() const;
  /// Nothing is granted.
  bool empty() const { return spaces_[0].empty() && spaces_[1].empty(); }

  const LockSpace& space(Space where) const { return spaces_[static_cast<std::size_t>(where)]; }
  const LockSpace& space_of(const OwnerId& id) const { return space(policy_.space_of(id.type)); }
  /// The exclusive trees of all spaces, then the shared ones.
  std::array<const LockTree*, 2 * kSpaces.size()> trees() const {
    return {&spaces_[0].exclusive, &spaces_[1].exclusive, &spaces_[0].shared, &spaces_[1].shared};
  }

  // -- owners ------------------------------------------------------------------------------------
  const OwnerTable<Owner>& owners() const { return owners_; }
  Owner* find_owner(const OwnerId& id) const { return owners_.find(id); }
  /// The owner for whom `caller` asks now through `opened`, made if need be. May throw
  /// std::bad_alloc.
  Owner& get_owner(Opened& opened, const OwnerId& id, const Caller& caller, Ledger& ledger);
  /// An owner without locks and waiters is kept for its next request, or destroyed.
  void drop_if_idle(Owner& owner) noexcept {
    if (owner.idle() && !owner.kept) drop(owner);
  }
  /// The owner no longer belongs to the open file that it came through: destroyed if it is idle.
  void part_from_opened(Owner& owner) noexcept;
  /// An owner that was parted from its open file is about to get a lock through `opened`.
  static void join_opened(Owner& owner, Opened& opened) noexcept;
  /// One of those that belong to `opened`, or null.
  static Owner* any_owner(Opened& opened) noexcept;

  // -- changing ----------------------------------------------------------------------------------
  /// How many locks more the owner would have, were `mode` granted on `range`.
  static std::uint64_t growth(const Owner& owner, const Range& range, Mode mode);
  /// Takes the memory for commit(), before anything is changed. Returns 0 or ENOLCK.
  [[nodiscard]] int reserve(Owner& owner, const Range& range, Mode mode) noexcept;
  /// `owner` is about to lose what it has within `range`: should the process die before commit(),
  /// the next one makes the change. To be called before anybody else may have got what is lost.
  void announce_loss(const Owner& owner, const Range& range) noexcept {
    if (journal_ != nullptr) journal_->begin(owner.id, range, Mode::kNone);
  }
  /// Makes what `owner` holds on `range` exactly `mode`. REQUIRES: reserve() has provided for it.
  /// `seconds`: the time of a grant.
  void commit(Owner& owner, const Range& range, Mode mode, std::uint32_t seconds) noexcept;

  // -- putting back what a process before has written down ----------------------------------------
  /// FileLocks::restore(). The latest epoch seen becomes the present one, unless locks of it
  /// exclude each other. REQUIRES: there is a journal.
  [[nodiscard]] int restore(Opened& opened, const Journal::Entry& entry, Journal::Record record,
                            Ledger& ledger) noexcept;
  /// FileLocks::finish_change(). REQUIRES: there is a journal.
  [[nodiscard]] int finish_change(const OwnerId& id, const Range& range, Mode mode,
                                  std::uint32_t seconds) noexcept;

  /// Follows another policy from now on, with flocks in the trees of the space that it has them in.
  /// Locks granted so far are of an older epoch. Returns false for want of memory: then the policy
  /// stays, and nothing else has changed.
  bool follow(const Policy& policy) noexcept;
  /// The policy of a file on which nothing has happened yet.
  void begin_with(const Policy& policy) noexcept { policy_ = policy; }

  /// Verifies the invariants. Returns nullptr or what is broken.
  const char* check() const;

 private:
  const Lock* find_conflict_in(const LockTree& tree, const Party& party, const Owner* self,
                               const Range& range) const;
  const Lock* find_further_conflict(const LockTree& tree, const Party& party, const Owner* self,
                                    const Range& range) const;
  LockTree& tree_of(const Owner& owner, Mode mode) {
    return spaces_[static_cast<std::size_t>(policy_.space_of(owner.id.type))].tree(mode);
  }
  const LockTree& tree_of(const Owner& owner, Mode mode) const {
    return space_of(owner.id).tree(mode);
  }
  /// Whether `lock` and another, both of that epoch, exclude each other and overlap.
  bool conflicts_within(std::uint16_t epoch, const Lock& lock) const;
  void drop(Owner& owner) noexcept;
  void remove_owner(Owner& owner) noexcept;
  static void leave_opened(Owner& owner) noexcept;
  int provide(Owner& owner, const Range& range, Mode mode, unsigned records) noexcept;
  static bool is_so(const Owner& owner, const Held& wanted);
  void absorb(Held& fresh, const Held& held) const;
  Held merged(const Owner& owner, Held fresh) const;
  Journal::Record write_down(const Owner& owner, const Held& held) noexcept;
  void put(Owner& owner, const Range& range, Held fresh) noexcept;
  void trim(Owner& owner, const Held& held, const Range& range) noexcept;
  void add(Owner& owner, const Held& held) noexcept;
  void shorten(Owner& owner, const Held& held, Offset last) noexcept;
  void remove(Owner& owner, const Held& held) noexcept;
  bool move_flocks(const Policy& to) noexcept;
  const char* check_trees(std::size_t& locks) const;
  const char* check_owner(const Owner& owner) const;

  Policy policy_;
  const std::unique_ptr<Journal> journal_;
  std::array<LockSpace, kSpaces.size()> spaces_;
  OwnerTable<Owner> owners_;
  std::uint16_t epoch_ = 0;
};

}  // namespace lockmgr
