/// The open files, or the open directories, that the kernel knows, by the number it has of each
/// (`fi->fh`). It does not release those that are open when a mount is ended by force, or in the
/// moment of its end; they go with the set.
///
/// Thread safety: all members may be called from any thread. find() takes no mutex: the kernel asks
/// for nothing by a number any more when it has asked for the release.
///
/// Invariants:
///  1. A number is the index of a record in the book and a generation; it is never given out twice.
///     One that is gone is not found, whatever has its record now.
///  2. A handle's record is written before its number is handed on, and freed before its descriptor
///     is closed.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>

#include "fs/base/book.h"
#include "fs/base/death_point.h"
#include "fs/loop/current_request.h"
#include "fs/tree/records.h"

namespace lockfs {

/// A Handle has `fh`, which the set fills in, and describe(HandleRecord&).
template <typename Handle>
class HandleSet {
 public:
  /// `book` must outlive the object.
  explicit HandleSet(Book& book) : pool_(book) {}
  HandleSet(const HandleSet&) = delete;
  HandleSet& operator=(const HandleSet&) = delete;
  ~HandleSet() {
    for (std::atomic<Slot*>& chunk : chunks_) {
      if (chunk == nullptr) continue;
      for (std::size_t i = 0; i < kSlots; ++i) {
        if (const std::uint64_t fh = chunk[i].fh; fh != 0) remove(fh);
      }
      delete[] chunk.load();
    }
  }

  /// Owns the handle from now on, and gives it its number. Throws std::bad_alloc.
  Handle& add(std::unique_ptr<Handle> handle) {
    const std::lock_guard lock(mutex_);
    if (!pool_.provide()) throw std::bad_alloc();
    const std::uint32_t index = pool_.take();
    Slot* const slot = slot_of(index);
    if (slot == nullptr) {
      pool_.give(index);
      throw std::bad_alloc();
    }
    HandleRecord& record = pool_.records()[index];
    ++record.generation;
    handle->fh = HandleRecord::fh_of(index, record.generation);
    handle->describe(record);
    record.unique = CurrentRequest::unique();
    record.fh.store(handle->fh, std::memory_order_release);
    death_point("handle.written");
    return enter(*slot, std::move(handle));
  }

  /// Takes a handle over that an earlier process had, under the same number. Throws std::bad_alloc.
  Handle& restore(const HandleRecord& record, std::unique_ptr<Handle> handle) {
    const std::lock_guard lock(mutex_);
    Slot* const slot = slot_of(pool_.records().index_of(record));
    if (slot == nullptr) throw std::bad_alloc();
    handle->fh = record.fh;
    return enter(*slot, std::move(handle));
  }

  /// A record that no set uses is free for this one.
  void provide(std::uint32_t index) noexcept {
    const std::lock_guard lock(mutex_);
    pool_.give(index);
  }

  /// Null: there is none with this number. It lives until somebody removes it.
  [[nodiscard]] Handle* find(std::uint64_t fh) const noexcept {
    const auto index = static_cast<std::uint32_t>(fh);
    if (index >= kHandleShape.most) return nullptr;
    const Slot* const chunk = chunks_[index / kSlots].load(std::memory_order_acquire);
    if (chunk == nullptr) return nullptr;
    const Slot& slot = chunk[index % kSlots];
    if (slot.fh.load(std::memory_order_acquire) != fh) return nullptr;
    return slot.handle.load(std::memory_order_relaxed);
  }

  /// Gives the handle up to the caller. Null: there is none with this number.
  std::unique_ptr<Handle> remove(std::uint64_t fh) noexcept {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Handle> handle(fh == 0 ? nullptr : find(fh));
    if (handle == nullptr) return handle;
    const auto index = static_cast<std::uint32_t>(fh);
    slot_of(index)->fh.store(0, std::memory_order_release);
    pool_.records()[index].fh.store(0, std::memory_order_release);
    death_point("handle.removed");
    pool_.give(index);
    return handle;
  }

 private:
  struct Slot {
    std::atomic<std::uint64_t> fh{0};  ///< 0: nothing is there
    std::atomic<Handle*> handle{nullptr};
  };
  static constexpr std::size_t kSlots = 512;

  // With the mutex held:
  /// Null: no memory.
  Slot* slot_of(std::uint32_t index) noexcept {
    if (index >= kHandleShape.most) return nullptr;
    std::atomic<Slot*>& chunk = chunks_[index / kSlots];
    if (chunk == nullptr) chunk.store(new (std::nothrow) Slot[kSlots], std::memory_order_release);
    return chunk == nullptr ? nullptr : &chunk[index % kSlots];
  }
  static Handle& enter(Slot& slot, std::unique_ptr<Handle> handle) noexcept {
    slot.handle.store(handle.get(), std::memory_order_relaxed);
    slot.fh.store(handle->fh, std::memory_order_release);
    return *handle.release();
  }

  std::mutex mutex_;
  RecordPool<HandleRecord, Kind::kHandles> pool_;  ///< guarded by mutex_
  /// By the index of the record; written with mutex_ held.
  std::array<std::atomic<Slot*>, kHandleShape.most / kSlots> chunks_{};
};

}  // namespace lockfs
