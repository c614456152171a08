#include "fs/locks/lock_records.h"

#include <algorithm>
#include <new>

#include "fs/base/death_point.h"

namespace lockfs {

using lockmgr::Journal;
using lockmgr::Mode;
using lockmgr::OwnerId;
using lockmgr::OwnerType;
using lockmgr::Range;

/// The locks of one file.
class FileJournal final : public Journal {
 public:
  FileJournal(LockRecords& records, std::uint64_t nodeid, std::uint32_t file)
      : records_(records),
        shard_(records.shard_of(nodeid)),
        file_index_(file),
        file_(records.files_.records()[file]) {}
  FileJournal(const FileJournal&) = delete;
  FileJournal& operator=(const FileJournal&) = delete;

  ~FileJournal() override {
    file_.nodeid.store(0, std::memory_order_release);
    death_point("lock.file_left");
    {
      const std::lock_guard lock(records_.files_mutex_);
      records_.files_.give(file_index_);
    }
    const std::lock_guard lock(shard_.mutex);
    for (const std::uint32_t index : spare_) shard_.pool.give(index);
  }

  bool provide(unsigned records) noexcept override {
    if (spare_.size() >= records) return true;
    const std::lock_guard lock(shard_.mutex);
    while (spare_.size() < records) {
      const std::uint32_t index = shard_.pool.take();
      if (index == 0) return false;
      spare_.push_back(index);
    }
    return true;
  }

  void begin(const OwnerId& owner, const Range& range, Mode mode) noexcept override {
    file_.type = static_cast<std::uint8_t>(owner.type);
    file_.mode = static_cast<std::uint8_t>(mode);
    file_.cookie = owner.cookie;
    file_.first = range.first;
    file_.last = range.last;
    file_.changing.store(1, std::memory_order_release);
    death_point("lock.announced");
  }

  Record add(const Entry& entry) noexcept override {
    const std::uint32_t index = spare_.back();
    spare_.pop_back();
    LockRecord& record = records_.locks_[index];
    record.cookie = entry.owner.cookie;
    record.first = entry.range.first;
    record.last.store(entry.range.last, std::memory_order_relaxed);
    record.pid = entry.caller.pid;
    record.tid = entry.caller.tid;
    record.uid = entry.caller.uid;
    record.process = entry.process;
    record.since = entry.since;
    record.epoch = entry.epoch;
    record.type = static_cast<std::uint8_t>(entry.owner.type);
    record.mode = static_cast<std::uint8_t>(entry.mode);
    record.opened.store(entry.opened, std::memory_order_release);
    death_point("lock.added");
    return index;
  }

  void shorten(Record record, lockmgr::Offset last) noexcept override {
    records_.locks_[record].last.store(last, std::memory_order_release);
    death_point("lock.shortened");
  }

  void remove(Record record) noexcept override {
    records_.locks_[record].opened.store(0, std::memory_order_release);
    death_point("lock.removed");
    if (spare_.size() < spare_.capacity()) {
      spare_.push_back(record);
      return;
    }
    const std::lock_guard lock(shard_.mutex);
    shard_.pool.give(record);
  }

  void end() noexcept override {
    death_point("lock.made");
    file_.changing.store(0, std::memory_order_release);
    death_point("lock.committed");
  }

