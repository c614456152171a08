#include "lockmgr/trace/decoder.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "lockmgr/trace/bytes.h"
#include "lockmgr/trace/format.h"

namespace lockmgr::trace {

namespace {

/// Fifty years: sums of a few such times stay in bounds.
constexpr Nanoseconds kMostTime = std::chrono::hours(24 * 365 * 50);
constexpr std::uint64_t kSecond = 1'000'000'000;

/// Reads the payloads of blocks into a trace. What a method returns is what is wrong, or nullptr.
class PayloadReader {
 public:
  explicit PayloadReader(Trace& trace) : trace_(trace) {}

  const char* head(std::string_view payload);
  const char* events(std::string_view payload);
  const char* end(std::string_view payload) const;

 private:
  const char* record(Scanner& in);
  const char* definition(Tag tag, Scanner& in);
  const char* event(Tag tag, Scanner& in);
  const char* ask(Scanner& in, TraceEvent& event);
  const char* answer(Scanner& in, TraceEvent& event);
  const char* revoke(Scanner& in, TraceEvent& event) const;
  const char* outside(Scanner& in, TraceEvent& event);
  const char* outside_end(Scanner& in, TraceEvent& event);
  template <typename Table>
  static bool index(Scanner& in, const Table& table, Index& out) {
    const std::uint64_t value = in.varint();
    out = static_cast<Index>(value);
    return in.ok() && value < table.size();
  }

