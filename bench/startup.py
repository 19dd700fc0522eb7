"""Measure how long the command line takes to start, in a new process each time.

    python bench/startup.py [--json]

Seconds of CPU, with children, and of the clock, and the ratio of the CPU seconds to those of an
empty Python and of `import torch, transformers`, which every command that uses a model waits for.
Each command runs 7 times; the medians count. Ratios can be compared between machines, seconds not.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

NUM_RUNS = 7
DLM = str(Path(sys.executable).with_name("dlm"))
RECORDING = Path(__file__).parents[1] / "examples" / "voice" / "new.flac"  # 1.6 s of speech
EMPTY = "python -c pass"
IMPORTS = "import torch, transformers"
COMMANDS = {
    EMPTY: [sys.executable, "-c", "pass"],
    "dlm --help": [DLM, "--help"],
    "dlm check --help": [DLM, "check", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    IMPORTS: [sys.executable, "-c", IMPORTS],
    "dlm transcribe FILE": [DLM, "transcribe", str(RECORDING)],
}


def main() -> None:
    """Measure every command, and print the results."""
    medians = {name: measure_seconds(command) for name, command in COMMANDS.items()}
    results = {
        name: {
            "cpu_seconds": round(cpu_seconds, 3),
            "seconds": round(seconds, 3),
            "ratio": round(cpu_seconds / medians[EMPTY][0], 1),
            "ratio_to_imports": round(cpu_seconds / medians[IMPORTS][0], 2),
        }
        for name, (cpu_seconds, seconds) in medians.items()
    }
    if "--json" in sys.argv[1:]:
        print(json.dumps(results, indent=2))
        return
    print(f"{'':28} {'CPU':>9} {'clock':>9} {'x empty':>9} {'x imports':>9}")
    for name, result in results.items():
        figures = f"{result['cpu_seconds']:7.3f} s {result['seconds']:7.3f} s"
        print(f"{name:28} {figures} {result['ratio']:9.1f} {result['ratio_to_imports']:9.2f}")


def measure_seconds(command: list[str]) -> tuple[float, float]:
    """Return the median seconds of a command: of CPU, user and system, and of the clock."""
    subprocess.run(command, check=True, capture_output=True)  # compiles the bytecode
    cpu_seconds, seconds = [], []
    for _ in range(NUM_RUNS):
        before, started_at = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(time.monotonic() - started_at)
        cpu_seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(cpu_seconds), statistics.median(seconds)


if __name__ == "__main__":
    main()
