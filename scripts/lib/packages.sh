# shellcheck shell=bash
# The one list of the Debian packages that lockfs needs, and their installation. To be sourced.
# shellcheck disable=SC2034  # the lists are read by name

PACKAGES_BUILD=(
  g++ make cmake ninja-build pkg-config ccache
  libfuse3-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libboost-dev libsystemd-dev
  libcli11-dev libncurses-dev
)
PACKAGES_RUN=(fuse3 util-linux mount python3)
PACKAGES_TEST=(libgtest-dev acl attr btrfs-progs e2fsprogs git procps python3-jsonschema rsync sqlite3
  stress-ng tmux xfsprogs)
# The manual pages, the completions and the Debian package.
PACKAGES_TEST+=(man-db groff-base mandoc zsh bash dpkg-dev file mmdebstrap)
PACKAGES_LINT=(clang-format clang-tidy)
# bindfs and mergerfs are what lockfs is compared with.
PACKAGES_BENCH=(libbenchmark-dev bindfs mergerfs findutils git tar)
PACKAGES_PLOTS=(python3-matplotlib)
# The virtual machines of scripts/nfs-lab; what is in them is only downloaded (tests/nfs/lab/prepare).
PACKAGES_NFS=(qemu-system-x86 busybox-static cpio xz-utils)

# missing_packages NAME...: prints those that are not installed.
missing_packages() {
  local name
  for name in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || echo "$name"
  done
}

# install_packages GROUP...: installs what is missing of the groups build, run, test, lint, bench,
# plots, nfs.
install_packages() {
  local group wanted=() missing
  for group in "$@"; do
    local -n list="PACKAGES_${group^^}"
    wanted+=("${list[@]}")
  done
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  ((${#missing[@]})) || return 0

  if ((EUID != 0)); then
    echo "These packages are missing; run this as root once, or install them: ${missing[*]}" >&2
    return 1
  fi
  echo "Installing packages: ${missing[*]}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
  local install=("${apt[@]}" install --no-install-recommends "${missing[@]}")
  # The package lists are fetched only when they are absent or too old to be of use.
  apt-cache show "${missing[@]}" >/dev/null 2>&1 || "${apt[@]}" update
  "${install[@]}" || { "${apt[@]}" update && "${install[@]}"; }
}
