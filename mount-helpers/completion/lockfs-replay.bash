# bash completion for lockfs-replay(1) and lockfs-workload(1). What there is to complete is read from
# their --help, so that it cannot differ from it.

# Prints the words after the heading $1 of the help on standard input, or with -o its options.
_lockfs_replay_words() {
  if [[ $1 == -o ]]; then
    sed -n 's/^  \(-[^ ]*\).*/\1/p' | tr ',' '\n'
  else
    sed -n "/^$1/,/^\$/s/^  *\([a-z][a-z-]*\)  .*/\1/p"
  fi
}

_lockfs_replay() {
  local line=${COMP_LINE:0:COMP_POINT} cur previous words
  cur=${line##*[[:space:]]}
  previous=${line%"$cur"}
  previous=${previous%"${previous##*[![:space:]]}"}
  previous=${previous##*[[:space:]]}
  COMPREPLY=()
  if [[ $cur == -* ]]; then
    words=$("$1" --help 2>/dev/null | _lockfs_replay_words -o)
  elif [[ $1 == *lockfs-replay && ($previous == -p || $previous == --policy) ]]; then
    words="recorded $(lockfs --help 2>/dev/null | _lockfs_replay_words 'Lock policy')"
  elif [[ $1 == *lockfs-workload && $previous == "$1" ]]; then
    words=$("$1" --help 2>/dev/null | _lockfs_replay_words Workloads)
  else
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _lockfs_replay lockfs-replay lockfs-workload
