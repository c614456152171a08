// The trace format: what is written is read, and nothing else is taken for a trace.
#include "lockmgr/trace/format.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "lockmgr/trace/bytes.h"
#include "lockmgr/trace/decoder.h"
#include "lockmgr/trace/encoder.h"
#include "tests/replay/traces.h"
#include "tests/unit/random.h"

namespace replay::testing {
namespace {

using lockmgr::trace::Damage;
using lockmgr::trace::decode;
using lockmgr::trace::Decoded;
using lockmgr::trace::encode;
using lockmgr::trace::Encoder;
using lockmgr::trace::EventType;
using lockmgr::trace::Trace;
using lockmgr::trace::TraceEvent;

void expect_equal(const Trace& got, const Trace& wanted) {
  EXPECT_EQ(got.head.begin, wanted.head.begin);
  EXPECT_EQ(got.head.generated, wanted.head.generated);
  EXPECT_EQ(got.head.policy, wanted.head.policy);
  EXPECT_EQ(got.head.source, wanted.head.source);
  EXPECT_EQ(got.head.program, wanted.head.program);
  ASSERT_EQ(got.files.size(), wanted.files.size());
  for (std::size_t i = 0; i < got.files.size(); ++i) {
    EXPECT_EQ(got.files[i].name, wanted.files[i].name);
    EXPECT_EQ(got.files[i].inode, wanted.files[i].inode);
  }
  ASSERT_EQ(got.actors.size(), wanted.actors.size());
  for (std::size_t i = 0; i < got.actors.size(); ++i) {
    EXPECT_EQ(got.actors[i].tid, wanted.actors[i].tid);
    EXPECT_EQ(got.actors[i].command, wanted.actors[i].command);
  }
  ASSERT_EQ(got.owners.size(), wanted.owners.size());
  for (std::size_t i = 0; i < got.owners.size(); ++i) {
    EXPECT_EQ(got.owners[i].type, wanted.owners[i].type);
    EXPECT_EQ(got.owners[i].remote, wanted.owners[i].remote);
    EXPECT_EQ(got.owners[i].identity, wanted.owners[i].identity);
  }
  ASSERT_EQ(got.opens.size(), wanted.opens.size());
  for (std::size_t i = 0; i < got.opens.size(); ++i) {
    EXPECT_EQ(got.opens[i].file, wanted.opens[i].file);
    EXPECT_EQ(got.opens[i].readable, wanted.opens[i].readable);
    EXPECT_EQ(got.opens[i].writable, wanted.opens[i].writable);
  }
  ASSERT_EQ(got.events.size(), wanted.events.size());
  for (std::size_t i = 0; i < got.events.size(); ++i) {
    const TraceEvent& a = got.events[i];
    const TraceEvent& b = wanted.events[i];
    EXPECT_EQ(a.type, b.type) << i;
    EXPECT_EQ(a.time, b.time) << i;
    EXPECT_EQ(a.actor, b.actor) << i;
    EXPECT_EQ(a.open, b.open) << i;
    EXPECT_EQ(a.owner, b.owner) << i;
    EXPECT_EQ(a.range, b.range) << i;
    EXPECT_EQ(a.mode, b.mode) << i;
    EXPECT_EQ(a.wait, b.wait) << i;
    EXPECT_EQ(a.patience, b.patience) << i;
    EXPECT_EQ(a.ask, b.ask) << i;
    EXPECT_EQ(a.error, b.error) << i;
    EXPECT_EQ(a.lost, b.lost) << i;
    EXPECT_EQ(a.file, b.file) << i;
    EXPECT_EQ(a.policy, b.policy) << i;
    EXPECT_EQ(a.said, b.said) << i;
    EXPECT_EQ(a.call, b.call) << i;
    EXPECT_EQ(a.wait_number, b.wait_number) << i;
  }
}

TEST(TraceFormat, WhatIsWrittenIsRead) {
  Trace trace = sample();
  trace.events.emplace_back();
  trace.events.back().type = EventType::kTick;
  trace.events.back().time = std::chrono::hours(3);
  trace.events.push_back(trace.events.back());
  trace.events.back().type = EventType::kLost;
  trace.events.back().lost = 12345;
  trace.events[0].patience = std::chrono::seconds(2);
  const Decoded decoded = decode(encode(trace));
  ASSERT_FALSE(decoded.damage) << decoded.damage->text;
  expect_equal(decoded.trace, trace);
  EXPECT_EQ(decoded.trace.lost, 12345U);
}

TEST(TraceFormat, NumbersOfEverySize) {
  std::string bytes;
  std::vector<std::uint64_t> values = {0, 1, 127, 128, 16383, 16384, UINT64_MAX, UINT64_MAX - 1};
  for (int i = 0; i < 64; ++i) values.push_back(std::uint64_t{1} << i);
  for (const std::uint64_t value : values) lockmgr::trace::put_varint(bytes, value);
  lockmgr::trace::Scanner scanner(bytes);
  for (const std::uint64_t value : values) EXPECT_EQ(scanner.varint(), value);
  EXPECT_TRUE(scanner.ok());
  EXPECT_TRUE(scanner.empty());

  lockmgr::trace::Scanner too_long("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02");
  too_long.varint();
  EXPECT_FALSE(too_long.ok());
}

TEST(TraceFormat, LongTraceInManyBlocksAndPieces) {
  lockmgr::testing::Random random(lockmgr::testing::test_seed());
  TraceBuilder b;
  const Index file = b.file("file");
  std::vector<TraceBuilder::Hand> hands;
  for (int i = 0; i < 20; ++i) hands.push_back(b.hand(file));
  int at = 0;
  for (int i = 0; i < 20'000; ++i) {
    at += random.between(0, 5);
    const auto first = static_cast<lockmgr::Offset>(random.below(1'000'000));
    b.ask_answered(at, hands[random.below(hands.size())], OwnerType::kProcess,
                   static_cast<Mode>(random.below(3)), random.one_in(9) ? EAGAIN : 0,
                   random.one_in(2),
                   {first, first + static_cast<lockmgr::Offset>(random.below(99))});
  }
  const std::string whole = encode(b.trace);
  // 40,000 events: compact means about ten bytes for a request with its answer and its range.
  EXPECT_LT(whole.size(), 20'000U * 20);
  const Decoded decoded = decode(whole);
  ASSERT_FALSE(decoded.damage) << decoded.damage->text;
  expect_equal(decoded.trace, b.trace);

  // Taken piece by piece it is the same, and each piece ends a trace that can be used so far.
  Encoder encoder(b.trace.head);
  for (const auto& f : b.trace.files) encoder.define(f);
  for (const auto& a : b.trace.actors) encoder.define(a);
  for (const auto& o : b.trace.owners) encoder.define(o);
  for (const auto& o : b.trace.opens) encoder.define(o);
  std::string pieces;
  std::size_t events = 0;
  for (std::size_t i = 0; i < b.trace.events.size(); ++i) {
    encoder.add(b.trace.events[i]);
    const std::string piece = encoder.take();
    pieces += piece;
    if (i % 5000 != 0 || piece.empty()) continue;
    const Decoded part = decode(pieces);
    ASSERT_TRUE(part.damage);
    EXPECT_EQ(part.damage->kind, Damage::Kind::kCut);
    EXPECT_GE(part.trace.events.size(), events);
    events = part.trace.events.size();
  }
  encoder.finish();
  pieces += encoder.take();
  EXPECT_EQ(encoder.size(), pieces.size() + lockmgr::trace::kBlockHeader);
  EXPECT_TRUE(pieces == whole);
}

TEST(TraceFormat, CutAnywhereItSaysSo) {
  const std::string whole = encode(sample());
  ASSERT_FALSE(decode(whole).damage);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Decoded decoded = decode(std::string_view(whole).substr(0, size));
    ASSERT_TRUE(decoded.damage) << size;
    const auto wanted = size == 0 ? Damage::Kind::kNotATrace : Damage::Kind::kCut;
    EXPECT_EQ(decoded.damage->kind, wanted) << size << ": " << decoded.damage->text;
    EXPECT_EQ(decoded.damage->text.find('\n'), std::string::npos);
  }
  EXPECT_TRUE(decode(whole + "x").damage);
  EXPECT_TRUE(decode(whole + whole).damage);
}

TEST(TraceFormat, EveryFlippedBitIsFound) {
  const std::string whole = encode(sample());
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
      const Decoded decoded = decode(bytes);
      ASSERT_TRUE(decoded.damage) << "byte " << at << " bit " << bit;
      EXPECT_FALSE(decoded.damage->text.empty());
      EXPECT_EQ(decoded.damage->text.find('\n'), std::string::npos);
    }
  }
}

