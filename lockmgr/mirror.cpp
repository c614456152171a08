#include "lockmgr/mirror.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <new>
#include <tuple>
#include <utility>
#include <vector>

#include "lockmgr/pages.h"
#include "lockmgr/views.h"

namespace lockmgr {

void Coverage::for_each(const std::function<bool(const Range&, Mode)>& visit) const {
  for (Offset at = 0;;) {
    Offset last = at;
    const Mode mode = granted_.mode_at(space_, at, kEof, nullptr, &last);
    if (mode != Mode::kNone && !visit({at, last}, mode)) return;
    if (last == kEof) return;
    at = last + 1;
  }
}

// -- looking -------------------------------------------------------------------------------------

Reply Mirror::test(Space space, const Range& range, Mode mode,
                   std::optional<OutsideLock>& found) const noexcept {
  const Reply reply = backing(space).test(range, mode, found);
  if (!reply.is_done() || found || !granted_.policy().guards() || guard_ >= mode) return reply;
  return backing(Space::kFlocks).test(kWholeFile, mode, found);
}

bool Mirror::outsider_refuses(Space space, const Range& range, Mode mode,
                              bool unknown) const noexcept {
  std::optional<OutsideLock> found;
  return test(space, range, mode, found).is_done() ? found.has_value() : unknown;
}

std::optional<Range> Mirror::awaited_part(const Request& request) const {
  const Range& range = request.range;
  std::optional<Range> free;
  Offset at = range.first;
  // Nothing granted is in the way: what is exclusive there is the owner's, or goes together with
  // it.
  const LockSpace& space = granted_.space_of(request.owner);
  while (const Lock* own = space.exclusive.first_overlap({at, range.last}, kFullReach, kAnyLock)) {
    if (own->range.first > at) {
      free = Range{at, own->range.first - 1};
      // A wait for a part that no outsider has would end at once, in vain.
      if (outsider_refuses(granted_.policy().space_of(request.owner.type), *free, request.mode,
                           true)) {
        return free;
      }
    }
    if (own->range.last >= range.last) return free;
    at = own->range.last + 1;
  }
  return Range{at, range.last};
}

// -- changing what is carried --------------------------------------------------------------------

Reply Mirror::set(Space space, const Range& range, Mode mode, bool unlocking) noexcept {
  if (!carries_) {
    remember(space, range, mode, Reply::done());
    return Reply::done();
  }
  // An exclusive lock may make the backing start afresh, without what waits have taken.
  outside_.disturb(space, mode == Mode::kExclusive ? kWholeFile : range);
  Context& context = reports_.context();
  // The clock costs a tenth of what a call on a local file does.
  const bool timed = context.counters.add(Counter::kBackingCalls) % kTimedCalls == 0;
  const auto begin = timed ? Clock::now() : Clock::time_point{};
  const Reply reply = backing(space).set(range, mode, Coverage(granted_, space));
  if (timed) context.timings.record(Timing::kBackingCalls, Clock::now() - begin);
  remember(space, range, mode, reply);
  if (reply.kind == Reply::Kind::kFailed) {
    reports_.backing_failed(range, mode, reply.error, unlocking);
  } else if (reply.is_refused() && unlocking) {
    reports_.backing_failed(range, mode, EAGAIN, unlocking);
  }
  return reply;
}

/// For check(): what the backing says to set(), or kDone when a wait has taken its lock.
void Mirror::remember([[maybe_unused]] Space space, [[maybe_unused]] const Range& range,
                      [[maybe_unused]] Mode mode, [[maybe_unused]] const Reply& reply) noexcept {
#ifdef LOCKMGR_CHECK_INVARIANTS
  CarriedRecord& told = told_[static_cast<std::size_t>(space)];
  if (reply.is_done()) told.set(range, mode);
  if (reply.kind == Reply::Kind::kNoAnswer) told.doubt(range);
#endif
}

Reply Mirror::raise(const Owner& owner, const Range& range, Mode mode) noexcept {
  if (mode == Mode::kShared && granted_.space_of(owner.id).exclusive.first_overlap(
                                   range, reach_without(&owner), not_of(&owner)) != nullptr) {
    return raise_beside_others(owner, range);
  }
  return set(granted_.policy().space_of(owner.id.type), range, mode, false);
}

/// A shared lock beside exclusive ones of owners that the policy exempts: those must stay. Example:
/// the flock of one open file holds 20-29 exclusively, its OFD owner 0-9, which is now to share
/// 0-49. What is free (10-19 and 30-49) comes first, since outsiders may refuse it, and what they
/// refuse can be undone only while nothing was weakened; then 0-9, which is the owner's own.
Reply Mirror::raise_beside_others(const Owner& owner, const Range& range) noexcept {
  const Space space = granted_.policy().space_of(owner.id.type);
  for (const bool weaken : {false, true}) {
    for (Offset at = range.first;;) {
      Offset last = at;
      const Mode now = granted_.mode_at(space, at, range.last, nullptr, &last);
      const Mode others = granted_.mode_at(space, at, last, &owner, &last);
      const bool due = weaken ? now == Mode::kExclusive && others != now : now == Mode::kNone;
      const Reply reply = due ? set(space, {at, last}, Mode::kShared, false) : Reply::done();
      if (!reply.is_done()) {
        restore(space, range);
        return reply;
      }
      if (last >= range.last) break;
      at = last + 1;
    }
  }
  return Reply::done();
}

void Mirror::lower_to_others(const Owner& owner, const Range& part, Mode held) noexcept {
  const Space space = granted_.policy().space_of(owner.id.type);
  for (Offset at = part.first;;) {
    Offset last = at;
    const Mode others = granted_.mode_at(space, at, part.last, &owner, &last);
    if (others < held && !set(space, {at, last}, others, true).is_done()) {
      mark_stale(space, {at, last});
    }
    if (last >= part.last) return;
    at = last + 1;
  }
}

void Mirror::lower(const Owner& owner, const Range& range) noexcept {
  const auto begin = owner.locks.from(range.first);
  if (begin == owner.locks.end() || begin->range.first > range.last) return;
  auto end = begin;
  Offset last = 0;
  for (; end != owner.locks.end() && end->range.first <= range.last; ++end) last = end->range.last;
  const Range held{std::max(begin->range.first, range.first), std::min(last, range.last)};
  const auto reach = reach_without(&owner);
  const auto counts = not_of(&owner);
  const LockSpace& space = granted_.space_of(owner.id);
  if (space.exclusive.first_overlap(held, reach, counts) == nullptr &&
      space.shared.first_overlap(held, reach, counts) == nullptr) {
    const Space where = granted_.policy().space_of(owner.id.type);
    if (!set(where, held, Mode::kNone, true).is_done()) mark_stale(where, held);
    return;
  }
  for (auto it = begin; it != end; ++it) {
    lower_to_others(owner,
                    {std::max(it->range.first, range.first), std::min(it->range.last, range.last)},
                    it->mode);
  }
}

bool Mirror::restore(Space space, const Range& range) noexcept {
  bool well = true;
  for (Offset at = range.first;;) {
    Offset last = at;
    const Mode mode = granted_.mode_at(space, at, range.last, nullptr, &last);
    well = set(space, {at, last}, mode, true).is_done() && well;
    if (last >= range.last) break;
    at = last + 1;
  }
  if (!well) mark_stale(space, range);
  return well;
}

void Mirror::repair_stale() noexcept {
  for (const Space space : kSpaces) {
    if (const auto range = stale(space).take()) restore(space, *range);
  }
  if (granted_.policy().guards()) set_guard(false);
}

void Mirror::doubt_all() noexcept {
  for (const Space space : kSpaces) {
    mark_stale(space, kWholeFile);
    remember(space, kWholeFile, Mode::kNone, Reply::no_answer());
  }
}

void Mirror::adopt() noexcept {
  guard_ = Mode::kNone;
  std::ignore = stale(Space::kFlocks).take();
  if (granted_.policy().guards()) {
    set_guard(true);
  } else if (&backing_->flocks() != backing_.get()) {
    // Also where flocks are none of their own: a policy before may have had a guard.
    restore(Space::kFlocks, kWholeFile);
  }
  std::ignore = stale(Space::kRecords).take();
  if (!restore_differences()) restore(Space::kRecords, kWholeFile);
}

/// Sets right what the backing says it does not carry as it should among very many ranges. Returns
/// whether it did; false without a call where there are few, or the backing cannot tell.
bool Mirror::restore_differences() noexcept try {
  // Below that to set them all takes less time than to ask.
  constexpr std::size_t kFew = 64;
  std::vector<CarriedLock> granted;
  Coverage(granted_, Space::kRecords).for_each([&](const Range& range, Mode mode) {
    granted.push_back({range, mode});
    return true;
  });
  if (granted.size() <= kFew || !carries_) return false;
  const Backing::Inspector inspect = backing_->inspector();
  std::vector<CarriedLock> carried;
  if (!inspect || !inspect(carried)) return false;
  std::vector<Difference> differences;
  compare(granted, std::move(carried), {}, SIZE_MAX, differences);
  remember(Space::kRecords, kWholeFile, Mode::kNone, Reply::done());
  for (const CarriedLock& lock : granted) {
    remember(Space::kRecords, lock.range, lock.mode, Reply::done());
  }
  for (const Difference& difference : differences) {
    remember(Space::kRecords, difference.range, difference.carried, Reply::done());
    if (!set(Space::kRecords, difference.range, difference.granted, true).is_done()) {
      mark_stale(Space::kRecords, difference.range);
    }
  }
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

void Mirror::take_over(const OutsideWait& wait) noexcept {
  // It may have weakened what an exclusive wait of the same owner took before it.
  if (wait.mode == Mode::kShared) outside_.disturb(wait.space, wait.range);
  remember(wait.space, wait.range, wait.mode, Reply::done());
}

// -- the bypass guard ----------------------------------------------------------------------------

Reply Mirror::raise_guard(Mode mode, const OutsideWait* have) noexcept {
  if (have != nullptr && have->space == Space::kFlocks && !have->disturbed) guard_ = have->mode;
  if (guard_ >= mode) return Reply::done();
  const Reply reply = set(Space::kFlocks, kWholeFile, mode, false);
  if (reply.is_done()) guard_ = mode;
  return reply;
}

void Mirror::set_guard(bool anew) noexcept {
  const Mode wanted = granted_.policy().guards() ? granted_.strongest() : Mode::kNone;
  if (guard_ == wanted && !anew) return;
  const bool set_now = set(Space::kFlocks, kWholeFile, wanted, false).is_done();
  guard_ = set_now ? wanted : Mode::kNone;  // else tried again with the next request
  if (!set_now) remember(Space::kFlocks, kWholeFile, wanted, Reply::no_answer());
}

void Mirror::drop_guard() noexcept {
  if (guard_ == Mode::kNone) return;
  if (!set(Space::kFlocks, kWholeFile, Mode::kNone, true).is_done()) {
    remember(Space::kFlocks, kWholeFile, Mode::kNone, Reply::no_answer());
  }
  guard_ = Mode::kNone;
}

// -- invariants ----------------------------------------------------------------------------------

/// Invariant 0 in one space.
const char* Mirror::check_carried([[maybe_unused]] Space space) const {
#ifdef LOCKMGR_CHECK_INVARIANTS
  const CarriedRecord& told = told_[static_cast<std::size_t>(space)];
  const Bounds& stale = stale_[static_cast<std::size_t>(space)];
  for (Offset at = 0;;) {
    Offset last = at;
    const Mode mode = granted_.mode_at(space, at, kEof, nullptr, &last);
    if (!stale.overlaps({at, last}) && !told.agrees({at, last}, mode)) {
      return "the backing does not carry the strongest mode granted";
    }
    if (last == kEof) return nullptr;
    at = last + 1;
  }
#endif
  return nullptr;
}

const char* Mirror::check() const {
  if (const char* broken = check_carried(Space::kRecords)) return broken;
  if (granted_.policy().separates_flocks()) {
    return guard_ == Mode::kNone ? check_carried(Space::kFlocks)
                                 : "a guard without a policy for it";
  }
#ifdef LOCKMGR_CHECK_INVARIANTS
  const CarriedRecord& told = told_[static_cast<std::size_t>(Space::kFlocks)];
  const Mode wanted = granted_.policy().guards() ? granted_.strongest() : Mode::kNone;
  if (!told.agrees(kWholeFile, wanted)) return "the guard is not the strongest mode granted";
  if (guard_ != wanted && !(guard_ == Mode::kNone && told.is_doubtful())) {
    return "guard() is not what the backing carries";
  }
#endif
  return nullptr;
}

}  // namespace lockmgr
