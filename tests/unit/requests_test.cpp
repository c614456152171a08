// Requests under way in the book: what the next daemon finds of them. The first is left as it
// stands, as by a signal.
// ctest: links=lockfs_loop
#include "fs/loop/requests.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "fs/base/book.h"

namespace lockfs {
namespace {

constexpr Book::Shapes kShapes = {
    {}, {}, {}, {}, {}, {}, {sizeof(KeptRecord), 256}, {sizeof(RequestSlot), 256}};

/// A request as the kernel writes it.
std::string request(std::uint64_t unique, std::size_t size = sizeof(fuse_in_header),
                    std::uint32_t opcode = FUSE_UNLINK) {
  fuse_in_header header{};
  header.len = static_cast<std::uint32_t>(size);
  header.opcode = opcode;
  header.unique = unique;
  std::string bytes(size, 'x');
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

void read_into(RequestSlot& slot, const std::string& bytes) {
  slot.begin_reading();
  std::memcpy(slot.bytes, bytes.data(), bytes.size());
}

void answer(RequestSlot& slot, std::uint64_t unique, const std::string& data = {}) {
  fuse_out_header header{static_cast<std::uint32_t>(sizeof header + data.size()), 0, unique};
  const iovec parts[] = {{&header, sizeof header}, {const_cast<char*>(data.data()), data.size()}};
  slot.note_answer(parts, 2);
}

std::vector<std::uint64_t> numbers(const std::vector<RequestSlot*>& slots) {
  std::vector<std::uint64_t> found;
  for (RequestSlot* const slot : slots) found.push_back(slot->header().unique);
  std::sort(found.begin(), found.end());
  return found;
}

class RequestsTest : public ::testing::TestWithParam<bool> {
 protected:
  RequestSlot& slot_of(std::uint64_t unique) {
    RequestSlot* const slot = first_.take();
    read_into(*slot, request(unique));
    return *slot;
  }
  /// How many pages of a slot take memory.
  static std::size_t resident(RequestSlot& slot) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> pages((sizeof slot.bytes + page - 1) / page);
    EXPECT_EQ(::mincore(slot.bytes, sizeof slot.bytes, pages.data()), 0);
    return static_cast<std::size_t>(
        std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return (p & 1) != 0; }));
  }

  Book book_{kShapes, 0, GetParam()};
  RequestSlots first_{book_};
  KeptRequests kept_{book_};
};

INSTANTIATE_TEST_SUITE_P(Memory, RequestsTest, ::testing::Bool(),
                         [](const auto& instance) { return instance.param ? "Shared" : "Own"; });

TEST_P(RequestsTest, EachThatWasReadAndNotAnsweredIsFound) {
  EXPECT_EQ(first_.outlive(), GetParam());
  RequestSlot* const untouched = first_.take();
  RequestSlot* const waiting = first_.take();
  waiting->begin_reading();
  RequestSlot& read = slot_of(1);
  RequestSlot& doing = slot_of(2);
  doing.begin();
  RequestSlot& done = slot_of(3);
  done.begin();
  answer(done, 3, "data");
  RequestSlot& ended = slot_of(4);
  ended.begin();
  ended.end();
  RequestSlot& given = slot_of(5);
  given.begin();
  first_.give(given);

  RequestSlots second(book_);
  const std::vector<RequestSlot*> left = second.take_over();
  EXPECT_EQ(numbers(left), (std::vector<std::uint64_t>{1, 2, 3}));
  EXPECT_EQ(read.state, RequestSlot::kReading);
  EXPECT_EQ(doing.state, RequestSlot::kDoing);
  EXPECT_EQ(done.state, RequestSlot::kDone);
  EXPECT_EQ(std::string(done.answer() + sizeof(fuse_out_header), 4), "data");
  // The others are given out again, those left only once they are given back.
  std::vector<RequestSlot*> taken;
  for (int i = 0; i < 64; ++i) taken.push_back(second.take());
  const auto has = [&](RequestSlot* slot) {
    return std::find(taken.begin(), taken.end(), slot) != taken.end();
  };
  EXPECT_TRUE(has(untouched) && has(waiting) && has(&ended) && has(&given));
  EXPECT_FALSE(has(&read) || has(&doing) || has(&done));
  for (RequestSlot* const slot : left) second.give(*slot);
  EXPECT_TRUE(RequestSlots(book_).take_over().empty());
}