  Trace& trace_;
  Nanoseconds last_{0};
  std::vector<bool> answered_;    ///< by ask
  std::vector<bool> wait_ended_;  ///< by wait at the backing
  std::array<std::uint64_t, 10> counts_{};
};

const char* PayloadReader::head(std::string_view payload) {
  Scanner in(payload);
  Head& head = trace_.head;
  const std::uint64_t begin = in.varint();
  const std::uint64_t origin = in.varint();
  head.policy = in.string();
  head.source = in.string();
  head.program = in.string();
  const std::uint64_t phase = in.varint();
  if (!in.ok() || !in.empty() || origin > 1 || begin > INT64_MAX || phase >= kSecond) {
    return "the head makes no sense";
  }
  head.phase = Nanoseconds(static_cast<std::int64_t>(phase));
  head.begin = Nanoseconds(static_cast<std::int64_t>(begin));
  head.generated = origin == 1;
  return nullptr;
}

const char* PayloadReader::events(std::string_view payload) {
  Scanner in(payload);
  while (!in.empty()) {
    if (const char* wrong = record(in)) return wrong;
    if (!in.ok()) return "a record is cut";
  }
  return nullptr;
}

const char* PayloadReader::record(Scanner& in) {
  const auto tag = static_cast<Tag>(in.byte());
  switch (tag) {
    case Tag::kFile:
    case Tag::kActor:
    case Tag::kOwner:
    case Tag::kOpen:
    case Tag::kPolicyText:
      return definition(tag, in);
    case Tag::kAsk:
    case Tag::kAnswer:
    case Tag::kFlush:
    case Tag::kClose:
    case Tag::kTick:
    case Tag::kLost:
    case Tag::kPolicy:
    case Tag::kRevoke:
    case Tag::kOutside:
    case Tag::kOutsideEnd:
      return event(tag, in);
  }
  return "a record of an unknown kind";
}

const char* PayloadReader::definition(Tag tag, Scanner& in) {
  if (tag == Tag::kFile) {
    File file;
    file.device = in.varint();
    file.inode = in.varint();
    file.name = in.string();
    if (in.ok()) trace_.files.push_back(std::move(file));
  } else if (tag == Tag::kActor) {
    Actor actor;
    const std::uint64_t pid = in.varint();
    const std::uint64_t tid = in.varint();
    const std::uint64_t uid = in.varint();
    actor.command = in.string();
    if (pid > INT32_MAX || tid > INT32_MAX || uid > UINT32_MAX) return "an actor out of bounds";
    actor.pid = static_cast<pid_t>(pid);
    actor.tid = static_cast<pid_t>(tid);
    actor.uid = static_cast<uid_t>(uid);
    if (in.ok()) trace_.actors.push_back(std::move(actor));
  } else if (tag == Tag::kOwner) {
    const std::uint64_t type = in.varint();
    const std::uint64_t identity = in.varint();
    if (type > 3) return "an owner of an unknown type";
    const OwnerType local = type == 3 ? OwnerType::kProcess : static_cast<OwnerType>(type);
    if (in.ok()) trace_.owners.push_back({local, type == 3, identity});
  } else if (tag == Tag::kPolicyText) {
    trace_.policies.push_back(in.string());
  } else {
    Open open;
    const bool known = index(in, trace_.files, open.file);
    const std::uint64_t flags = in.varint();
    if (!known || flags > 3) return "an open file out of bounds";
    open.readable = (flags & 1) != 0;
    open.writable = (flags & 2) != 0;
    if (in.ok()) trace_.opens.push_back(open);
  }
  return nullptr;
}

const char* PayloadReader::event(Tag tag, Scanner& in) {
  TraceEvent event;
  event.type = static_cast<EventType>(static_cast<int>(tag) - static_cast<int>(Tag::kAsk));
  const std::int64_t later = in.difference();
  if (later > kMostTime.count() - last_.count() || later < -last_.count()) {
    return "a time out of bounds";
  }
  last_ += Nanoseconds(later);
  event.time = last_;
  const char* wrong = nullptr;
  switch (event.type) {
    case EventType::kAsk:
      wrong = ask(in, event);
      break;
    case EventType::kAnswer:
      wrong = answer(in, event);
      break;
    case EventType::kFlush:
    case EventType::kClose: {
      const bool known = index(in, trace_.actors, event.actor) &&
                         index(in, trace_.opens, event.open) &&
                         (event.type == EventType::kClose || index(in, trace_.owners, event.owner));
      if (!known) wrong = "a close of something unknown";
      break;
    }
    case EventType::kTick:
      break;
    case EventType::kLost:
      event.lost = in.varint();
      trace_.lost += event.lost;
      break;
    case EventType::kPolicy:
      if (!index(in, trace_.policies, event.policy)) wrong = "a switch to an unknown policy";
      break;
    case EventType::kRevoke:
      wrong = revoke(in, event);
      break;
    case EventType::kOutside:
      wrong = outside(in, event);
      break;
    case EventType::kOutsideEnd:
      wrong = outside_end(in, event);
      break;
  }
  if (wrong != nullptr || !in.ok()) return wrong;
  ++counts_[static_cast<std::size_t>(event.type)];
  trace_.events.push_back(event);
  return nullptr;
}

const char* PayloadReader::ask(Scanner& in, TraceEvent& event) {
  if (!index(in, trace_.actors, event.actor) || !index(in, trace_.opens, event.open) ||
      !index(in, trace_.owners, event.owner)) {
    return "a request by something unknown";
  }
  const std::uint64_t flags = in.varint();
  const std::uint64_t mode = flags & ask_flags::kMode;
  if (flags > 31 || mode > 2) return "a request of an unknown mode";
  event.mode = static_cast<Mode>(mode);
  event.wait = (flags & ask_flags::kWait) != 0;
  if ((flags & ask_flags::kWholeFile) == 0) {
    const std::uint64_t first = in.varint();
    const std::uint64_t more = in.varint();
    if (first > INT64_MAX || more > INT64_MAX - first) return "a range out of bounds";
    event.range = {static_cast<Offset>(first), static_cast<Offset>(first + more)};
  }
  if ((flags & ask_flags::kPatience) != 0) {
    const std::uint64_t patience = in.varint();
    if (patience > static_cast<std::uint64_t>(kMostTime.count())) return "a time out of bounds";
    event.patience = Nanoseconds(static_cast<std::int64_t>(patience));
  }
  if (in.ok()) answered_.push_back(false);
  return nullptr;
}

const char* PayloadReader::answer(Scanner& in, TraceEvent& event) {
  const std::uint64_t ago = in.varint();
  const std::uint64_t error = in.varint();
  if (!in.ok()) return nullptr;
  if (ago == 0 || ago > answered_.size() || error > 4095) return "an answer to no request";
  event.ask = answered_.size() - ago;
  event.error = static_cast<int>(error);
  if (answered_[event.ask]) return "a second answer to one request";
  answered_[event.ask] = true;
  return nullptr;
}

const char* PayloadReader::revoke(Scanner& in, TraceEvent& event) const {
  if (!index(in, trace_.files, event.file) || !index(in, trace_.owners, event.owner)) {
    return "a lock of something unknown taken away";
  }
  const std::uint64_t first = in.varint();
  const std::uint64_t more = in.varint();
  if (first > INT64_MAX || more > INT64_MAX - first) return "a range out of bounds";
  event.range = {static_cast<Offset>(first), static_cast<Offset>(first + more)};
  return nullptr;
}

const char* PayloadReader::outside(Scanner& in, TraceEvent& event) {
  if (!index(in, trace_.files, event.file)) return "an outsider on an unknown file";
  const std::uint64_t call = in.varint();
  const std::uint64_t said = in.varint();
  const std::uint64_t error = said == 0 ? in.varint() : 0;
  if (call > UINT32_MAX || said > 3 || error > 4095) return "an outsider out of bounds";
  event.call = static_cast<std::uint32_t>(call);
  event.said = static_cast<OutsideSaid>(said);
  event.error = static_cast<int>(error);
  if (in.ok() && event.said == OutsideSaid::kWait) wait_ended_.push_back(false);
  return nullptr;
}

const char* PayloadReader::outside_end(Scanner& in, TraceEvent& event) {
  event.wait_number = in.varint();
  const std::uint64_t error = in.varint();
  if (!in.ok()) return nullptr;
  if (event.wait_number >= wait_ended_.size() || wait_ended_[event.wait_number] || error > 4095) {
    return "the end of no wait";
  }
  wait_ended_[event.wait_number] = true;
  event.error = static_cast<int>(error);
  return nullptr;
}

const char* PayloadReader::end(std::string_view payload) const {
  Scanner in(payload);
  bool same = true;
  for (const std::uint64_t count : counts_) same = in.varint() == count && same;
  same = in.varint() == trace_.lost && same;
  return same && in.ok() && in.empty() ? nullptr
                                       : "the counts at the end differ from what was read";
}

using Kind = Damage::Kind;

/// The version, or what is wrong before it.
std::optional<Damage> read_file_header(std::string_view bytes) {
  const std::size_t common = std::min(bytes.size(), kMagic.size());
  if (bytes.empty() || bytes.substr(0, common) != kMagic.substr(0, common)) {
    return Damage{Kind::kNotATrace, 0, "this is no lockfs trace"};
  }
  if (bytes.size() < kFileHeader) {
    return Damage{Kind::kCut, bytes.size(), "it ends within its first line"};
  }
  const std::uint64_t version = get_fixed(bytes.substr(kMagic.size(), 2));
  if (version > kVersion) {
    return Damage{Kind::kNewer, kMagic.size(),
                  "it has format version " + std::to_string(version) +
                      ", this program reads up to " + std::to_string(kVersion) +
                      "; use the lockfs that wrote it, or a later one"};
  }
  if (version == 0) return Damage{Kind::kBroken, kMagic.size(), "it has format version 0"};
  return std::nullopt;
}

}  // namespace

Decoded decode(std::string_view bytes) {
  Decoded result;
  const auto damaged = [&](Kind kind, std::uint64_t offset, std::string text) {
    result.damage = Damage{kind, offset, std::move(text)};
    return std::move(result);
  };
  if (auto damage = read_file_header(bytes)) {
    return damaged(damage->kind, damage->offset, std::move(damage->text));
  }
  PayloadReader reader(result.trace);
  std::size_t at = kFileHeader;
  for (bool first = true;; first = false) {
    const std::string_view rest = bytes.substr(at);
    const std::string where = "the block at byte " + std::to_string(at);
    if (rest.size() < kBlockHeader) {
      return damaged(Kind::kCut, bytes.size(),
                     "it ends after " + std::to_string(bytes.size()) + " bytes without its end");
    }
    const std::uint64_t size = get_fixed(rest.substr(1, 4));
    if (size > kMostPayload) return damaged(Kind::kBroken, at, where + " has no proper length");
    if (rest.size() - kBlockHeader < size) {
      return damaged(Kind::kCut, bytes.size(),
                     "it ends after " + std::to_string(bytes.size()) + " bytes, within " + where);
    }
    const std::string_view payload = rest.substr(kBlockHeader, size);
    if (checksum(rest.substr(0, 5), payload) != get_fixed(rest.substr(5, 4))) {
      return damaged(Kind::kBroken, at, where + " is damaged: its checksum does not fit");
    }
    const auto type = static_cast<Block>(rest.front());
    const char* wrong = nullptr;
    if (first != (type == Block::kHead)) {
      wrong = "the head is not where it belongs";
    } else if (type == Block::kHead) {
      wrong = reader.head(payload);
    } else if (type == Block::kEvents) {
      wrong = reader.events(payload);
    } else if (type == Block::kEnd) {
      wrong = reader.end(payload);
    } else {
      wrong = "its kind is unknown";
    }
    if (wrong != nullptr) return damaged(Kind::kBroken, at, where + ": " + wrong);
    at += kBlockHeader + size;
    if (type == Block::kEnd) break;
  }
  if (at != bytes.size()) {
    return damaged(Kind::kBroken, at, "something follows its end at byte " + std::to_string(at));
  }
  return result;
}

}  // namespace lockmgr::trace
