/// Places to compare a filesystem operation in: the backing folder, lockfs on it and the FUSE
/// passthroughs of others.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"

namespace lockfs::bench {

inline constexpr const char* kLockfs = "lockfs";

/// What can be mounted over a folder.
inline constexpr std::array kFilesystems = {kLockfs, "bindfs", "mergerfs"};

/// What of kFilesystems is to be measured: all, or only lockfs where two builds are compared.
std::span<const char* const> filesystems(const Settings& settings);

/// Mounts one of kFilesystems over the folder `name`-`filesystem`, attributes and names cached for
/// so many seconds. None when it is not installed.
std::optional<Mount> mount_of(const std::string& filesystem, const Settings& settings,
                              const std::string& name, int cache_seconds);

/// Makes so many empty files in folders of a thousand below `dir`.
void make_files(const std::string& dir, int files);
/// Looks at everything below `dir`. Returns the number of files.
int visit(const std::string& dir);

struct Place {
  std::string target;
  std::string dir;     ///< where the operation is done
  std::string source;  ///< the folder behind it; the same for the backing folder
  Build build = Build::kThis;
};

/// What a side does in one round at its place.
using PlaceRound = std::function<void(const Place&, Samples&)>;

/// The backing folder and a mount of each filesystem that is installed, with equal cache times,
/// each over a folder of its own. lockfs is the peer (Side::peer) of the others' mounts. Where two
/// builds are compared, only their two mounts.
class Places {
 public:
  Places(const Settings& settings, const std::string& name, int cache_seconds);

  [[nodiscard]] const std::vector<Place>& all() const { return places_; }

  /// A side for each place; `round(place, samples)` does a round there.
  [[nodiscard]] std::vector<Side> sides(const PlaceRound& round) const;

 private:
  std::vector<Mount> mounts_;
  std::vector<Place> places_;
};

/// As Places::sides(), but each round has a new mount, whose caches are empty, over the same
/// folder. `fill(folder)` puts into the folders what they are to hold.
std::vector<Side> new_mount_sides(const Settings& settings, const std::string& name,
                                  int cache_seconds,
                                  const std::function<void(const std::string&)>& fill,
                                  const PlaceRound& round);

}  // namespace lockfs::bench