TEST_P(RequestsTest, OneLeftTwiceIsFoundTwice) {
  RequestSlot& doing = slot_of(7);
  doing.begin();
  const std::int64_t begun = doing.begun_at;
  EXPECT_GT(begun, 0);
  EXPECT_EQ(doing.repeats, 0U);
  for (unsigned life = 1; life < 4; ++life) {
    RequestSlots next(book_);
    const std::vector<RequestSlot*> left = next.take_over();
    ASSERT_EQ(left.size(), 1U);
    EXPECT_EQ(left[0]->begun_at, begun);
    EXPECT_EQ(++left[0]->repeats, life);
  }
}

// A thread of another process, which sleeps here, as it may in a system call after the rest died.
TEST_P(RequestsTest, WhatAThreadOfTheDeadIsStillAboutIsUnderWay) {
  RequestSlot& own = slot_of(1);
  own.begin();
  EXPECT_FALSE(own.is_under_way());
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  RequestSlot& slot = slot_of(2);
  slot.begin();
  slot.process = child;
  slot.thread = child;
  EXPECT_TRUE(slot.is_under_way());
  slot.thread = ::gettid();
  EXPECT_FALSE(slot.is_under_way()) << "it is not of that process";
  slot.thread = child;
  slot.state = RequestSlot::kDone;
  EXPECT_FALSE(slot.is_under_way());
  slot.state = RequestSlot::kDoing;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(slot.is_under_way());
}

TEST_P(RequestsTest, AnotherRequestForgetsWhatTheLastOneNoted) {
  RequestSlot& slot = slot_of(1);
  slot.begin();
  slot.noted = 1;
  slot.counts_made = 5;
  slot.count_pending = 6;
  slot.repeats = 2;
  slot.end();
  read_into(slot, request(2));
  slot.begin();
  EXPECT_EQ(slot.unique, 2U);
  EXPECT_EQ(slot.noted + slot.counts_made + slot.count_pending + slot.repeats, 0U);
}

TEST_P(RequestsTest, WhichAnswersAreStored) {
  RequestSlot& slot = slot_of(1);
  answer(slot, 1);
  EXPECT_EQ(slot.state, RequestSlot::kReading);  // of another request, from this thread
  slot.begin();
  answer(slot, 99);  // as one that unlocks answers who waited
  EXPECT_EQ(slot.state, RequestSlot::kDoing);
  answer(slot, 1, std::string(slot.answer_room(), 'a'));  // no room, with its header
  EXPECT_EQ(slot.state, RequestSlot::kDoing);
  answer(slot, 1, std::string(slot.answer_room() - sizeof(fuse_out_header), 'a'));
  EXPECT_EQ(slot.state, RequestSlot::kDone);
  EXPECT_EQ(slot.answer()[slot.answer_size - 1], 'a');
  EXPECT_EQ(slot.header().unique, 1U);  // the answer stands behind the request
  slot.end();
  read_into(slot, request(2, sizeof(fuse_in_header), FUSE_READ));
  slot.begin();
  answer(slot, 2, "data");
  EXPECT_EQ(slot.state, RequestSlot::kDoing);  // what was read is read again
}

TEST_P(RequestsTest, ALargestRequestLeavesNoRoom) {
  RequestSlot& slot = *first_.take();
  read_into(slot, request(1, RequestSlot::kRoom));
  slot.begin();
  EXPECT_EQ(slot.answer_room(), 0U);
  answer(slot, 1);
  EXPECT_EQ(slot.state, RequestSlot::kDoing);
}

TEST_P(RequestsTest, MemoryIsGivenBackButForAFewSlots) {
  std::vector<RequestSlot*> taken;
  for (int i = 0; i < 20; ++i) {
    taken.push_back(first_.take());
    std::memset(taken.back()->bytes, 1, sizeof taken.back()->bytes);
  }
  for (RequestSlot* const slot : taken) first_.give(*slot);
  std::size_t full = 0;
  std::size_t gone = 0;
  for (RequestSlot* const slot : taken) {
    const std::size_t pages = resident(*slot);
    full += pages == sizeof slot->bytes / 4096 ? 1 : 0;
    gone += pages == 0 ? 1 : 0;
  }
  EXPECT_EQ(full, 8U);
  EXPECT_EQ(gone, 12U);
  // And is there again before the kernel writes.
  for (int i = 0; i < 20; ++i) {
    RequestSlot* const slot = first_.take();
    EXPECT_GE(resident(*slot), sizeof slot->bytes / 4096);
  }
}