 private:
  LockRecords& records_;
  LockRecords::Shard& shard_;
  const std::uint32_t file_index_;
  LockedFileRecord& file_;
  boost::container::small_vector<std::uint32_t, 4> spare_;
};

Book::Shape LockRecords::shape_for(std::uint64_t most_locks) noexcept {
  // Each file keeps some, and a change has one or two more than it ends with.
  constexpr std::uint64_t kMost = 1U << 30;
  return {sizeof(LockRecord),
          static_cast<std::uint32_t>(std::min(kMost, most_locks + most_locks / 4 + (1U << 20)))};
}

std::string_view LockRecords::damage_in(Book& book) {
  const auto right = [](std::uint8_t type, std::uint8_t mode, lockmgr::Offset first,
                        lockmgr::Offset last) {
    return type <= static_cast<std::uint8_t>(OwnerType::kFlock) &&
           mode <= static_cast<std::uint8_t>(Mode::kExclusive) && first >= 0 && first <= last;
  };
  const Records<LockRecord, Kind::kLocks> locks(book);
  const bool locks_right = locks.all_of([&](const LockRecord& lock) {
    return lock.opened == 0 || (lock.mode != static_cast<std::uint8_t>(Mode::kNone) &&
                                right(lock.type, lock.mode, lock.first, lock.last));
  });
  if (!locks_right) return "a lock";
  const Records<LockedFileRecord, Kind::kLockedFiles> files(book);
  const bool files_right = files.all_of([&](const LockedFileRecord& file) {
    return file.nodeid == 0 || file.changing == 0 ||
           right(file.type, file.mode, file.first, file.last);
  });
  return files_right ? "" : "a file with locks";
}

LockRecords::LockRecords(Book& book) : locks_(book), files_(book) {
  for (auto& shard : shards_) shard = std::make_unique<Shard>(book);
  std::size_t next = 0;
  locks_.for_each([&](std::uint32_t index, LockRecord& record) {
    const std::uint64_t opened = record.opened.load();
    if (opened == 0) {
      shards_[next++ % shards_.size()]->pool.give(index);
      return;
    }
    const OwnerId owner{static_cast<OwnerType>(record.type), record.cookie};
    left_[opened].push_back({index,
                             {.owner = owner,
                              .caller = {record.pid, record.tid, record.uid},
                              .process = record.process,
                              .opened = opened,
                              .range = {record.first, record.last.load()},
                              .mode = static_cast<Mode>(record.mode),
                              .since = record.since,
                              .epoch = record.epoch}});
  });
  files_.records().for_each([&](std::uint32_t index, LockedFileRecord& record) {
    const std::uint64_t nodeid = record.nodeid.load();
    if (nodeid == 0) {
      files_.give(index);
      return;
    }
    left_files_.emplace(nodeid, index);
    if (record.changing.load() == 0) return;
    left_changes_.push_back({nodeid,
                             {{static_cast<OwnerType>(record.type), record.cookie},
                              {record.first, record.last},
                              static_cast<Mode>(record.mode)}});
  });
}

std::unordered_map<std::uint64_t, std::vector<LockRecords::Left>> LockRecords::take_left() {
  return std::exchange(left_, {});
}

void LockRecords::drop(Journal::Record record) noexcept {
  locks_[record].opened.store(0, std::memory_order_release);
  const std::lock_guard lock(shards_[0]->mutex);
  shards_[0]->pool.give(record);
}

std::vector<std::pair<std::uint64_t, LockRecords::Change>> LockRecords::take_changes() {
  return std::exchange(left_changes_, {});
}

void LockRecords::end_recovery() noexcept {
  const std::lock_guard lock(files_mutex_);
  for (const auto& [nodeid, index] : left_files_) {
    LockedFileRecord& record = files_.records()[index];
    record.changing.store(0, std::memory_order_release);
    record.nodeid.store(0, std::memory_order_release);
    files_.give(index);
  }
  left_files_.clear();
}

std::unique_ptr<Journal> LockRecords::journal_of(std::uint64_t nodeid) {
  std::uint32_t index = 0;
  {
    const std::lock_guard lock(files_mutex_);
    if (const auto left = left_files_.extract(nodeid); !left.empty()) {
      index = left.mapped();
    } else {
      index = files_.take();
      if (index == 0) throw std::bad_alloc();
      LockedFileRecord& record = files_.records()[index];
      record.changing.store(0);
      record.nodeid.store(nodeid, std::memory_order_release);
      death_point("lock.file_entered");
    }
  }
  return std::make_unique<FileJournal>(*this, nodeid, index);
}

}  // namespace lockfs
