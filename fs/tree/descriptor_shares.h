/// How many files each user may have open through the mount, and how many with locks, which count
/// once more: the daemon has descriptors for only so many. A user may take more as long as at least
/// a third of what he has is left for the others. Root may take all, and what is kept for the
/// daemon itself.
///
/// Example: of 1,000 one user alone gets 750, a second one then 188, a third one 47. It takes some
/// ten who agree to leave nothing.
///
/// Thread safety: take() and give() may be called from any thread.
///
/// Invariants:
///  1. The sum of what users have is `taken_`.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace lockfs {

class DescriptorShares {
 public:
  /// `most`: open files that there are descriptors for. `shared`: users other than the daemon's may
  /// come in; else the one user may have all.
  DescriptorShares(std::size_t most, bool shared) noexcept : most_(most), shared_(shared) {}

  /// What a user has for one open file, until it is destroyed.
  class Share {
   public:
    Share() noexcept = default;
    Share(Share&& other) noexcept
        : shares_(std::exchange(other.shares_, nullptr)), uid_(other.uid_) {}
    Share& operator=(Share&&) = delete;
    ~Share() {
      // The analyzer does not see the constructor through take()'s pair.
      // NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult)
      if (shares_ != nullptr) shares_->give(uid_);
    }

    [[nodiscard]] uid_t uid() const noexcept { return uid_; }

   private:
    friend class DescriptorShares;
    Share(DescriptorShares& shares, uid_t uid) noexcept : shares_(&shares), uid_(uid) {}

    DescriptorShares* shares_ = nullptr;
    uid_t uid_ = 0;
  };

  /// 0 and a share, or ENFILE. Shares must go before the object. May throw std::bad_alloc.
  [[nodiscard]] std::pair<int, Share> take(uid_t uid) {
    constexpr std::size_t kTimes = 3;
    const std::lock_guard lock(mutex_);
    std::size_t& own = by_user_[uid];
    const std::size_t left = most_ - std::min(taken_, most_);
    const bool enough = uid == 0 || (shared_ ? own < kTimes * left : left > 0);
    if (!enough) {
      if (own == 0) by_user_.erase(uid);
      return {ENFILE, Share()};
    }
    ++own;
    ++taken_;
    return {0, Share(*this, uid)};
  }

  /// take() of what a user had already when this process came: never refused. May throw
  /// std::bad_alloc.
  [[nodiscard]] Share take_again(uid_t uid) {
    const std::lock_guard lock(mutex_);
    ++by_user_[uid];
    ++taken_;
    return {*this, uid};
  }

  /// How many files a user has open.
  [[nodiscard]] std::size_t of(uid_t uid) const {
    const std::lock_guard lock(mutex_);
    const auto user = by_user_.find(uid);
    return user == by_user_.end() ? 0 : user->second;
  }
  [[nodiscard]] std::size_t most() const noexcept { return most_; }

 private:
  void give(uid_t uid) noexcept {
    const std::lock_guard lock(mutex_);
    const auto user = by_user_.find(uid);
    --taken_;
    if (--user->second == 0) by_user_.erase(user);
  }

  const std::size_t most_;
  const bool shared_;
  mutable std::mutex mutex_;
  std::unordered_map<uid_t, std::size_t> by_user_;  ///< guarded by mutex_
  std::size_t taken_ = 0;                           ///< guarded by mutex_
};

}  // namespace lockfs
