#!/bin/sh
# Drives the reject arm of line {line}: reads one JSON object a line, {"action": "accept"} or {"action": "reject"}.
# This example only writes them down. Your arm must reject unless it is told to accept.
exec tee -a {plant}/gate-memory/{line}.jsonl
