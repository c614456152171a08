#!/usr/bin/env bash
# sanitizer_reports.sh clear|check FOLDER: empties the folder that sanitizers write their reports to,
# or prints the reports found there and fails if there are any.
set -euo pipefail

mode=$1
folder=$2
case $mode in
  clear)
    rm -rf "$folder"
    mkdir -p "$folder"
    ;;
  check)
    [[ -d $folder ]] || { echo "no folder $folder: was it cleared before the tests?" >&2; exit 1; }
    count=0
    for report in "$folder"/*; do
      [[ -e $report ]] || continue
      count=$((count + 1))
      echo "== $report"
      head -n 120 "$report"
    done
    echo "$count sanitizer reports in $folder"
    ((count == 0))
    ;;
  *)
    echo "usage: sanitizer_reports.sh clear|check FOLDER" >&2
    exit 2
    ;;
esac
