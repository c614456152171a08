/// The owners of a file by name: a hash table that needs no memory for a file with one owner.
///
/// Thread safety: none of its own; guarded by the mutex of the file.
///
/// Invariants:
///  1. No two owners have one name; it does not change while they are in here.
///  2. The table owns those in it, and its buckets but for the first.
#pragma once

#include <boost/intrusive/unordered_set.hpp>
#include <cstddef>
#include <memory>
#include <new>

#include "lockmgr/owner.h"

namespace lockmgr {

/// `T` has `const OwnerId id` and `boost::intrusive::unordered_set_member_hook<> table_hook`.
template <typename T>
class OwnerTable {
 public:
  OwnerTable() : table_(Traits(&first_, 1)) {}
  ~OwnerTable() {
    table_.clear_and_dispose(std::default_delete<T>());
    Bucket* buckets = table_.bucket_pointer();
    table_.rehash(Traits(&first_, 1));  // its destructor looks at its buckets
    free_buckets(buckets);
  }
  OwnerTable(const OwnerTable&) = delete;
  OwnerTable& operator=(const OwnerTable&) = delete;

  auto begin() { return table_.begin(); }
  auto end() { return table_.end(); }
  auto begin() const { return table_.begin(); }
  auto end() const { return table_.end(); }

  /// The owner of that name, or null.
  T* find(const OwnerId& id) const noexcept {
    const auto it = table_.find(id);
    return it == table_.end() ? nullptr : const_cast<T*>(&*it);
  }
  /// REQUIRES: there is none of that name.
  T& insert(std::unique_ptr<T> owner) noexcept {
    if (table_.size() >= table_.bucket_count()) grow();
    T& inserted = *owner.release();
    table_.insert(inserted);
    return inserted;
  }
  /// Destroys it.
  void erase(T& owner) noexcept {
    table_.erase_and_dispose(table_.iterator_to(owner), std::default_delete<T>());
  }

 private:
  struct NameOf {
    using type = OwnerId;
    const type& operator()(const T& owner) const { return owner.id; }
  };
  using Hook = boost::intrusive::unordered_set_member_hook<>;
  using Table =
      boost::intrusive::unordered_set<T, boost::intrusive::member_hook<T, Hook, &T::table_hook>,
                                      boost::intrusive::key_of_value<NameOf>,
                                      boost::intrusive::hash<OwnerIdHash>,
                                      boost::intrusive::power_2_buckets<true>>;
  using Bucket = typename Table::bucket_type;
  using Traits = typename Table::bucket_traits;

  /// Without memory for more buckets the table becomes slower, nothing else.
  void grow() noexcept {
    const std::size_t count = table_.bucket_count() * (table_.bucket_count() == 1 ? 8 : 2);
    Bucket* buckets = new (std::nothrow) Bucket[count];
    if (buckets == nullptr) return;
    Bucket* old = table_.bucket_pointer();
    table_.rehash(Traits(buckets, count));
    free_buckets(old);
  }
  void free_buckets(Bucket* buckets) noexcept {
    if (buckets != &first_) delete[] buckets;
  }

  Bucket first_;  ///< of a table with one
  Table table_;
};

}  // namespace lockmgr
