#include "mount-helpers/lockfsctl/screen.h"

#include <ncurses.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "mount-helpers/lockfsctl/subcommand.h"

namespace lockfs::ctl {

Screen::Screen() {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) {
    throw Error("top needs a terminal; lockfsctl stats and lockfsctl list print once", 2);
  }
  const char* kind = std::getenv("TERM");
  if (newterm(nullptr, stdout, stdin) == nullptr) {
    throw Error(std::string("the terminal type '") + (kind != nullptr ? kind : "") +
                "' is not known; set TERM");
  }
  cbreak();
  noecho();
  curs_set(0);
  keypad(stdscr, TRUE);
  nodelay(stdscr, TRUE);
}

Screen::~Screen() { endwin(); }

int Screen::rows() const { return getmaxy(stdscr); }

void Screen::clear() {
  erase();
  row_ = 0;
}

void Screen::line(const std::string& text, bool bold) {
  if (row_ >= rows()) return;
  if (bold) attron(A_BOLD);
  mvaddnstr(row_++, 0, text.c_str(), getmaxx(stdscr));
  if (bold) attroff(A_BOLD);
}

void Screen::show() { refresh(); }

int Screen::key() {
  const int pressed = getch();
  return pressed == ERR ? -1 : pressed;
}

}  // namespace lockfs::ctl
