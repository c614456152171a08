/// Memory for a reply's data.
#pragma once

#include <cstddef>
#include <vector>

namespace lockfs {

/// At least `size` bytes that belong to the calling thread until its next call. They are kept for
/// the thread's life: a request asks for 1 MiB at most. Throws std::bad_alloc.
inline char* scratch_buffer(std::size_t size) {
  thread_local std::vector<char> buffer;
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data();
}

}  // namespace lockfs
