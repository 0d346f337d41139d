#!/bin/sh
# Drives the reject arm of line {line}: reads one JSON object a line, {"action": "accept"} or {"action": "reject"}, and
# answers with the same line when the arm has acted. This example only writes the actions down. The same action may come
# twice after a fault; its job_id is the same. Your arm must reject unless it is told to accept.
# An action with "stale": true comes too late for its part: answer it, and do not move the arm.
while IFS= read -r action; do
  printf '%s\n' "$action" >> {plant}/gate-memory/{line}.jsonl && printf '%s\n' "$action"
done
