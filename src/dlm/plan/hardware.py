"""The hardware a plan is made for: cores, memory, disk, GPUs, and whether bf16 is fast.

Read from the operating system and nvidia-smi, so that a plan needs no torch. Also how bytes are
written in messages.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from dlm.errors import PlanError
from dlm.plan.audio_lengths import ceil_div

GIB = 1 << 30
BF16_CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
NVIDIA_SMI_QUERY = [
    "--query-gpu=name,memory.total,memory.free,compute_cap",
    "--format=csv,noheader,nounits",
]


def format_bytes(num_bytes: int) -> str:
    """Write a number of bytes in MiB or GiB."""
    if num_bytes >= 1 << 70:  # sizes of a config may be any number, and no float
        return "over a trillion GiB"
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{ceil_div(num_bytes, 1 << 20)} MiB"


@dataclass(frozen=True)
class Gpu:
    """A GPU; memory in bytes."""

    name: str
    memory: int
    free_memory: int
    bf16: bool


@dataclass(frozen=True)
class Hardware:
    """The machine a plan is made for.

    Attributes:
        cores: CPU cores this process may use.
        memory: bytes.
        free_memory: bytes.
        free_disk: bytes.
        bf16: whether the CPU multiplies bf16 fast.
        amx: whether it does so by AMX.
        gpus: all that are visible.
    """

    cores: int
    memory: int
    free_memory: int
    free_disk: int
    bf16: bool
    amx: bool
    gpus: tuple[Gpu, ...]

    @property
    def default_device(self) -> str:
        """The device a model runs on unless one is requested."""
        return "cuda" if self.gpus else "cpu"

    def get_memory_budget(self, device: str, *, all_gpus: bool) -> tuple[int, int]:
        """Return the bytes of a device to plan with, and those that are free now.

        One sixteenth is left to the operating system, or to a GPU's error correction.
        """
        if device == "cpu":
            return self.memory * 15 // 16, self.free_memory
        used = self.gpus if all_gpus else self.gpus[:1]
        return sum(gpu.memory for gpu in used) * 15 // 16, sum(gpu.free_memory for gpu in used)


def choose_device(requested: str | None, hardware: Hardware) -> str:
    """Choose the device a model runs on: the requested one, or the fastest there is.

    Raises:
        PlanError: the machine does not have it (`plan.unknown_device`, `plan.no_cuda`).
    """
    device = requested or hardware.default_device
    if device not in ("cpu", "cuda"):
        what = f"unknown device '{device}'"
        raise PlanError(what, hint="use cpu or cuda", code="plan.unknown_device")
    if device == "cuda" and not hardware.gpus:
        what = "this machine has no CUDA device"
        raise PlanError(what, hint="use --device cpu", code="plan.no_cuda")
    return device


def detect_hardware(folder: Path) -> Hardware:
    """Read what this machine has; the disk is that of `folder`, or of its nearest parent."""
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
        done = subprocess.run(
            [command, *NVIDIA_SMI_QUERY], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 3]
    return tuple(
        Gpu(name, int(total) << 20, int(free) << 20, float(capability) >= 8.0)
        for name, total, free, capability in rows
        if total.isdigit() and free.isdigit() and capability.replace(".", "", 1).isdigit()
    )
