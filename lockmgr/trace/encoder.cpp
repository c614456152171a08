#include "lockmgr/trace/encoder.h"

#include <utility>

#include "lockmgr/trace/bytes.h"

namespace lockmgr::trace {

namespace {

std::uint64_t number(Nanoseconds time) { return static_cast<std::uint64_t>(time.count()); }

}  // namespace

Encoder::Encoder(const Head& head) {
  done_.append(kMagic);
  put_fixed(done_, kVersion, 2);
  std::string payload;
  put_varint(payload, number(head.begin));
  put_varint(payload, head.generated ? 1 : 0);
  put_string(payload, head.policy);
  put_string(payload, head.source);
  put_string(payload, head.program);
  put_varint(payload, number(head.phase));
  put_block(Block::kHead, payload);
}

void Encoder::put_block(Block type, const std::string& payload) {
  std::string head(1, static_cast<char>(type));
  put_fixed(head, payload.size(), 4);
  const std::uint32_t sum = checksum(head, payload);
  done_.append(head);
  put_fixed(done_, sum, 4);
  done_.append(payload);
}

void Encoder::tag(Tag tag) {
  // Before a record, so that none is cut.
  if (payload_.size() >= kBlockSize) end_block();
  payload_.push_back(static_cast<char>(tag));
}

void Encoder::end_block() {
  if (payload_.empty()) return;
  put_block(Block::kEvents, payload_);
  payload_.clear();
}

std::string Encoder::take() {
  taken_ += done_.size();
  return std::exchange(done_, {});
}

Index Encoder::define(const File& file) {
  tag(Tag::kFile);
  put_varint(payload_, file.device);
  put_varint(payload_, file.inode);
  put_string(payload_, file.name);
  return files_++;
}

Index Encoder::define(const Actor& actor) {
  tag(Tag::kActor);
  put_varint(payload_, static_cast<std::uint64_t>(actor.pid));
  put_varint(payload_, static_cast<std::uint64_t>(actor.tid));
  put_varint(payload_, actor.uid);
  put_string(payload_, actor.command);
  return actors_++;
}

Index Encoder::define(const TraceOwner& owner) {
  tag(Tag::kOwner);
  put_varint(payload_, owner.remote ? 3 : static_cast<std::uint64_t>(owner.type));
  put_varint(payload_, owner.identity);
  return owners_++;
}

Index Encoder::define(const Open& open) {
  tag(Tag::kOpen);
  put_varint(payload_, open.file);
  put_varint(payload_, (open.readable ? 1U : 0U) | (open.writable ? 2U : 0U));
  return opens_++;
}

Index Encoder::define(const std::string& policy) {
  tag(Tag::kPolicyText);
  put_string(payload_, policy);
  return policies_++;
}

std::uint64_t Encoder::add(const TraceEvent& event) {
  static constexpr std::array<Tag, kTypes> kTags = {
      Tag::kAsk,  Tag::kAnswer, Tag::kFlush,  Tag::kClose,   Tag::kTick,
      Tag::kLost, Tag::kPolicy, Tag::kRevoke, Tag::kOutside, Tag::kOutsideEnd};
  const auto type = static_cast<std::size_t>(event.type);
  tag(kTags[type]);
  put_difference(payload_, (event.time - last_).count());
  last_ = event.time;
  ++counts_[type];
  switch (event.type) {
    case EventType::kAsk: {
      const bool whole = event.range == kWholeFile;
      const bool patient = event.patience.count() > 0;
      put_varint(payload_, event.actor);
      put_varint(payload_, event.open);
      put_varint(payload_, event.owner);
      put_varint(payload_,
                 static_cast<std::uint64_t>(event.mode) | (event.wait ? ask_flags::kWait : 0) |
                     (whole ? ask_flags::kWholeFile : 0) | (patient ? ask_flags::kPatience : 0));
      if (!whole) {
        put_varint(payload_, static_cast<std::uint64_t>(event.range.first));
        put_varint(payload_, static_cast<std::uint64_t>(event.range.last - event.range.first));
      }
      if (patient) put_varint(payload_, number(event.patience));
      return asks_++;
    }
    case EventType::kAnswer:
      put_varint(payload_, asks_ - event.ask);
      put_varint(payload_, static_cast<std::uint64_t>(event.error));
      return 0;
    case EventType::kFlush:
      put_varint(payload_, event.actor);
      put_varint(payload_, event.open);
      put_varint(payload_, event.owner);
      return 0;
    case EventType::kClose:
      put_varint(payload_, event.actor);
      put_varint(payload_, event.open);
      return 0;
    case EventType::kTick:
      return 0;
    case EventType::kLost:
      put_varint(payload_, event.lost);
      lost_ += event.lost;
      return 0;
    case EventType::kPolicy:
      put_varint(payload_, event.policy);
      return 0;
    case EventType::kRevoke:
      put_varint(payload_, event.file);
      put_varint(payload_, event.owner);
      put_varint(payload_, static_cast<std::uint64_t>(event.range.first));
      put_varint(payload_, static_cast<std::uint64_t>(event.range.last - event.range.first));
      return 0;
    case EventType::kOutside:
      put_varint(payload_, event.file);
      put_varint(payload_, event.call);
      put_varint(payload_, static_cast<std::uint64_t>(event.said));
      if (event.said != OutsideSaid::kRefused) return 0;
      put_varint(payload_, static_cast<std::uint64_t>(event.error));
      return 0;
    case EventType::kOutsideEnd:
      put_varint(payload_, event.wait_number);
      put_varint(payload_, static_cast<std::uint64_t>(event.error));
      return 0;
  }
  return 0;
}

void Encoder::finish() {
  end_block();
  std::string payload;
  for (const std::uint64_t count : counts_) put_varint(payload, count);
  put_varint(payload, lost_);
  put_block(Block::kEnd, payload);
}

std::string encode(const Trace& trace) {
  Encoder encoder(trace.head);
  for (const File& file : trace.files) encoder.define(file);
  for (const Actor& actor : trace.actors) encoder.define(actor);
  for (const TraceOwner& owner : trace.owners) encoder.define(owner);
  for (const Open& open : trace.opens) encoder.define(open);
  for (const std::string& policy : trace.policies) encoder.define(policy);
  for (const TraceEvent& event : trace.events) encoder.add(event);
  encoder.finish();
  return encoder.take();
}

}  // namespace lockmgr::trace
