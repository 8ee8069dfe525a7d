#!/bin/sh
# A run that a shell script executes: examples/producer.sh URL RUN_ID COMMAND…
# Each line of the command's output is a batch. Started again after it died, it goes on after the last that was taken, so
# the command must say the same lines again.
set -eu
url=$1 run=$2 me="$(hostname)-$$"
shift 2
post() { curl -sS --fail-with-body --retry 8 --retry-connrefused -H content-type:application/json "$url$1" -d "$2"; }
count() { sed 's/.*"'"$1"'":\([0-9]*\).*/\1/'; }

post /runs '{"message": "Run it.", "producer": true, "run_id": "'"$run"'"}' >/dev/null # a run that is there is left as it is
taken=$(post "/runs/$run/events" '{"producer": "'"$me"'"}')
epoch=$(echo "$taken" | count epoch) last=$(echo "$taken" | count number) number=0
send() {
  number=$((number + 1))
  [ "$number" -le "$last" ] || post "/runs/$run/events" \
    '{"producer": "'"$me"'", "epoch": '"$epoch"', "number": '"$number"', "events": ['"$1"']}' >/dev/null
}
{ "$@" && echo "end of $me"; } | {
  while IFS= read -r line; do
    [ "$line" != "end of $me" ] || break
    send "\"$(printf %s "$line" | sed 's/[\\"]/\\&/g; s/	/\\t/g')\\n\""
    line=
  done
  [ "$line" = "end of $me" ] # else the command failed: the run stays open for the next try
  send '{"type": "RUN_FINISHED", "threadId": "", "runId": "'"$run"'"}'
}
