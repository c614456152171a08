/// What a new daemon does before it takes over from one that died.
///
/// Thread safety: functions without state.
#pragma once

#include <string>
#include <vector>

#include "fs/base/book.h"
#include "fs/base/book_header.h"
#include "fs/options/options.h"

namespace lockfs {

/// The records of all rooms, for a mount with these options.
void book_shapes(const Options& options, Book::Shapes& shapes) noexcept;

/// What a new program must know besides its command line. `options` were checked.
void begin_header(Book& book, const Options& options) noexcept;
/// Whether the memory behind a descriptor is a book whose version this program knows. Returns an
/// empty string, or one line that says why it is not.
std::string check_version(int fd);
/// Completes `options` from the book of an earlier program. Returns as check_version().
std::string take_header(const BookHeader& header, Options& options);
/// Whether the book is of this process, which was another program before. Returns as
/// check_version().
std::string check_belongs(const BookHeader& header);

/// Whether the book can be what an earlier daemon of this program left, however it died. Returns an
/// empty string, or one line that says why not: something has written over the memory.
std::string damage_in(Book& book);

/// Appends every descriptor that a record knows, and the standard ones. May throw std::bad_alloc.
void known_descriptors(const Book& book, std::vector<int>& known);

/// Closes every descriptor that no record knows: what a daemon that died has left. Called before
/// anything is opened. May throw std::bad_alloc.
void sweep_descriptors(Book& book);

/// Takes over the options that were changed while mounted (BookHeader::save()).
void load_settings(const BookHeader& header, Options& options);

}  // namespace lockfs
