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
  local cur=${COMP_WORDS[COMP_CWORD]} said="" last="" word words
  # The subcommands before the cursor: the words that the help of those before them lists.
  words=$("$1" --help 2>/dev/null | _lockfsctl_words)
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    grep -qxFe "$word" <<<"$words" || continue
    said+=" $word" last=$word
    # shellcheck disable=SC2086  # several words
    words=$("$1" $said --help 2>/dev/null | _lockfsctl_words)
    [[ $words ]] || break
  done
  COMPREPLY=()
  if [[ $cur == -* ]]; then
    # shellcheck disable=SC2086  # several words, or none
    words=$("$1" $said --help 2>/dev/null | _lockfsctl_words -o)
  elif [[ $said == " policy set" && $last == "${COMP_WORDS[COMP_CWORD-1]}" ]]; then
    words=$(lockfs --help 2>/dev/null |
      sed -n '/^Lock policy/,/^$/{s/^    \([a-z][a-z-]*\) .*/\1/p; s/^  \([a-z_]*=\).*/\1/p}')
    compopt -o nospace 2>/dev/null
  elif [[ ! $words ]]; then
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _lockfsctl lockfsctl
