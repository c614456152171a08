/// Memory that a benchmark shares with the processes it forks.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <span>

#include "tests/bench/mounts.h"

namespace lockfs::bench {

/// `count` objects of a trivial type, zero at first; gone with this object.
template <typename T>
class SharedArray {
 public:
  explicit SharedArray(std::size_t count) : bytes_(count * sizeof(T)) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "mmap");
    items_ = {static_cast<T*>(memory), count};
  }
  SharedArray(const SharedArray&) = delete;
  SharedArray& operator=(const SharedArray&) = delete;
  ~SharedArray() { munmap(items_.data(), bytes_); }

  T& operator[](std::size_t i) const { return items_[i]; }
  std::span<T> all() const { return items_; }

 private:
  std::size_t bytes_;
  std::span<T> items_;
};

}  // namespace lockfs::bench
