# shellcheck shell=bash
# What every script here shares: the place of the tree, messages, building. To be sourced.

# shellcheck disable=SC2034  # used by those who source this file
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# shellcheck source=scripts/lib/packages.sh
source "$ROOT/scripts/lib/packages.sh"

say() { printf '\n==> %s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# build_preset PRESET [cmake -D arguments...]: configures and builds into build/PRESET. Two scripts
# that build the same take turns.
build_preset() {
  local preset=$1
  say "Building $preset into build/$preset"
  mkdir -p "$ROOT/build/$preset"
  (
    flock 9
    configure_and_build "$@"
  ) 9>"$ROOT/build/$preset/lock" || die "$preset does not build"
}

configure_and_build() {
  configure_preset "$@" || return
  cd "$ROOT" || return
  cmake --build --preset "$1" --parallel "$(nproc)"
}

# configure_preset PRESET [cmake -D arguments...]: only says which tests there will be.
configure_preset() {
  local preset=$1 log=$ROOT/build/$1/configure.log
  shift
  mkdir -p "$ROOT/build/$preset"
  cd "$ROOT" || return
  cmake --preset "$preset" "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
}

# need_fuse: makes sure that /dev/fuse is there.
need_fuse() {
  [[ -c /dev/fuse ]] || modprobe fuse 2>/dev/null || true
  [[ -c /dev/fuse ]] || die "no /dev/fuse: this kernel or container has no FUSE"
}
