"""What this machine has: cores, memory, disk, accelerators, and which number formats are fast.

Read from the system itself, so that a plan can be drawn without loading the learning library.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from dlm.errors import PlanError

BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
QUERY = ["--query-gpu=name,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Gpu:
    """One accelerator; memory in bytes."""

    name: str
    memory: int
    free: int
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """The machine a plan is drawn for; memory and disk in bytes."""

    cores: int
    memory: int
    free_memory: int
    free_disk: int
    bf16: bool
    amx: bool
    gpus: tuple[Gpu, ...]

    @property
    def device(self) -> str:
        """Where a model runs unless told otherwise."""
        return "cuda" if self.gpus else "cpu"

    def room(self, device: str, *, spread: bool) -> tuple[int, int]:
        """Bytes to plan with where a model runs, and those that are free now.

        `spread` over all accelerators. One part in sixteen is left to the system, or to a card's
        error correction.
        """
        if device == "cpu":
            return self.memory * 15 // 16, self.free_memory
        used = self.gpus if spread else self.gpus[:1]
        return sum(gpu.memory for gpu in used) * 15 // 16, sum(gpu.free for gpu in used)


def device_of(asked: str | None, machine: Machine) -> str:
    """Where a model runs: what was asked for, or the fastest there is."""
    device = asked or machine.device
    if device not in ("cpu", "cuda"):
        raise PlanError(f"unknown device '{device}'", mend="use cpu or cuda")
    if device == "cuda" and not machine.gpus:
        raise PlanError("this machine has no CUDA device", mend="use --device cpu")
    return device


def survey(folder: Path) -> Machine:
    """Look at the machine; disk is that of `folder` or of its nearest parent that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    memory = psutil.virtual_memory()
    flags = _cpu_flags()
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory=memory.total,
        free_memory=memory.available,
        free_disk=shutil.disk_usage(folder).free,
        bf16=bool(flags & BF16_FLAGS),
        amx="amx_bf16" in flags,
        gpus=_gpus(),
    )


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def _gpus() -> tuple[Gpu, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        said = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [line.split(", ") for line in said.stdout.splitlines() if line.count(", ") == 3]
    return tuple(
        Gpu(name, int(total) << 20, int(free) << 20, float(capability) >= 8.0)
        for name, total, free, capability in rows
        if total.isdigit() and free.isdigit()
    )
