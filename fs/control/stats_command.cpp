// "ping" and "stats": what this mount is, and what it has done.
#include <fmt/format.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <utility>

#include "fs/control/commands.h"

namespace lockfs::control {

namespace {

std::uint64_t resident_bytes() {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/self/statm", "re"),
                                                   std::fclose);
  unsigned long long pages = 0;
  if (file == nullptr || std::fscanf(file.get(), "%*u %llu", &pages) != 1) return 0;
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

Json counters_json(const lockmgr::LockManager& manager) {
  using lockmgr::Counter;
  constexpr auto kNames = std::to_array<std::pair<Counter, const char*>>({
      {Counter::kGrants, "grants"},
      {Counter::kRefusals, "conflicts"},
      {Counter::kWaits, "waits"},
      {Counter::kLooks, "looks"},
      {Counter::kInterrupts, "interrupts"},
      {Counter::kDeadlocks, "deadlocks"},
      {Counter::kDeadlockLooks, "deadlock_looks"},
      {Counter::kLimits, "limits"},
      {Counter::kUnlocks, "unlocks"},
      {Counter::kBackingCalls, "mirror_calls"},
      {Counter::kBackingErrors, "backing_errors"},
      {Counter::kOutsideWaits, "outside_waits"},
      {Counter::kBypasses, "bypasses"},
      {Counter::kRevocations, "revocations"},
  });
  static_assert(kNames.size() == static_cast<std::size_t>(Counter::kCount));
  Json counters;
  for (const auto& [counter, name] : kNames) counters[name] = manager.counters().get(counter);
  return counters;
}

/// `one_in`: how many of the events one that is counted here stands for.
Json histogram_json(const lockmgr::Histogram& histogram, std::uint64_t one_in) {
  Json buckets = Json::array();
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < lockmgr::Histogram::kBuckets; ++i) {
    const std::uint64_t in_bucket = histogram.count(i);
    count += in_bucket;
    if (in_bucket == 0) continue;
    buckets.push_back({{"below_ns", std::uint64_t{1} << i}, {"count", in_bucket}});
  }
  return {{"count", count},
          {"sum_ns", histogram.sum()},
          {"one_in", one_in},
          {"buckets", std::move(buckets)}};
}

/// How often the daemon died, and of what it died last.
Json survival_json(const Context& context) {
  const BookHeader& header = context.header;
  Json json = {{"survives", header.standby != 0}, {"generation", header.generation.load()}};
  json["program_since"] = header.program_since.load();
  json["gap_ms"] = static_cast<double>(header.gap.load()) / 1e6;
  json["keepers"] = Json::array();
  for (const pid_t keeper : {header.standby.load(), header.keeper.load()}) {
    if (keeper != 0) json["keepers"].push_back(keeper);
  }
  if (header.died_at == 0) return json;
  json["last_death"] = {{"reason", describe_death(header.death)},
                        {"time", static_cast<double>(header.died_at) / 1e9}};
  return json;
}

}  // namespace

Outcome ping(Context& context, const Call& call) {
  const Options& options = context.options;
  const lockmgr::Policy& policy = context.lock_ops.manager().policy();
  const dev_t dev = context.filesystem.inodes().root()->id().dev;
  const auto uptime = std::chrono::steady_clock::now() - context.began;
  return done(call, "mount",
              {{"protocol", kProtocol},
               {"version", LOCKFS_VERSION},
               {"pid", getpid()},
               {"source", options.source_path},
               {"mountpoint", options.mountpoint_path},
               {"source_device", fmt::format("{}:{}", major(dev), minor(dev))},
               {"mount_device", context.mount_device},
               {"policy", policy.text()},
               {"separate_spaces", policy.separates_flocks()},
               {"same_process_exempt", policy.exempts_same_process()},
               {"mirror", options.mirror},
               {"survival", survival_json(context)},
               {"uptime_s", std::chrono::duration_cast<std::chrono::seconds>(uptime).count()}});
}

Outcome stats(Context& context, const Call& call) {
  const lockmgr::LockManager& manager = context.lock_ops.manager();
  const auto inodes = context.filesystem.inodes().counts();
  Json gauges = {{"locks", manager.ledger().locks()},
                 {"waiters", manager.ledger().waiters()},
                 {"waiting_outside", manager.outside_waits()},
                 {"put_off", context.lock_ops.put_off_requests()},
                 {"files", manager.files().size()},
                 {"inodes", inodes.inodes},
                 {"pinned_descriptors", inodes.pinned},
                 {"resident_bytes", resident_bytes()},
                 {"generation", context.header.generation.load()},
                 {"last_gap_ms", static_cast<double>(context.header.gap.load()) / 1e6}};
  Json timings = {{"wait", histogram_json(manager.timing(lockmgr::Timing::kWaits), 1)},
                  {"mirror_call", histogram_json(manager.timing(lockmgr::Timing::kBackingCalls),
                                                 lockmgr::kTimedCalls)}};
  return done(call, "stats",
              {{"survival", survival_json(context)},
               {"counters", counters_json(manager)},
               {"gauges", std::move(gauges)},
               {"timings", std::move(timings)}});
}

}  // namespace lockfs::control
