#!/usr/bin/env bash
# usage: build_beside PRESET [cmake -D arguments...]
#
# Builds while tests of another build run: their time counts first.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
renice -n 10 $$ >/dev/null
build_preset "$@"
