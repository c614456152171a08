/// A backing that passes every call on to another: for those that change a few.
///
/// Thread safety: as Backing demands.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "lockmgr/backing.h"

namespace lockmgr {

class ForwardingBacking : public Backing {
 public:
  /// `inner` must outlive the object and every wait.
  explicit ForwardingBacking(Backing& inner) : inner_(inner) {}

  bool carries() const noexcept override { return inner_.carries(); }

  Reply set(const Range& range, Mode mode, const Carried& carried) noexcept override {
    return inner_.set(range, mode, carried);
  }
  Reply test(const Range& range, Mode mode, std::optional<OutsideLock>& found) noexcept override {
    return inner_.test(range, mode, found);
  }
  int wait(WaitId id, const Range& range, Mode mode, const Carried& carried, bool yield_first,
           WaitDone done) noexcept override {
    return inner_.wait(id, range, mode, carried, yield_first, std::move(done));
  }
  void recall(WaitId id) noexcept override { inner_.recall(id); }
  void expect_release() noexcept override { inner_.expect_release(); }
  bool outsiders_waiting() noexcept override { return inner_.outsiders_waiting(); }
  Inspector inspector() override { return inner_.inspector(); }
  Backing& flocks() noexcept override { return inner_.flocks(); }
  std::string name() const override { return inner_.name(); }

 protected:
  Backing& inner() noexcept { return inner_; }

 private:
  Backing& inner_;
};

}  // namespace lockmgr