/// A trace with one events block of these bytes, its checksum right.
std::string with_payload(const std::string& payload) {
  lockmgr::trace::Encoder encoder({});
  std::string bytes = encoder.take();
  std::string head = "E";
  lockmgr::trace::put_fixed(head, payload.size(), 4);
  const std::uint32_t sum = lockmgr::trace::checksum(head, payload);
  bytes += head;
  lockmgr::trace::put_fixed(bytes, sum, 4);
  return bytes + payload;
}

// Checksums do not help against a trace that somebody made up.
TEST(TraceFormat, NonsenseWithRightChecksumsIsRefused) {
  lockmgr::testing::Random random(lockmgr::testing::test_seed());
  const std::string payload = [] {
    const std::string whole = encode(sample());
    const std::string head = lockmgr::trace::Encoder(sample().head).take();
    const std::string rest = whole.substr(head.size());
    const auto size = lockmgr::trace::get_fixed(rest.substr(1, 4));
    return rest.substr(lockmgr::trace::kBlockHeader, size);
  }();
  const Decoded good = decode(with_payload(payload));
  ASSERT_TRUE(good.damage);  // it has no end
  EXPECT_EQ(good.damage->kind, Damage::Kind::kCut);
  EXPECT_EQ(good.trace.events.size(), sample().events.size());

  for (int round = 0; round < lockmgr::testing::scaled(200'000); ++round) {
    std::string bytes = payload;
    const int changes = random.between(1, 4);
    for (int i = 0; i < changes; ++i) {
      const std::size_t at = random.below(bytes.size());
      switch (random.below(3)) {
        case 0:
          bytes[at] = static_cast<char>(random.below(256));
          break;
        case 1:
          bytes.erase(at, random.below(4));
          break;
        default:
          bytes.insert(at, 1, static_cast<char>(random.below(256)));
      }
      if (bytes.empty()) bytes = "x";
    }
    const Decoded decoded = decode(with_payload(bytes));
    ASSERT_TRUE(decoded.damage);
    // What was read must be safe to use.
    const Trace& trace = decoded.trace;
    std::uint64_t asks = 0;
    std::uint64_t waits = 0;
    for (const TraceEvent& event : trace.events) {
      if (event.type == EventType::kAnswer) {
        ASSERT_LT(event.ask, asks);
        continue;
      }
      if (event.type == EventType::kAsk) ++asks;
      if (event.type == EventType::kTick || event.type == EventType::kLost) continue;
      if (event.type == EventType::kPolicy) {
        ASSERT_LT(event.policy, trace.policies.size());
        continue;
      }
      if (event.type == EventType::kOutside || event.type == EventType::kRevoke) {
        ASSERT_LT(event.file, trace.files.size());
        if (event.said == lockmgr::trace::OutsideSaid::kWait) ++waits;
        continue;
      }
      if (event.type == EventType::kOutsideEnd) {
        ASSERT_LT(event.wait_number, waits);
        continue;
      }
      ASSERT_LT(event.actor, trace.actors.size());
      ASSERT_LT(event.open, trace.opens.size());
      ASSERT_LT(trace.opens[event.open].file, trace.files.size());
      const bool owned = event.type != EventType::kClose;
      ASSERT_TRUE(!owned || event.owner < trace.owners.size());
      ASSERT_LE(0, event.range.first);
      ASSERT_LE(event.range.first, event.range.last);
    }
    // Now and then a replay of it, which must come to an end.
    if (round % 50 == 0) replay(trace);
  }
}

TEST(TraceFormat, AnotherVersionAndOtherFiles) {
  std::string newer = encode(sample());
  newer[lockmgr::trace::kMagic.size()] = 2;
  const Decoded decoded = decode(newer);
  ASSERT_TRUE(decoded.damage);
  EXPECT_EQ(decoded.damage->kind, Damage::Kind::kNewer);
  EXPECT_NE(decoded.damage->text.find("version 2"), std::string::npos) << decoded.damage->text;
  EXPECT_NE(decoded.damage->text.find("up to 1"), std::string::npos) << decoded.damage->text;

  for (const std::string& other : {std::string("#!/bin/sh\n"), std::string("lockfs-thing\n....."),
                                   std::string(5000, '\0'), std::string("{}")}) {
    const Decoded foreign = decode(other);
    ASSERT_TRUE(foreign.damage);
    EXPECT_EQ(foreign.damage->kind, Damage::Kind::kNotATrace);
  }
}

}  // namespace
}  // namespace replay::testing
