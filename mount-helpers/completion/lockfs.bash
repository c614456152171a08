# bash completion for lockfs(8). What there is to complete is read from `lockfs --help`, so that it
# cannot differ from it.

# Prints the mount options that the help on standard input names, with "=" behind those that take a
# value.
_lockfs_mount_options() {
  sed -n '/^Mount options/,/^Options that/{
    s/^  \([a-z_]*=\)[A-Z].*/\1/p
    s/^  \([a-z_]*\)\(,\{0,1\} .*\)\{0,1\}$/\1/p
  }' | grep -v '^=*$'
}

# Prints the values of the option $1, one a line.
_lockfs_values() {
  case $1 in
    log_level) printf '%s\n' trace debug info warn error critical off ;;
    log_target) printf '%s\n' auto stderr syslog journal ;;
    survive) printf '%s\n' auto on off ;;
    passthrough) printf '%s\n' auto on off ;;
    control) printf '%s\n' auto off ;;
    workers) echo auto ;;
    policy) printf '%s\n' "$2" | sed -n '/^Lock policy/,/^$/s/^    \([a-z][a-z-]*\) .*/\1/p' ;;
    *)
      # "  axis=VALUE    question: this, that, other (default this)", perhaps over several lines
      printf '%s\n' "$2" |
        awk -v head="  $1=VALUE" 'index($0, head) == 1 { on = 1 }
          on { printf "%s ", $0 }
          on && /\(default/ { exit }' | tr -s ' ' |
        sed -n 's/.*: \([A-Za-z, ]*\) (default.*/\1/p' | tr -d ' ' | tr ',' '\n'
      ;;
  esac
}

_lockfs() {
  local line=${COMP_LINE:0:COMP_POINT} cur previous help words head broken word
  cur=${line##*[[:space:]]}
  previous=${line%"$cur"}
  previous=${previous%"${previous##*[![:space:]]}"}
  previous=${previous##*[[:space:]]}
  help=$("$1" --help 2>/dev/null)
  COMPREPLY=()
  if [[ $previous == -o || $cur == -o?* ]]; then
    head=${cur%"${cur##*,}"}
    [[ $cur != -o?* || $head ]] || head=-o
    word=${cur#"$head"}
    if [[ $word == *=* ]]; then
      head+=${word%%=*}=
      words=$(_lockfs_values "${word%%=*}" "$help")
    else
      words=$(_lockfs_mount_options <<<"$help")
    fi
    compopt -o nospace 2>/dev/null
  elif [[ $cur == -* ]]; then
    head=""
    words=$(printf '%s\n' "$help" |
      sed -n '/^Options:/,/^$/{
        h; s/^  -[a-zA-Z], \(--[^ ]*\).*/\1/p
        g; s/^  \(-[^ ,]*\).*/\1/p
      }')
  else
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -d -- "$cur")
    return
  fi
  # readline takes what follows the last "=" for the word that it completes.
  broken=""
  [[ $COMP_WORDBREAKS != *=* ]] || broken=${cur%"${cur##*=}"}
  for word in $words; do
    word=$head$word
    [[ $word != "$cur"* ]] || COMPREPLY+=("${word#"$broken"}")
  done
}

complete -F _lockfs lockfs
