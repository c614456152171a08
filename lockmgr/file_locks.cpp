#include "lockmgr/file_locks.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <tuple>
#include <utility>

#include "lockmgr/change.h"

namespace lockmgr {

namespace {

/// What a caller is told of an answer of the backing that is not yes.
int errno_of(const Reply& reply) {
  if (reply.is_refused()) return EAGAIN;
  return reply.is_open() ? EINPROGRESS : reply.error;
}

/// Whoever is ready to wait for a lock also waits for a backing that does not answer.
bool must_wait(const Reply& reply, const Request& request) {
  return reply.is_refused() || (reply.is_open() && request.wait);
}

}  // namespace

FileLocks::FileLocks(Context& context, const FileKey& key, std::unique_ptr<Backing> backing,
                     std::unique_ptr<Journal> journal)
    : key_(key),
      reports_(context, this),
      granted_(Policy{}, std::move(journal)),
      mirror_(std::move(backing), granted_, outside_, reports_) {}

FileLocks::~FileLocks() { context().registry.forget(*this); }

// -- a request comes -----------------------------------------------------------------------------

/// One look at a request that has come. Returns what it is answered; if it has to wait, what
/// waits(owner, attempt) says. May throw std::bad_alloc; then nothing has changed.
template <typename Waits>
std::optional<int> FileLocks::decide(Opened& opened, const Request& request, const Parking& parking,
                                     Outcomes& out, const Waits& waits) {
  const Policy& policy = this->policy();
  if (const int error = policy.check_open_mode(request.owner.type, request.mode, opened.readable(),
                                               opened.writable())) {
    return error;
  }
  mirror_.repair();
  if (request.mode == Mode::kNone) return unlock_now(request, out);
  Owner& owner = granted_.get_owner(opened, request.owner, request.caller, context().ledger);
  const Turn turn{.turn = queue_.turn_of(policy, request),
                  .queues = Queue::queues(policy, request),
                  .refusal = parking.refusal};
  const Attempt tried = attempt(owner, request, turn, out);
  // What a request that was parked before had to convert went then.
  if (!parking.since) drop_refused_conversion(owner, request, tried.verdict, out);
  if (const auto result = answer(owner, request, tried)) return result;
  return waits(owner, tried);
}

std::optional<int> FileLocks::try_now(Opened& opened, const Request& request,
                                      Refusal* refusal) noexcept {
  // What is in no cache comes all at once then, not line by line as it is met.
  constexpr std::size_t kCacheLine = 64;
  for (std::size_t at = 0; at < sizeof *this; at += kCacheLine) {
    __builtin_prefetch(reinterpret_cast<const char*>(this) + at);
  }
  __builtin_prefetch(&opened);
  try {
    Change change(*this);
    return decide(opened, request, {}, change.out,
                  [&](Owner& owner, const Attempt& tried) -> std::optional<int> {
                    if (refusal != nullptr) *refusal = refusal_of(tried);
                    granted_.drop_if_idle(owner);
                    return std::nullopt;
                  });
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

Refusal FileLocks::refusal_of(const Attempt& attempt) {
  if (attempt.verdict != Verdict::kOutside) return Refusal::kNone;
  return attempt.guard ? Refusal::kGuard : Refusal::kLock;
}

int FileLocks::unlock_now(const Request& request, Outcomes& out) noexcept {
  context().counters.add(Counter::kUnlocks);
  Owner* owner = granted_.find_owner(request.owner);
  if (owner == nullptr) return 0;
  const int error = release(*owner, request.range, out);
  granted_.drop_if_idle(*owner);
  return error;
}

// -- it is granted, or something is in the way ---------------------------------------------------

FileLocks::Attempt FileLocks::attempt(Owner& owner, const Request& request, const Turn& turn,
                                      Outcomes& out) noexcept {
  const Policy& policy = this->policy();
  const Party party = owner.party();
  const Space space = policy.space_of(owner.id.type);
  const Range& range = request.range;
  const Mode mode = request.mode;
  const auto failed = [](int error) {
    return Attempt{.verdict = Verdict::kFailed, .error = error};
  };

  if (turn.queues) {
    if (Waiter* ahead = queue_.latest_ahead(granted_, party, request, turn.turn)) {
      return {.verdict = Verdict::kBehind, .ahead = ahead};
    }
  }
  if (granted_.find_conflict(party, &owner, range, mode) != nullptr) {
    return {.verdict = Verdict::kBlocked};
  }
  if (!outside_.empty()) {
    if (OutsideWait* wait = outside_.find_collision(policy, party, range, mode)) {
      return collision(*wait, request, turn.turn);
    }
  }
  // Two more is the most that one request can add: itself, and the tail of a lock it splits.
  if (owner.tally.would_break(2)) {
    if (const std::uint64_t more = Granted::growth(owner, range, mode); more > 0) {
      if (const auto limit = owner.tally.would_break(more)) {
        return failed(reports_.refuse(request, *limit));
      }
    }
  }
  if (const int error = granted_.reserve(owner, range, mode); error != 0) return failed(error);
  const OutsideWait* have = turn.have;
  const bool held_already =
      have != nullptr && !have->disturbed && have->range == range && have->space == space;
  const bool raises = !held_already && mirror_.must_raise(owner, range, mode);
  if (raises && turn.yields && mirror_.awaited_part(request)) {
    return {.verdict = Verdict::kOutside, .yields = true};
  }
  if (raises && turn.refusal == Refusal::kLock) {
    return {.verdict = Verdict::kOutside, .unanswered = true};
  }
  if (policy.guards()) {
    if (OutsideWait* wait = mirror_.find_guard_collision(mode)) {
      return collision(*wait, request, turn.turn);
    }
    const Reply reply =
        turn.refusal == Refusal::kGuard ? Reply::refused() : mirror_.raise_guard(mode, have);
    if (must_wait(reply, request)) {
      return {.verdict = Verdict::kOutside, .guard = true, .unanswered = reply.is_open()};
    }
    if (!reply.is_done()) return failed(errno_of(reply));
  }
  if (raises) {
    if (mode == Mode::kShared) note_outsiders(space, out);
    const Reply reply = mirror_.raise(owner, range, mode);
    if (!reply.is_done()) {
      // flock(2) may have lost what it was to convert.
      if (space == Space::kFlocks && !owner.locks.empty()) mirror_.mark_stale(space, range);
      if (policy.guards()) mirror_.set_guard(false);
      if (must_wait(reply, request)) {
        return {.verdict = Verdict::kOutside, .unanswered = reply.is_open()};
      }
      return failed(errno_of(reply));
    }
  }
  if (turn.queues && policy.reorders() && !queue_.empty()) {
    queue_.count_pass(policy, party, request, turn.turn, out);
  }
  queue_.wake(policy, owner, range, mode, out);
  commit(owner, range, mode);
  context().counters.add(Counter::kGrants);
  return {.verdict = Verdict::kGranted};
}

/// What to do about a wait outside that a grant would collide with. To call it back costs it its
/// turn there: only for one whom outsiders do not refuse as well, or whose own turn comes first.
/// relent() looks after the others.
FileLocks::Attempt FileLocks::collision(OutsideWait& wait, const Request& request,
                                        std::uint64_t turn) const noexcept {
  const bool first = request.wait && std::all_of(wait.attached.begin(), wait.attached.end(),
                                                 [&](const Waiter& w) { return turn < w.turn; });
  const bool refused =
      !first && mirror_.outsider_refuses(policy().space_of(request.owner.type), request.range,
                                         request.mode, request.wait);
  if (refused && !request.wait) return {.verdict = Verdict::kOutside};
  return {.verdict = Verdict::kCollides, .collision = &wait, .recalls = !refused};
}

/// BSD and Linux let go of a flock before they look whether its new mode can be had.
void FileLocks::drop_refused_conversion(Owner& owner, const Request& request, Verdict verdict,
                                        Outcomes& out) noexcept {
  const bool refused = verdict == Verdict::kBehind || verdict == Verdict::kBlocked ||
                       verdict == Verdict::kOutside ||
                       (verdict == Verdict::kCollides && request.wait);
  if (!refused || !policy().drops_refused_conversion(owner.id.type) || owner.locks.empty()) return;
  const bool converts = std::any_of(owner.locks.begin(), owner.locks.end(),
                                    [&](const Held& l) { return l.mode != request.mode; });
  if (converts) release_all(owner, out);
}

std::optional<int> FileLocks::answer(Owner& owner, const Request& request,
                                     const Attempt& attempt) noexcept {
  switch (attempt.verdict) {
    case Verdict::kGranted:
      reports_.tell(EventKind::kGrant, request);
      return 0;
    case Verdict::kFailed:
      granted_.drop_if_idle(owner);
      return attempt.error;
    case Verdict::kBlocked:
    case Verdict::kOutside:
      if (!request.wait) {
        reports_.tell(EventKind::kRefusal, request, EAGAIN);
        granted_.drop_if_idle(owner);
        context().counters.add(Counter::kRefusals);
        return EAGAIN;
      }
      return std::nullopt;
    case Verdict::kBehind:
    case Verdict::kCollides:
      return std::nullopt;
  }
  return EIO;
}

void FileLocks::commit(Owner& owner, const Range& range, Mode mode) noexcept {
  granted_.commit(owner, range, mode, mode == Mode::kNone ? 0 : seconds_of(context().clock.now()));
  // A waiter of the mount that comes first takes the guard over, too.
  if (policy().guards() && (policy().yields_to_outsiders() || !queue_.any_blocked())) {
    mirror_.set_guard(false);
  }
}

/// To be called before the backing is weakened: afterwards those who waited there no longer do.
void FileLocks::note_outsiders(Space space, Outcomes& out) noexcept {
  if (queue_.any_blocked() && !out.yields && policy().yields_to_outsiders()) {
    out.yields = mirror_.backing(space).outsiders_waiting();
  }
}

// -- it has to wait ------------------------------------------------------------------------------

std::optional<int> FileLocks::park(Opened& opened, const Request& request, Ticket ticket,
                                   Completion done, Refusal refusal) noexcept {
  return park(opened, request, {ticket, std::move(done), refusal, {}});
}

std::optional<int> FileLocks::park(Opened& opened, const Request& request,
                                   Parking parking) noexcept {
  const std::optional<int> result = decide_or_park(opened, request, parking);
  if (result) context().registry.use_up(parking.ticket);
  return result;
}

std::optional<int> FileLocks::decide_or_park(Opened& opened, const Request& request,
                                             Parking& parking) noexcept {
  try {
    Change change(*this);
    if (request.wait && policy().in_deadlock_detection(request.owner.type)) {
      change.serialise_parking();
    }
    return decide(opened, request, parking, change.out,
                  [&](Owner& owner, const Attempt& tried) -> std::optional<int> {
                    const int error = admit(owner, opened, request, parking, tried, change.out);
                    if (error == 0) return std::nullopt;
                    granted_.drop_if_idle(owner);
                    return error;
                  });
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

/// Makes a waiter of a request that has to wait. Returns 0, or the errno that it is refused with.
int FileLocks::admit(Owner& owner, Opened& opened, const Request& request, Parking& parking,
                     const Attempt& attempt, Outcomes& out) noexcept try {
  Context& context = this->context();
  if (const int closed = context.registry.closed(); closed != 0) return closed;
  bool search = false;
  if (request.wait && policy().in_deadlock_detection(owner.id.type) &&
      closes_cycle(owner, request, context.short_search, search)) {
    context.counters.add(Counter::kDeadlocks);
    reports_.tell(EventKind::kDeadlock, request, EDEADLK);
    return EDEADLK;
  }
  const bool again = parking.since.has_value();
  auto waiter = std::make_shared<Waiter>(shared_from_this(), request, parking.ticket,
                                         again ? *parking.since : context.clock.now(),
                                         std::move(parking.done), context.ledger);
  waiter->process = owner.process;
  waiter->admitted = again;
  if (!again) {
    if (const auto limit = waiter->tally.would_break(1)) return reports_.refuse(request, *limit);
  }
  if (search) context.searches.add(waiter);
  if (const int cancelled = context.registry.enroll(waiter); cancelled != 0) return cancelled;
  // From here on nothing throws.
  waiter->tally.set(1);
  waiter->owner = &owner;
  waiter->opened = &opened;
  queue_.enter(policy(), *waiter);
  if (!again) {
    context.counters.add(Counter::kWaits);
    reports_.tell(EventKind::kWait, request);
  }
  place(*waiter, attempt, out);
  if (queue_.any_blocked() && policy().yields_to_outsiders()) {
    mirror_.backing(policy().space_of(owner.id.type)).expect_release();
  }
  return 0;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

void FileLocks::place(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept {
  waiter.placed = context().clock.now();
  switch (attempt.verdict) {
    case Verdict::kBehind:
      queue_.put_behind(waiter, *attempt.ahead);
      return;
    case Verdict::kBlocked:
      queue_.put_blocked(waiter);
      return;
    case Verdict::kCollides:
      outside_.put_aside(waiter, *attempt.collision);
      // It got past the queue, so it need not wait for a mere waiter.
      if (attempt.recalls) recall(*attempt.collision);
      return;
    case Verdict::kOutside:
      wait_outside(waiter, attempt, out);
      return;
    case Verdict::kGranted:
      finish(waiter, 0, out);
      return;
    case Verdict::kFailed:
      finish(waiter, attempt.error, out);
      return;
  }
}

/// Takes a waiter out of its place; it stays in the queue.
void FileLocks::detach(Waiter& waiter) noexcept {
  switch (waiter.place) {
    case Waiter::Place::kBehind:
    case Waiter::Place::kBlocked:
      queue_.take_out(waiter);
      return;
    case Waiter::Place::kOutside:
    case Waiter::Place::kAside:
      outside_.take_out(waiter);
      return;
    case Waiter::Place::kNowhere:
    case Waiter::Place::kDone:
      waiter.place = Waiter::Place::kNowhere;
      return;
  }
}

// -- it waits for an outsider --------------------------------------------------------------------

void FileLocks::wait_outside(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept {
  std::optional<Range> part = attempt.guard ? kWholeFile : mirror_.awaited_part(waiter.request);
  // Nothing is missing, but for the answer.
  if (!part && attempt.unanswered) part = waiter.request.range;
  if (!part) {
    // The backing refuses what it was told is the manager's own.
    finish(waiter, EIO, out);
    return;
  }
  const Space space = attempt.guard ? Space::kFlocks : policy().space_of(waiter.request.owner.type);
  if (OutsideWait* wait = outside_.find_same(space, *part, waiter.request.mode)) {
    outside_.attach(waiter, *wait);
    return;
  }
  // A wait does not begin where more is carried than is granted.
  if (const auto lowered = out.lowered[static_cast<std::size_t>(space)].part_in(*part)) {
    mirror_.restore(space, *lowered);
  }
  if (const int error = begin_wait(waiter, space, *part, attempt.yields); error != 0) {
    finish(waiter, error, out);
  }
}

/// Begins a wait for `waiter`. Returns 0, or the errno that it is refused with.
int FileLocks::begin_wait(Waiter& waiter, Space space, const Range& range, bool yields) noexcept
    try {
  Context& context = this->context();
  auto wait = std::make_unique<OutsideWait>();
  wait->tally.emplace(context.ledger, waiter.request.caller.uid, Tally::Kind::kOutsideWaits);
  if (!waiter.admitted) {
    if (const auto limit = wait->tally->would_break(1)) {
      return reports_.refuse(waiter.request, *limit);
    }
  }
  wait->tally->set(1);
  OutsideWait& begun = *wait;
  wait->id = context.next_wait.fetch_add(1, std::memory_order_relaxed);
  wait->space = space;
  wait->range = range;
  wait->mode = waiter.request.mode;
  wait->party = waiter.party();
  const int error = outside_.begin(
      wait, mirror_.backing(space), Coverage(granted_, space), yields,
      [self = shared_from_this(), id = wait->id](WaitEnd end) { self->outside_ended(id, end); });
  if (error == 0) {
    context.counters.add(Counter::kOutsideWaits);
    outside_.attach(waiter, begun);
  } else {
    reports_.backing_failed(range, waiter.request.mode, error, false);
  }
  return error;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

/// A wait has come to its end: it has its lock, or was called back, or failed.
void FileLocks::outside_ended(Backing::WaitId id, WaitEnd end) noexcept {
  Change change(*this);
  Outcomes& out = change.out;
  const std::unique_ptr<OutsideWait> wait = outside_.end(id);

  const bool has_lock = end.has_lock();
  const bool failed = end.kind == WaitEnd::Kind::kFailed;
  if (end.kind == WaitEnd::Kind::kHeldInDoubt) wait->disturbed = true;
  if (has_lock) mirror_.take_over(*wait);
  if (failed) reports_.backing_failed(wait->range, wait->mode, end.error, false);
  // Several waits may have to be called back for one of those aside. Until it is decided all the
  // others follow it to the next: were they to wait anew, waits would be called back for ever.
  OutsideWait* next = nullptr;
  const auto follow = [&](Waiter& waiter) {
    if (next != nullptr) place(waiter, {.verdict = Verdict::kCollides, .collision = next}, out);
    return next != nullptr;
  };
  const auto settle_aside = [&] {
    while (!wait->aside.empty()) {
      Waiter& waiter = wait->aside.front();
      detach(waiter);
      if (follow(waiter)) continue;
      look_again(waiter, nullptr, false, out);
      if (waiter.place == Waiter::Place::kAside && waiter.outside->recalled) {
        next = waiter.outside;
      }
    }
  };
  // A wait that was called back makes room for those aside; one that succeeded was for its own.
  if (end.kind == WaitEnd::Kind::kNotHeld) settle_aside();
  bool used = false;
  while (!wait->attached.empty()) {
    Waiter& waiter = wait->attached.front();
    detach(waiter);
    if (follow(waiter)) continue;
    if (failed) {
      finish(waiter, end.error, out);
    } else if (look_again(waiter, has_lock ? wait.get() : nullptr, false, out)) {
      used = true;
    } else {
      wait->disturbed = true;  // a refused attempt may have set the mirror back
    }
  }
  if (has_lock && (!used || is_guard(*wait))) give_back(*wait);
  while (!wait->leaving.empty()) outside_.answer(wait->leaving.front(), out);
  settle_aside();
}

bool FileLocks::is_guard(const OutsideWait& wait) const {
  return wait.space == Space::kFlocks && !policy().separates_flocks();
}

/// Sets the mirror back to what is granted where a wait has taken its lock.
void FileLocks::give_back(OutsideWait& wait) noexcept {
  if (std::exchange(wait.given_back, true)) return;
  if (is_guard(wait)) {
    mirror_.set_guard(true);
  } else {
    mirror_.restore(wait.space, wait.range);
  }
}

// -- it is looked at again -----------------------------------------------------------------------

/// Looks again at a detached waiter. Returns whether it was granted.
bool FileLocks::look_again(Waiter& waiter, OutsideWait* have, bool yields, Outcomes& out) noexcept {
  const Request& request = waiter.request;
  context().counters.add(Counter::kLooks);
  const bool in_turn = Queue::queues(policy(), request) && !waiter.bypass;
  // A close by the process may have come while this thread waited: a lock belongs to the open file
  // that it came through, and is written down with its name.
  const bool parted = waiter.owner->opened == nullptr;
  if (parted) Granted::join_opened(*waiter.owner, *waiter.opened);
  Attempt tried = attempt(*waiter.owner, request, {waiter.turn, in_turn, have, yields}, out);
  const bool refused = tried.verdict == Verdict::kBlocked || tried.verdict == Verdict::kOutside;
  if (!request.wait && refused) {
    drop_refused_conversion(*waiter.owner, request, tried.verdict, out);
    context().counters.add(Counter::kRefusals);
    tried = {.verdict = Verdict::kFailed, .error = EAGAIN};
  }
  const bool granted = tried.verdict == Verdict::kGranted;
  if (parted && !granted) granted_.part_from_opened(*waiter.owner);
  if (granted && !waiter.bypass) relented_ = 0;
  // Nothing is kept of one piece while another is waited for.
  if (have != nullptr && tried.verdict == Verdict::kOutside) give_back(*have);
  place(waiter, tried, out);
  return granted;
}

void FileLocks::settle(Outcomes& out) noexcept {
  while (!out.again.empty()) {
    Waiter& waiter = *out.again.begin();
    out.again.erase(out.again.begin());
    detach(waiter);
    look_again(waiter, nullptr, out.yields, out);
  }
  for (const Space space : kSpaces) {
    if (const auto range = out.lowered[static_cast<std::size_t>(space)].take()) {
      mirror_.restore(space, *range);
    }
  }
  if (policy().guards()) mirror_.set_guard(false);
}

/// Takes a detached waiter out of the queue and puts down its result.
void FileLocks::finish(Waiter& waiter, int error, Outcomes& out) noexcept {
  queue_.leave(waiter, out);
  waiter.tally.set(0);
  waiter.place = Waiter::Place::kDone;
  waiter.result = error;
  reports_.tell_end(waiter, error);
  out.finished.push_back(waiter);
  granted_.drop_if_idle(*waiter.owner);
  waiter.owner = nullptr;
}

void FileLocks::announce(Waiter::PeerList& due) noexcept {
  while (!due.empty()) {
    Waiter& waiter = due.front();
    due.pop_front();
    const std::shared_ptr<FileLocks> file = waiter.file;  // longer than the waiter
    const int result = waiter.result;
    const Completion done = std::move(waiter.done);
    file->context().registry.strike(waiter);
    done(result);
  }
}

// -- locks are let go ----------------------------------------------------------------------------

int FileLocks::release(Owner& owner, const Range& range, Outcomes& out, EventKind why) noexcept {
  if (!owner.holds(range)) return 0;
  if (const int error = granted_.reserve(owner, range, Mode::kNone); error != 0) return error;
  const Space space = policy().space_of(owner.id.type);
  granted_.announce_loss(owner, range);
  if (policy().yields_to_outsiders() || !queue_.any_blocked()) {
    note_outsiders(space, out);
    mirror_.lower(owner, range);
  } else {
    // Whoever of the mount comes next takes the lock over at the backing; settle() lets go of what
    // is left.
    out.lowered[static_cast<std::size_t>(space)].add(range);
  }
  queue_.wake(policy(), owner, range, Mode::kNone, out);
  reports_.tell_released(why, owner, range);
  commit(owner, range, Mode::kNone);
  return 0;
}

void FileLocks::release_all(Owner& owner, Outcomes& out) noexcept {
  // The whole file contains every lock, so nothing is split and nothing can fail.
  if (!owner.locks.empty()) std::ignore = release(owner, kWholeFile, out);
}

void FileLocks::close_owner(const OwnerId& id) noexcept {
  Change change(*this);
  Owner* owner = granted_.find_owner(id);
  if (owner == nullptr) return;
  mirror_.repair();
  release_all(*owner, change.out);
  // The cookie may name another process next; only a thread that still waits keeps the owner.
  granted_.part_from_opened(*owner);
}

void FileLocks::close(Opened& opened) noexcept {
  Change change(*this);
  mirror_.repair();
  // The kernel keeps a file open while a request on it is under way; an embedder might not.
  while (Waiter* left = queue_.find_of(opened)) abandon(*left, EBADF, Answer::kAtOnce, change.out);
  while (Owner* owner = Granted::any_owner(opened)) {
    release_all(*owner, change.out);
    granted_.part_from_opened(*owner);
  }
}

int FileLocks::revoke(const OwnerId& id, const Range& range, Range& taken) noexcept {
  Change change(*this);
  mirror_.repair();
  Owner* owner = granted_.find_owner(id);
  if (owner == nullptr || !owner->holds(range)) return ENOENT;
  taken = owner->bounds(range);
  if (const int error = release(*owner, range, change.out, EventKind::kRevoke)) return error;
  context().counters.add(Counter::kRevocations);
  granted_.drop_if_idle(*owner);
  return 0;
}

// -- it is only asked ----------------------------------------------------------------------------

int FileLocks::test(const Request& request, std::optional<Blocker>& blocker) noexcept {
  blocker.reset();
  const std::lock_guard guard(mutex_);
  const Owner* self = granted_.find_owner(request.owner);
  const auto blocked_by = [&blocker](const Owner& owner, const Range& range, Mode mode) {
    blocker = Blocker{owner.id, owner.caller.pid, range, mode};
  };
  if (request.mode == Mode::kNone) {
    if (self == nullptr) return 0;
    const auto held = self->locks.from(request.range.first);
    if (held != self->locks.end() && held->range.overlaps(request.range)) {
      blocked_by(*self, held->range, held->mode);
    }
    return 0;
  }
  const Party party =
      self != nullptr && !self->idle() ? self->party() : Party{request.owner, request.caller.pid};
  Range before = request.range;
  if (const Lock* lock = granted_.first_conflict(party, self, request.range, request.mode)) {
    blocked_by(*lock->owner, lock->range, lock->mode);
    if (lock->range.first <= request.range.first) return 0;
    before.last = lock->range.first - 1;
  }
  // An outsider's lock may block an earlier byte.
  std::optional<OutsideLock> found;
  const Reply reply =
      mirror_.test(policy().space_of(request.owner.type), before, request.mode, found);
  if (!reply.is_done()) return blocker ? 0 : errno_of(reply);
  if (found) blocker = Blocker{std::nullopt, found->pid, found->range, found->mode};
  return 0;
}

bool FileLocks::quiet() const noexcept {
  const std::lock_guard guard(mutex_);
  return granted_.empty() && queue_.empty() && outside_.empty();
}

// -- the backing ---------------------------------------------------------------------------------

void FileLocks::carry_anew() noexcept {
  Change change(*this);
  mirror_.mark_stale(Space::kRecords, kWholeFile);
  if (policy().separates_flocks()) mirror_.mark_stale(Space::kFlocks, kWholeFile);
  mirror_.repair();
  if (policy().guards()) mirror_.set_guard(true);
}

// -- invariants ----------------------------------------------------------------------------------

/// Invariant 1, once the parts are in order.
const char* FileLocks::check_place(const Waiter& w) const {
  if (w.blocked_hook.linked() != (w.place == Waiter::Place::kBlocked)) {
    return "the tree of blocked waiters does not have those that are blocked";
  }
  const Waiter::PeerList* list = nullptr;
  switch (w.place) {
    case Waiter::Place::kBehind:
      list = &w.ahead->followers;
      break;
    case Waiter::Place::kOutside:
    case Waiter::Place::kAside:
      if (w.outside == nullptr) return "a waiter is outside without a wait";
      list = w.place == Waiter::Place::kOutside ? &w.outside->attached : &w.outside->aside;
      break;
    default:
      return w.peer_hook.is_linked() ? "a waiter is in a list without belonging there" : nullptr;
  }
  return std::any_of(list->begin(), list->end(), [&w](const Waiter& each) { return &each == &w; })
             ? nullptr
             : "a waiter is not in the list of its place";
}

const char* FileLocks::check_parts() const {
  if (const char* broken = granted_.check()) return broken;
  if (const char* broken = queue_.check(granted_)) return broken;
  if (const char* broken = outside_.check(granted_)) return broken;
  const char* broken = nullptr;
  queue_.waiters().for_each([&](const Waiter& waiter) {
    broken = check_place(waiter);
    return broken == nullptr;
  });
  return broken != nullptr ? broken : mirror_.check();
}

const char* FileLocks::check() const {
  const std::lock_guard guard(mutex_);
  return check_parts();
}

/// In debug builds: verifies the invariants of a small file after a change, and stops on a break.
void FileLocks::verify() const noexcept {
#ifdef LOCKMGR_CHECK_INVARIANTS
  constexpr std::uint64_t kMostChecked = 256;
  if (context().ledger.locks() + context().ledger.waiters() > kMostChecked) return;
  if (const char* broken = check_parts()) {
    std::fprintf(stderr, "lockmgr: invariant broken: %s\n", broken);
    std::abort();
  }
#endif
}

}  // namespace lockmgr
