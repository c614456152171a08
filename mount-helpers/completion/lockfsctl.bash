# bash completion for lockfsctl(8). What there is to complete is read from its --help, so that it
# cannot differ from it.

# Prints the subcommands, or with -o the options, that the help on standard input names.
_lockfsctl_words() {
  if [[ ${1-} == -o ]]; then
    sed -n 's/^  \(-[^ ]*\).*/\1/p' | tr ',' '\n'
  else
    sed -n '/^Subcommands:/,$s/^  \([a-z][a-z-]*\).*/\1/p'
  fi
}

_lockfsctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} subcommand="" word words
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [[ $word == -* ]] || { subcommand=$word; break; }
  done
  COMPREPLY=()
  if [[ $cur == -* ]]; then
    # shellcheck disable=SC2086  # no word at all when there is no subcommand
    words=$("$1" $subcommand --help 2>/dev/null | _lockfsctl_words -o)
  elif [[ -z $subcommand ]]; then
    words=$("$1" --help 2>/dev/null | _lockfsctl_words)
  else
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _lockfsctl lockfsctl
