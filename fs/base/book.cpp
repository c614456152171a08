#include "fs/base/book.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <system_error>
#include <utility>

namespace lockfs {
namespace {

constexpr std::size_t kPage = 4096;

std::size_t whole_pages(std::size_t bytes) noexcept { return (bytes + kPage - 1) / kPage * kPage; }

std::size_t bytes_of(const Book::Shape& shape) noexcept {
  return whole_pages(static_cast<std::size_t>(shape.size) * shape.most);
}

/// Halves what takes most. Returns whether there was something to halve.
bool halve(Book::Shapes& shapes) noexcept {
  constexpr std::uint32_t kFewest = 256;
  Book::Shape* most = nullptr;
  for (Book::Shape& shape : shapes) {
    const bool large = shape.most > kFewest;
    if (large && (most == nullptr || bytes_of(shape) > bytes_of(*most))) most = &shape;
  }
  if (most == nullptr) return false;
  most->most /= 2;
  return true;
}

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

Book::Book(const Shapes& wanted, std::size_t header_size, bool shared) {
  const std::size_t header = whole_pages(header_size);
  Shapes shapes;
  std::copy(std::begin(wanted), std::end(wanted), shapes);
  const auto reckon = [&] {
    bytes_ = header + kPage;
    for (const Shape& shape : shapes) bytes_ += bytes_of(shape);
  };
  reckon();
  // The address space may be limited to less than records without number want.
  struct rlimit space {};
  if (::getrlimit(RLIMIT_AS, &space) == 0) {
    while (bytes_ > space.rlim_cur / 2 && halve(shapes)) reckon();
  }
  if (shared) {
    fd_.reset(::memfd_create("lockfs-book", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd_) fail("cannot make a memory file");
    if (::ftruncate(fd_.get(), static_cast<off_t>(bytes_)) != 0) fail("cannot size a memory file");
    // Whoever truncated it would kill every process that has it mapped.
    if (::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      fail("cannot seal a memory file");
    }
  }
  map(shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
  auto& marks = *reinterpret_cast<Marks*>(memory_ + header);
  for (std::size_t i = 0; i < kKinds; ++i) {
    marks.highs[i] = 1;
    marks.shapes[i] = shapes[i];
  }
  lay_out(header, marks);
}

Book::Book(UniqueFd fd, const Shapes& shapes, std::size_t header_size) : fd_(std::move(fd)) {
  const std::size_t header = whole_pages(header_size);
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0) fail("cannot look at the book");
  const auto invalid = [] {
    errno = EINVAL;
    fail("not a book of this program");
  };
  if (static_cast<std::size_t>(st.st_size) < header + kPage) invalid();
  bytes_ = static_cast<std::size_t>(st.st_size);
  map(MAP_SHARED);
  auto& marks = *reinterpret_cast<Marks*>(memory_ + header);
  std::size_t bytes = header + kPage;
  for (std::size_t i = 0; i < kKinds; ++i) {
    const Shape& shape = marks.shapes[i];
    if (shape.size != shapes[i].size || marks.highs[i] == 0 || marks.highs[i] > shape.most) {
      ::munmap(memory_, bytes_);
      invalid();
    }
    bytes += bytes_of(shape);
  }
  if (bytes != bytes_) {
    ::munmap(memory_, bytes_);
    invalid();
  }
  lay_out(header, marks);
}

void Book::map(int flags) {
  void* const memory =
      ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd_.get(), 0);
  if (memory == MAP_FAILED) fail("cannot map memory for the book");
  memory_ = static_cast<std::byte*>(memory);
  ::madvise(memory_, bytes_, MADV_DONTDUMP);
}

void Book::lay_out(std::size_t header, const Marks& marks) noexcept {
  std::size_t offset = header + kPage;
  for (std::size_t i = 0; i < kKinds; ++i) {
    Area& area = areas_[i];
    area.shape = marks.shapes[i];
    area.begin = memory_ + offset;
    area.high = const_cast<std::atomic<std::uint32_t>*>(&marks.highs[i]);
    offset += bytes_of(area.shape);
  }
}

Book::~Book() { ::munmap(memory_, bytes_); }

bool Book::is_sound() const noexcept {
  return std::all_of(std::begin(areas_), std::end(areas_), [](const Area& area) {
    const std::uint32_t high = *area.high;
    return high >= 1 && high <= std::max(area.shape.most, 1U);
  });
}

std::uint32_t Book::extend(Kind kind, std::uint32_t count) noexcept {
  const Area& area = this->area(kind);
  std::uint32_t first = area.high->load();
  do {
    if (count > area.shape.most || first > area.shape.most - count) return 0;
  } while (!area.high->compare_exchange_weak(first, first + count));
  return first;
}

}  // namespace lockfs
