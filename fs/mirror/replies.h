/// What system calls say about locks, as lockmgr::Backing says it.
///
/// Thread safety: pure functions.
#pragma once

#include <cerrno>
#include <functional>
#include <utility>

#include "lockmgr/backing.h"

namespace lockfs {

/// `error`: 0, the errno of a call that does not wait, or RemoteCalls::run()'s EINPROGRESS.
inline lockmgr::Reply reply_of(int error) {
  switch (error) {
    case 0:
      return lockmgr::Reply::done();
    case EAGAIN:
      return lockmgr::Reply::refused();
    case EINPROGRESS:
      return lockmgr::Reply::no_answer();
    default:
      return lockmgr::Reply::failed(error);
  }
}

/// For WaitThreads, which says 0, or an errno, EINTR when a wait was ended early. May throw
/// std::bad_alloc.
inline std::function<void(int error)> told_of_end(lockmgr::Backing::WaitDone done) {
  return [done = std::move(done)](int error) {
    if (error == 0) {
      done(lockmgr::WaitEnd::held());
    } else if (error == EINTR) {
      done(lockmgr::WaitEnd::not_held());
    } else {
      done(lockmgr::WaitEnd::failed(error));
    }
  };
}

}  // namespace lockfs
