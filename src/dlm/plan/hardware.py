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

BF16_CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
NVIDIA_SMI_QUERY = [
    "--query-gpu=name,memory.total,memory.free,compute_cap",
    "--format=csv,noheader,nounits",
]


@dataclass(frozen=True)
class Gpu:
    """One accelerator; memory in bytes."""

    name: str
    memory: int
    free_memory: int
    bf16: bool


@dataclass(frozen=True)
class Hardware:
    """The machine a plan is drawn for; memory and disk in bytes."""

    cores: int
    memory: int
    free_memory: int
    free_disk: int
    bf16: bool
    amx: bool
    gpus: tuple[Gpu, ...]

    @property
    def default_device(self) -> str:
        """Where a model runs unless told otherwise."""
        return "cuda" if self.gpus else "cpu"

    def get_memory_budget(self, device: str, *, all_gpus: bool) -> tuple[int, int]:
        """Bytes to plan with where a model runs, and those that are free now.

        `spread` over all accelerators. One part in sixteen is left to the system, or to a card's
        error correction.
        """
        if device == "cpu":
            return self.memory * 15 // 16, self.free_memory
        used = self.gpus if all_gpus else self.gpus[:1]
        return sum(gpu.memory for gpu in used) * 15 // 16, sum(gpu.free_memory for gpu in used)


def choose_device(requested: str | None, hardware: Hardware) -> str:
    """Where a model runs: what was asked for, or the fastest there is."""
    device = requested or hardware.default_device
    if device not in ("cpu", "cuda"):
        raise PlanError(f"unknown device '{device}'", hint="use cpu or cuda")
    if device == "cuda" and not hardware.gpus:
        raise PlanError("this machine has no CUDA device", hint="use --device cpu")
    return device


def detect_hardware(folder: Path) -> Hardware:
    """Look at the machine; disk is that of `folder` or of its nearest parent that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    memory = psutil.virtual_memory()
    flags = _read_cpu_flags()
    return Hardware(
        cores=len(os.sched_getaffinity(0)),
        memory=memory.total,
        free_memory=memory.available,
        free_disk=shutil.disk_usage(folder).free,
        bf16=bool(flags & BF16_CPU_FLAGS),
        amx="amx_bf16" in flags,
        gpus=_query_gpus(),
    )


def _read_cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def _query_gpus() -> tuple[Gpu, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        said = subprocess.run(
            [command, *NVIDIA_SMI_QUERY], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [line.split(", ") for line in said.stdout.splitlines() if line.count(", ") == 3]
    return tuple(
        Gpu(name, int(total) << 20, int(free) << 20, float(capability) >= 8.0)
        for name, total, free, capability in rows
        if total.isdigit() and free.isdigit()
    )
