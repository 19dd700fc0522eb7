"""Run one measurement in a process of its own, with an empty store and empty caches."""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any


def run_isolated(script: str, *args: str, one_core: bool = False) -> Any:
    """Run a script; return the JSON that is its last line, or exit with its error."""
    command = [sys.executable, script, *args]
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HF_HOME": home, "DLM_HOME": home, "HF_DATASETS_OFFLINE": "1"}
        if one_core:
            env["OMP_NUM_THREADS"] = "1"
            command = ["taskset", "-c", "0", *command]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])