TEST_P(RequestsTest, ThereIsAnEnd) {
  std::vector<RequestSlot*> taken;
  while (RequestSlot* const slot = first_.take()) taken.push_back(slot);
  EXPECT_GT(taken.size(), 100U);
  first_.give(*taken.back());
  EXPECT_EQ(first_.take(), taken.back());
  EXPECT_EQ(first_.take(), nullptr);
}

TEST_P(RequestsTest, KeptOnesAreFound) {
  const std::uint32_t waits = kept_.keep(request(1, 100).data(), 100);
  const std::uint32_t parked = kept_.keep(request(2, 100).data(), 100);
  const std::uint32_t answered = kept_.keep(request(3, 100).data(), 100);
  const std::uint32_t gone = kept_.keep(request(4, 100).data(), 100);
  ASSERT_TRUE(waits != 0 && parked != 0 && answered != 0 && gone != 0);
  kept_.note_parked(parked, 12345);
  kept_.note_interrupted(parked);
  kept_.answering(answered, EAGAIN);
  kept_.answering(gone, 0);
  kept_.give(gone);

  KeptRequests second(book_);
  std::vector<std::uint32_t> left = second.take_over();
  std::sort(left.begin(), left.end(),
            [&](auto a, auto b) { return second[a].unique < second[b].unique; });
  ASSERT_EQ(left, (std::vector<std::uint32_t>{waits, parked, answered}));
  EXPECT_EQ(second[waits].parked_at, 0);
  EXPECT_EQ(second[waits].interrupted, 0U);
  EXPECT_EQ(second[waits].size, 100U);
  EXPECT_EQ(std::string(second[waits].bytes, 100), request(1, 100));
  EXPECT_EQ(second[parked].parked_at, 12345);
  EXPECT_EQ(second[parked].interrupted, 1U);
  EXPECT_EQ(second[answered].state, KeptRecord::kDone);
  EXPECT_EQ(second[answered].error, EAGAIN);
  // What they leave is as new.
  for (const std::uint32_t record : left) second.give(record);
  for (int i = 0; i < 64; ++i) {
    const std::uint32_t fresh = second.keep(request(9, 60).data(), 60);
    ASSERT_NE(fresh, 0U);
    EXPECT_EQ(second[fresh].parked_at, 0);
    EXPECT_EQ(second[fresh].interrupted, 0U);
    EXPECT_EQ(second[fresh].state, KeptRecord::kWaits);
  }
}

TEST_P(RequestsTest, WhatDoesNotFitIsNotKept) {
  const std::string fits = request(1, KeptRecord::kRoom);
  const std::string large = request(2, KeptRecord::kRoom + 1);
  EXPECT_NE(kept_.keep(fits.data(), fits.size()), 0U);
  EXPECT_EQ(kept_.keep(large.data(), large.size()), 0U);
  EXPECT_EQ(KeptRequests(book_).take_over().size(), 1U);
  // Record 0 stands for none.
  kept_.answering(0, 1);
  kept_.note_parked(0, 1);
  kept_.note_interrupted(0);
  kept_.give(0);
  EXPECT_EQ(kept_[0].state, KeptRecord::kFree);
  EXPECT_EQ(kept_[0].parked_at, 0);
}

TEST_P(RequestsTest, KeptOnesHaveAnEnd) {
  const std::string bytes = request(1, 60);
  std::vector<std::uint32_t> records;
  while (const std::uint32_t record = kept_.keep(bytes.data(), bytes.size())) {
    records.push_back(record);
  }
  EXPECT_GT(records.size(), 100U);
  kept_.give(records.front());
  EXPECT_EQ(kept_.keep(bytes.data(), bytes.size()), records.front());
}

}  // namespace
}  // namespace lockfs
