#include "lockmgr/policy.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

namespace lockmgr {

namespace {

// -- the values of each axis, in the order of its enum -------------------------------------------

constexpr AxisValue kConflictSpace[] = {
    {"unified",
     "flock, POSIX and OFD locks exclude each other: an NFS server, to which all three "
     "are byte ranges"},
    {"separate",
     "flocks exclude flocks only, and are carried to the backing as flocks, which NFS "
     "clients do not see: Linux on local files"},
};
constexpr AxisValue kSameProcess[] = {
    {"conflict",
     "a flock and a record lock of one process exclude each other: an NFS client, where "
     "a program that takes both blocks itself"},
    {"exempt", "they do not: for programs that take both, as many mail programs do"},
};
constexpr AxisValue kOpenMode[] = {
    {"strict",
     "EBADF for an exclusive flock through a descriptor that is not open for writing, a "
     "shared one through one not open for reading: NFSv4 clients"},
    {"relaxed", "any descriptor may take any flock: Linux and BSD on local files"},
};
constexpr AxisValue kOrder[] = {
    {"fifo", "first come, first served among requests that conflict: FreeBSD"},
    {"readers",
     "shared requests pass waiting exclusive ones: reader-preferring locks; none is "
     "passed for ever"},
    {"writers",
     "exclusive requests pass waiting shared ones: writer-preferring locks; none is "
     "passed for ever"},
    {"newcomers",
     "whatever nothing granted stands in the way of is granted at once, and waiters may "
     "starve: Linux, where who is woken races with who comes"},
};
constexpr AxisValue kHandOver[] = {
    {"fair",
     "the backing is let go between two owners, and outsiders who wait there get their "
     "turn: NFS clients beside local programs, as equals"},
    {"local",
     "a waiter of the mount gets the lock before the backing is let go: fewest calls; "
     "outsiders wait until the mount has no more waiters"},
};
constexpr AxisValue kDeadlock[] = {
    {"process", "EDEADLK for cycles of process-owned locks: POSIX, Linux"},
    {"all",
     "for cycles of owners of every type, an open file's being taken to be released by the "
     "thread that locked: FreeBSD, where all owners are in one graph"},
    {"off", "none: NFS servers and GlusterFS, which do not look"},
};
constexpr AxisValue kConversion[] = {
    {"keep", "an upgrade or downgrade that is refused or waits keeps the old lock: POSIX"},
    {"drop", "it costs a flock its old lock: flock(2) of Linux and BSD"},
};

constexpr AxisValue kGuard[] = {
    {"off", "flocks straight on the source are not seen: an NFS server"},
    {"flock",
     "while locks are granted on a file, it also carries a flock of the strongest mode, so "
     "that local programs that flock the source are kept out; NFS clients do not mind"},
};
constexpr AxisValue kLease[] = {
    {"none", "a lock is held until it is let go: POSIX, NFS"},
    {"SECONDS",
     "a lock that a request has waited for that long is broken, and its owner logged: "
     "GlusterFS's features.locks-revocation-secs"},
};
constexpr AxisValue kLeaseWaiters[] = {
    {"none", "any number may wait: POSIX, NFS"},
    {"N",
     "a lock that more than N requests wait for is broken, and its owner logged: GlusterFS's "
     "features.locks-revocation-max-blocked"},
};
constexpr std::uint32_t kMostSeconds = 365 * 24 * 60 * 60;
constexpr std::uint32_t kMostWaiters = 1'000'000;

/// The row of an axis whose field is a number, 0 standing for "none".
template <std::uint32_t Policy::*kField, const auto& kValues, std::uint32_t kMost>
constexpr Axis number_of(std::string_view name, std::string_view question) {
  return {name, question, kValues,
          [](const Policy& policy) {
            return policy.*kField == 0 ? std::string("none") : std::to_string(policy.*kField);
          },
          [](Policy& policy, std::string_view text) {
            std::uint32_t number = 0;
            const char* const end = text.data() + text.size();
            const auto [stop, error] = std::from_chars(text.data(), end, number);
            const bool good = error == std::errc{} && stop == end && number > 0 && number <= kMost;
            if (!good && text != "none") return false;
            policy.*kField = good ? number : 0;
            return true;
          }};
}

/// The row of an axis whose field is an enum.
template <auto Policy::*kField, const auto& kValues>
constexpr Axis axis_of(std::string_view name, std::string_view question) {
  using Value = std::remove_cvref_t<decltype(std::declval<Policy>().*kField)>;
  static_assert(std::size(kValues) == static_cast<std::size_t>(Value::kCount),
                "each value of an axis has its row in the table");
  return {name, question, kValues,
          [](const Policy& policy) {
            return std::string(kValues[static_cast<std::size_t>(policy.*kField)].name);
          },
          [](Policy& policy, std::string_view text) {
            for (std::size_t i = 0; i < std::size(kValues); ++i) {
              if (kValues[i].name != text) continue;
              policy.*kField = static_cast<Value>(i);
              return true;
            }
            return false;
          }};
}

constexpr Axis kAxes[] = {
    axis_of<&Policy::conflict_space, kConflictSpace>(
        "conflict_space", "do flocks and record locks exclude each other"),
    axis_of<&Policy::same_process, kSameProcess>(
        "same_process", "do the flocks and record locks of one process exclude each other"),
    axis_of<&Policy::open_mode, kOpenMode>("open_mode", "must a flock fit the descriptor's mode"),
    axis_of<&Policy::order, kOrder>("fairness", "who of those that wait comes first"),
    axis_of<&Policy::hand_over, kHandOver>("handover", "do outsiders get their turn"),
    axis_of<&Policy::deadlock, kDeadlock>("deadlock", "whose cycles of waiting are refused"),
    axis_of<&Policy::conversion, kConversion>("conversion",
                                              "what a change of mode that fails costs"),
    axis_of<&Policy::guard, kGuard>("guard", "are flocks straight on the source kept out"),
    number_of<&Policy::lease, kLease, kMostSeconds>("lease",
                                                    "how long may a lock be held that others want"),
    number_of<&Policy::lease_waiters, kLeaseWaiters, kMostWaiters>(
        "lease_waiters", "how many may wait for a lock before it is broken"),
};

constexpr Preset kPresets[] = {
    {"nfs", "what NFS clients see of each other", {}},
    {"dual",
     "nfs for programs that take both a flock and a record lock on one file",
     {.same_process = SameProcess::kExempt}},
    {"guarded",
     "nfs where local programs may not all be on the mount",
     {.guard = BypassGuard::kFlock}},
    {"linux",
     "Linux's own locks on a local file",
     {.conflict_space = ConflictSpace::kSeparate,
      .open_mode = OpenMode::kRelaxed,
      .order = Order::kNewcomers,
      .conversion = Conversion::kDrop}},
    {"bsd",
     "FreeBSD's one lock manager for flock and POSIX",
     {.open_mode = OpenMode::kRelaxed,
      .deadlock = Deadlock::kAll,
      .conversion = Conversion::kDrop}},
    {"gluster",
     "GlusterFS with revocation on: nothing waits for ever on one that hangs",
     {.open_mode = OpenMode::kRelaxed,
      .order = Order::kNewcomers,
      .deadlock = Deadlock::kOff,
      .lease = 60,
      .lease_waiters = 1000}},
    {"samba-friendly",
     "Samba's server, which takes flocks (share modes) and record locks of one "
     "file, on descriptors of either mode, and never waits in the kernel",
     {.same_process = SameProcess::kExempt,
      .open_mode = OpenMode::kRelaxed,
      .deadlock = Deadlock::kOff}},
};

std::string list_of(auto&& range, auto&& name) {
  std::string text;
  for (const auto& item : range) {
    if (!text.empty()) text += ", ";
    text += name(item);
  }
  return text;
}

/// The axes in which two policies differ.
std::size_t distance(const Policy& a, const Policy& b) {
  return static_cast<std::size_t>(
      std::count_if(std::begin(kAxes), std::end(kAxes),
                    [&](const Axis& axis) { return axis.get(a) != axis.get(b); }));
}

}  // namespace

std::span<const Axis> Policy::axes() { return kAxes; }

const Axis* Policy::find_axis(std::string_view name) {
  for (const Axis& axis : kAxes) {
    if (axis.name == name) return &axis;
  }
  return nullptr;
}

std::span<const Preset> Policy::presets() { return kPresets; }

std::vector<std::string_view> Policy::names() {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

std::optional<Policy> Policy::named(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (preset.name == name) return preset.policy;
  }
  return std::nullopt;
}

std::string Policy::set(std::string_view name, std::string_view value) {
  const Axis* axis = find_axis(name);
  if (axis == nullptr) {
    return "unknown policy axis '" + std::string(name) +
           "'; known: " + list_of(kAxes, [](const Axis& a) { return a.name; });
  }
  if (axis->set(*this, value)) return {};
  return std::string(name) + ": unknown value '" + std::string(value) +
         "'; known: " + list_of(axis->values, [](const AxisValue& v) { return v.name; });
}

std::string Policy::parse(std::string_view text, const Policy& base, Policy& parsed) {
  Policy policy = base;
  bool first = true;
  for (std::size_t at = 0; at <= text.size(); first = false) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view part = text.substr(at, comma - at);
    at = comma + 1;
    const std::size_t equals = part.find('=');
    if (equals != std::string_view::npos) {
      if (std::string error = policy.set(part.substr(0, equals), part.substr(equals + 1));
          !error.empty()) {
        return error;
      }
      continue;
    }
    const std::optional<Policy> preset = first ? named(part) : std::nullopt;
    if (!preset) {
      return "unknown policy '" + std::string(part) +
             "'; known: " + list_of(kPresets, [](const Preset& p) { return p.name; });
    }
    policy = *preset;
  }
  parsed = policy;
  return {};
}

std::string Policy::text() const {
  const auto* const nearest = std::min_element(
      std::begin(kPresets), std::end(kPresets), [this](const Preset& a, const Preset& b) {
        return distance(*this, a.policy) < distance(*this, b.policy);
      });
  std::string text(nearest->name);
  for (const Axis& axis : kAxes) {
    const std::string value = axis.get(*this);
    if (value != axis.get(nearest->policy)) text += "," + std::string(axis.name) + "=" + value;
  }
  return text;
}

int Policy::check_open_mode(OwnerType type, Mode mode, bool readable, bool writable) const {
  if (type != OwnerType::kFlock || open_mode == OpenMode::kRelaxed) return 0;
  if (mode == Mode::kExclusive && !writable) return EBADF;
  if (mode == Mode::kShared && !readable) return EBADF;
  return 0;
}

const char* to_string(OwnerType type) {
  switch (type) {
    case OwnerType::kProcess:
      return "posix";
    case OwnerType::kOpenFile:
      return "ofd";
    case OwnerType::kFlock:
      return "flock";
  }
  return "unknown";
}

}  // namespace lockmgr
