"""The program of an arm: `arm.py LOG`. Appends each action with its time to the log, then acknowledges it."""

import json
import sys
import time
from pathlib import Path

for line in sys.stdin:
    action = json.loads(line) | {"at": time.monotonic()}
    with Path(sys.argv[1]).open("a") as log:
        log.write(json.dumps(action) + "\n")
    sys.stdout.write(line)
    sys.stdout.flush()
