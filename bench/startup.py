"""Measure how long the command line takes to start: CPU seconds, and the ratio to an empty Python.

    python bench/startup.py [--json]

Each command runs 7 times; the median counts. Ratios can be compared between machines, seconds not.
"""

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

NUM_RUNS = 7
DLM = str(Path(sys.executable).with_name("dlm"))
BASELINE = "python -c pass"
COMMANDS = {
    BASELINE: [sys.executable, "-c", "pass"],
    "dlm --help": [DLM, "--help"],
    "dlm check --help": [DLM, "check", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    """Measure every command, and print the results."""
    medians = {name: measure_cpu_seconds(command) for name, command in COMMANDS.items()}
    results = {
        name: {"cpu_seconds": round(seconds, 3), "ratio": round(seconds / medians[BASELINE], 1)}
        for name, seconds in medians.items()
    }
    if "--json" in sys.argv[1:]:
        print(json.dumps(results, indent=2))
        return
    for name, result in results.items():
        print(f"{name:18} {result['cpu_seconds']:7.3f} s  {result['ratio']:6.1f} x")


def measure_cpu_seconds(command: list[str]) -> float:
    """Return the median CPU seconds of a command, user and system, with its children."""
    subprocess.run(command, check=True, capture_output=True)  # compiles the bytecode
    seconds = []
    for _ in range(NUM_RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
