#!/bin/sh
# With curl alone: start a run, hang up in the middle of the answer, and go on where it was.   sh curl.sh [server]
set -eu
server=${1:-http://127.0.0.1:8000}
run=curl-$$ # an id of our own: the same request sent twice starts one run

curl -sS "$server/runs" -H "Content-Type: application/json" \
  -d "{\"message\": \"Explain SSE\", \"run_id\": \"$run\"}"
echo

first=$(curl -sN "$server/runs/$run/events?wire=text" | head -n 9) # three frames, then we hang up
printf '%s\n\n' "$first"
last=$(printf '%s\n' "$first" | sed -n 's/^id: //p' | tail -n 1)

curl -sSN "$server/runs/$run/events?wire=text" -H "Last-Event-ID: $last"
