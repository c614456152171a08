/// A backing file's registration with the kernel (FUSE_DEV_IOC_BACKING_OPEN), ended with the
/// object.
///
/// Thread safety: none; one thread at a time.
#pragma once

#include <sys/ioctl.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "fs/loop/fuse_protocol.h"

namespace lockfs {

class BackingId {
 public:
  BackingId() noexcept = default;
  /// `device` holds the session's device descriptor, or -1 once the connection is gone, and its
  /// registrations with it; it must outlive the object.
  BackingId(const std::atomic<int>& device, std::int32_t id) noexcept : device_(&device), id_(id) {}
  BackingId(BackingId&& other) noexcept
      : device_(other.device_), id_(std::exchange(other.id_, 0)) {}
  BackingId& operator=(BackingId&& other) noexcept {
    BackingId old(std::move(*this));
    device_ = other.device_;
    id_ = std::exchange(other.id_, 0);
    return *this;
  }
  BackingId(const BackingId&) = delete;
  BackingId& operator=(const BackingId&) = delete;
  ~BackingId() {
    if (id_ == 0) return;
    const int fd = device_->load();
    auto id = static_cast<std::uint32_t>(id_);
    if (fd >= 0) ::ioctl(fd, proto::kDevIocBackingClose, &id);
  }

  /// What an OPEN reply carries; 0: not registered.
  [[nodiscard]] std::int32_t value() const noexcept { return id_; }

 private:
  const std::atomic<int>* device_ = nullptr;
  std::int32_t id_ = 0;
};

}  // namespace lockfs
