"""How long the command line takes to wake up, in CPU seconds and against an empty Python.

    python bench/startup.py [--json]

Each command runs 7 times; the median counts. Ratios compare between machines, seconds do not.
"""

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 7
DLM = str(Path(sys.executable).with_name("dlm"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "dlm --help": [DLM, "--help"],
    "dlm check --help": [DLM, "check", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    """Measure every command and say what it costs."""
    seconds = {name: cpu_seconds(command) for name, command in COMMANDS.items()}
    empty = seconds["python -c pass"]
    rows = {
        name: {"cpu_seconds": round(cost, 3), "ratio": round(cost / empty, 1)}
        for name, cost in seconds.items()
    }
    if "--json" in sys.argv[1:]:
        print(json.dumps(rows, indent=2))
        return
    for name, row in rows.items():
        print(f"{name:18} {row['cpu_seconds']:7.3f} s  {row['ratio']:6.1f} x")


def cpu_seconds(command: list[str]) -> float:
    """Median CPU seconds of a command, user and system, its children included."""
    subprocess.run(command, check=True, capture_output=True)  # once, so that bytecode is compiled
    costs = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(costs)


if __name__ == "__main__":
    main()
