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

# build_preset PRESET [cmake -D arguments...]: configures and builds into build/PRESET.
build_preset() {
  local preset=$1 log
  shift
  say "Building $preset into build/$preset"
  mkdir -p "$ROOT/build/$preset"
  log=$ROOT/build/$preset/configure.log
  if ! (cd "$ROOT" && cmake --preset "$preset" "$@") >"$log" 2>&1; then
    cat "$log" >&2
    die "cmake could not configure $preset"
  fi
  (cd "$ROOT" && cmake --build --preset "$preset" --parallel "$(nproc)") || die "$preset does not build"
}

# need_fuse: makes sure that /dev/fuse is there.
need_fuse() {
  [[ -c /dev/fuse ]] || modprobe fuse 2>/dev/null || true
  [[ -c /dev/fuse ]] || die "no /dev/fuse: this kernel or container has no FUSE"
}
