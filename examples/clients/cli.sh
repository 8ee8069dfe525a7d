#!/bin/sh
# The command line as a client: any run of a server, from any position, through any number of cuts.   sh cli.sh [server]
set -eu
server=${1:-http://127.0.0.1:8000}
run=cli-$$

curl -sS "$server/runs" -H "Content-Type: application/json" \
  -d "{\"message\": \"Explain SSE\", \"run_id\": \"$run\"}"
echo

gapless follow "$run" --url "$server"                              # the answer, as it comes
gapless follow "$run" --url "$server" --after 4 --json | tail -n 1 # its events after the fourth
