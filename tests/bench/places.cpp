#include "tests/bench/places.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <utility>

namespace lockfs::bench {

std::optional<Mount> mount_of(const std::string& filesystem, const Settings& settings,
                              const std::string& name, int cache_seconds) {
  const std::string folder = name + "-" + filesystem;
  const std::string time = std::to_string(cache_seconds);
  if (filesystem == "bindfs") {
    return Mount::peer(settings, filesystem, folder,
                       "attr_timeout=" + time + ",entry_timeout=" + time);
  }
  if (filesystem == "mergerfs") {
    return Mount::peer(settings, filesystem, folder, "cache.attr=" + time + ",cache.entry=" + time);
  }
  return Mount::lockfs(settings, folder, "cache=" + time);
}

void make_files(const std::string& dir, int files) {
  for (int i = 0; i < files; ++i) {
    constexpr int kFilesAFolder = 1000;
    const std::string folder = dir + "/" + std::to_string(i / kFilesAFolder);
    if (i % kFilesAFolder == 0) std::filesystem::create_directory(folder);
    const File created(folder + "/" + std::to_string(i), O_WRONLY | O_CREAT);
  }
}

int visit(const std::string& dir) {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    struct stat st = {};
    check(lstat(entry.path().c_str(), &st) == 0, "stat " + entry.path().string());
    if (S_ISREG(st.st_mode)) ++files;
  }
  return files;
}

namespace {

std::string peer_of(const std::string& target) {
  return target == kBacking || target == kLockfs ? "" : kLockfs;
}

Side side_of(const Place& place, const PlaceRound& round) {
  return {place.target, [place, round](Samples& samples) { round(place, samples); },
          peer_of(place.target), place.build};
}

}  // namespace

std::span<const char* const> filesystems(const Settings& settings) {
  return std::span(kFilesystems).first(settings.two_builds() ? 1 : kFilesystems.size());
}

Places::Places(const Settings& settings, const std::string& name, int cache_seconds) {
  if (!settings.two_builds()) {
    const std::string backing = make_folder(settings, name + "-" + kBacking);
    places_.push_back({kBacking, backing, backing});
  }
  for (const Settings& build : settings.builds()) {
    for (const std::string filesystem : filesystems(settings)) {
      std::optional<Mount> mount = mount_of(filesystem, build, name, cache_seconds);
      if (!mount) continue;
      places_.push_back({filesystem, mount->dir(), mount->source(), build.build});
      mounts_.push_back(std::move(*mount));
    }
  }
}

std::vector<Side> Places::sides(const PlaceRound& round) const {
  std::vector<Side> sides;
  for (const Place& place : places_) sides.push_back(side_of(place, round));
  return sides;
}

std::vector<Side> new_mount_sides(const Settings& settings, const std::string& name,
                                  int cache_seconds,
                                  const std::function<void(const std::string&)>& fill,
                                  const PlaceRound& round) {
  std::vector<Side> sides;
  if (!settings.two_builds()) {
    const std::string backing = make_folder(settings, name + "-" + kBacking);
    fill(backing);
    sides.push_back(side_of({kBacking, backing, backing}, round));
  }
  for (const Settings& build : settings.builds()) {
    for (const std::string filesystem : filesystems(settings)) {
      const auto mount = [build, filesystem, name, cache_seconds] {
        return mount_of(filesystem, build, name, cache_seconds);
      };
      const std::optional<Mount> first = mount();
      if (!first) continue;
      fill(first->source());
      sides.push_back({filesystem,
                       [mount, filesystem, round](Samples& samples) {
                         const std::optional<Mount> made = mount();
                         round({filesystem, made->dir(), made->source()}, samples);
                       },
                       peer_of(filesystem), build.build});
    }
  }
  return sides;
}

}  // namespace lockfs::bench
