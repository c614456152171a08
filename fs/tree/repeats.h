/// Whether a change that an earlier daemon had begun was made on the source before it died, so that
/// nothing is destroyed twice: between the two daemons somebody may have put another file at the
/// name, or written to the file.
///
/// What cannot be told is answered in a fixed way, in which no data is lost:
///   - something new at the name of a request that makes one, of its kind and owner, born between
///     the request's beginning and the death, passes for its doing;
///   - a filesystem that keeps no birth times: it does not, and the answer is EEXIST;
///   - a name to be taken away or moved that stands for another file by now, or for none: success,
///     and nothing more is done;
///   - a file of which data was to be taken away, and which has changed since, in another way than
///     by that: EIO, and it stays as it is.
/// What puts data at a given place (write, copy_file_range, setxattr, a longer size) is done again,
/// as if it had come later.
///
/// Thread safety: functions that look at the request of the calling thread (CurrentRequest).
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <optional>

namespace lockfs::repeats {

/// Whether what is `name` in the folder behind `folder` is what the repeated request has made: of
/// type `type` (S_IFDIR, ...), for its owner `uid`.
[[nodiscard]] bool has_made(int folder, const char* name, mode_t type, uid_t uid) noexcept;

/// A name that is about to be taken away. Returns whether an earlier daemon has done it: then it
/// must not be done again. Else notes what the name stands for.
[[nodiscard]] bool has_removed(int folder, const char* name) noexcept;

/// As has_removed(), for one that is about to move, or (`exchanges`) to change places.
[[nodiscard]] bool has_renamed(int from, const char* name, int to, const char* new_name,
                               bool exchanges) noexcept;

/// An extended attribute that is about to be removed from the file at `path`. As has_removed(): one
/// with another value than before is somebody else's.
[[nodiscard]] bool has_removed_attribute(const char* path, const char* name) noexcept;

/// What has become of a change of a file's content.
enum class Change {
  kNotMade,  ///< make it
  kMade,     ///< answer as if
  kUnknown,  ///< EIO
};

/// What a request gets whose change need not or cannot be made: 0 or EIO. Nothing: it is to be
/// made.
[[nodiscard]] constexpr std::optional<int> answer_for(Change change) noexcept {
  switch (change) {
    case Change::kMade:
      return 0;
    case Change::kUnknown:
      return EIO;
    case Change::kNotMade:
      break;
  }
  return {};
}

/// A change of the file behind `fd` (O_PATH does) that is not to be made twice. `result_size`: what
/// its size is after that and not before; nothing: that tells nothing. Notes the file as it is now
/// unless it is repeated and not known to be undone.
[[nodiscard]] Change look_at_change(int fd, std::optional<off_t> result_size) noexcept;

/// As look_at_change(), for a file that is about to be given a size.
[[nodiscard]] Change look_at_truncation(int fd, off_t size) noexcept;

/// As look_at_change(), for a part that is to become zeros; `extends`: and the file that long.
[[nodiscard]] Change look_at_zeroing(int fd, off_t offset, off_t length, bool extends) noexcept;

/// How much is to be copied of the file behind `from`, which may be the one copied to: not what an
/// earlier daemon has put behind its end. Notes its size.
[[nodiscard]] std::size_t length_to_copy(int from, off_t offset, std::size_t length) noexcept;

/// Data that is about to be appended to the file behind `fd`: kMade if it was. Notes its size.
/// `done`: so much of it stands at the end already, if it is kNotMade.
[[nodiscard]] Change look_at_append(int fd, const char* data, std::size_t size,
                                    std::size_t& done) noexcept;

}  // namespace lockfs::repeats
