"""The environment stamp: what a result depends on besides the model, and the state of the machine while it was taken.

Everything is read from files that need no privileges. What a machine does not tell is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeconv.runtime.gpu import GpuInfo

ISA_FLAGS = (
    # x86-64
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    # Arm
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Instruction sets that matter for convolution, as /proc/cpuinfo names them."""

_ARM_CORES = {
    ("0x41", "0xd03"): "Arm Cortex-A53",
    ("0x41", "0xd05"): "Arm Cortex-A55",
    ("0x41", "0xd07"): "Arm Cortex-A57",
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",
    ("0x41", "0xd49"): "Arm Neoverse-N2",
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
    ("0x41", "0xd83"): "Arm Neoverse-V3AE",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}

VARIABLES = (
    *("EDGECONV_CPU_ISA", "OMP_NUM_THREADS", "KMP_AFFINITY", "MALLOC_ARENA_MAX", "LD_PRELOAD"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE"),
)


@dataclass(frozen=True)
class Environment:
    """What stays the same during a run. Frequencies are in MHz, sizes in bytes.

    Attributes:
        cpu_model: Name of the processor (cores' names on Arm).
        architecture: Such as ``x86_64`` or ``aarch64``.
        board: Board or product, where the firmware names it (Jetson).
        logical_cpus: Logical CPUs of the machine.
        physical_cores: Physical cores, None where unknown.
        available_cpus: Logical CPUs that this process may use.
        cpu_quota: CPUs' worth of time that the control group may use, None without a limit.
        isa: Instruction sets out of `ISA_FLAGS`.
        governor: Frequency governors in use.
        frequency_min: Lowest frequency that the governor may choose.
        frequency_max: Highest; equal to the lowest where clocks are locked.
        boost: Whether turbo frequencies are allowed.
        virtual_machine: Whether a hypervisor lies below.
        power_mode: Jetson power mode.
        memory: Main memory.
        os: Distribution.
        kernel: Kernel release.
        python: Version of Python.
        edgeconv: Version of edgeconv.
        onnxruntime: Version of ONNX Runtime, None where it is not installed.
        numpy: Version of numpy.
        provider: Provider asked for.
        available_providers: Providers of this build of ONNX Runtime.
        threads: Threads asked for, None for ONNX Runtime's default.
        op_library_sha256: SHA-256 of the op library, or of the TensorRT plugins; None where there is none.
        variables: Environment variables out of `VARIABLES` that are set.
        gpu: The GPU in use and its limits, None on the CPU.
        runtime: Name and version of what ran the models.
    """

    cpu_model: str | None
    architecture: str
    board: str | None
    logical_cpus: int
    physical_cores: int | None
    available_cpus: int
    cpu_quota: float | None
    isa: tuple[str, ...]
    governor: tuple[str, ...] | None
    frequency_min: float | None
    frequency_max: float | None
    boost: bool | None
    virtual_machine: bool | None
    power_mode: str | None
    memory: int | None
    os: str
    kernel: str
    python: str
    edgeconv: str
    onnxruntime: str | None
    numpy: str
    provider: str
    available_providers: tuple[str, ...]
    threads: int | None
    op_library_sha256: str | None
    variables: dict[str, str] = field(default_factory=dict)
    gpu: GpuInfo | None = None
    runtime: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Environment:
        """Read what `to_dict` wrote."""
        from edgeconv.runtime.gpu import GpuInfo

        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        if values.get("gpu") is not None:
            values["gpu"] = GpuInfo(**values["gpu"])
        # Reports of versions that had nothing else lack it.
        values.setdefault("runtime", f"ONNX Runtime {values['onnxruntime']}")
        return cls(**values)


def read_environment(
    *,
    provider: str,
    available_providers: Sequence[str],
    onnxruntime_version: str | None,
    threads: int | None,
    op_library_sha256: str | None,
    gpu: GpuInfo | None = None,
    runtime: str | None = None,
    root: Path = Path("/"),
    power_mode: Callable[[], str | None] | None = None,
) -> Environment:
    """Read the stamp.

    Args:
        provider: Provider asked for.
        available_providers: Providers of this build of ONNX Runtime.
        onnxruntime_version: Its version.
        threads: Threads asked for.
        op_library_sha256: Digest of the op library in use.
        gpu: The GPU in use.
        runtime: Name and version of what runs the models; by default ONNX Runtime.
        root: Where ``proc`` and ``sys`` are.
        power_mode: Reads the Jetson power mode; by default asks nvpmodel.
    """
    info = read_text(root / "proc/cpuinfo") or ""
    cpus = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
    governors = {text for cpu in cpus if (text := read_text(cpu / "cpufreq/scaling_governor"))}
    flags = set((_field(info, "flags") or _field(info, "Features") or "").split())
    memory = re.search(r"MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo") or "")
    limits = [_frequencies(cpus, f"scaling_{end}_freq") for end in ("min", "max")]
    return Environment(
        cpu_model=_cpu_model(info),
        architecture=platform.machine(),
        board=_board(root),
        logical_cpus=os.cpu_count() or 1,
        physical_cores=_physical_cores(cpus),
        available_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_quota=_cpu_quota(root),
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        governor=tuple(sorted(governors)) or None,
        frequency_min=min(limits[0], default=None),
        frequency_max=max(limits[1], default=None),
        boost=_boost(root),
        virtual_machine="hypervisor" in flags if "flags" in info else None,
        power_mode=(power_mode or read_power_mode)(),
        memory=int(memory.group(1)) * 1024 if memory else None,
        os=_distribution(root),
        kernel=platform.release(),
        python=platform.python_version(),
        edgeconv=edgeconv_version(),
        onnxruntime=onnxruntime_version,
        numpy=metadata.version("numpy"),
        provider=provider,
        available_providers=tuple(available_providers),
        threads=threads,
        op_library_sha256=op_library_sha256,
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        gpu=gpu,
        runtime=runtime or f"ONNX Runtime {onnxruntime_version}",
    )


def edgeconv_version() -> str:
    """Version of the installed package, ``unknown`` in a tree that is not installed."""
    try:
        return metadata.version("edgeconv")
    except metadata.PackageNotFoundError:
        return "unknown"


def read_text(path: Path) -> str | None:
    """Return a file's stripped text, or None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return None


def read_power_mode() -> str | None:
    """Return the Jetson power mode that nvpmodel reports, None on other machines."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return None
    try:
        output = subprocess.run([tool, "-q"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_power_mode(output)


def parse_power_mode(output: str) -> str | None:
    """Return the mode's name out of the output of ``nvpmodel -q`` (``NV Power Mode: MAXN``)."""
    match = re.search(r"NV Power Mode:\s*(\S.*)", output)
    return match.group(1).strip() if match else None


def _field(info: str, name: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.+)$", info, re.MULTILINE)
    return match.group(1).strip() if match else None


def _cpu_model(info: str) -> str | None:
    name = _field(info, "model name")
    if name is not None:
        return name
    parts = re.findall(r"^CPU implementer\s*:\s*(\S+).*?^CPU part\s*:\s*(\S+)", info, re.MULTILINE | re.DOTALL)
    names = {_ARM_CORES.get(part, f"implementer {part[0]} part {part[1]}") for part in parts}
    return " + ".join(sorted(names)) or None


def _board(root: Path) -> str | None:
    return read_text(root / "proc/device-tree/model") or read_text(root / "sys/class/dmi/id/product_name") or None


def _physical_cores(cpus: Sequence[Path]) -> int | None:
    cores = {
        (read_text(cpu / "topology/physical_package_id"), core)
        for cpu in cpus
        if (core := read_text(cpu / "topology/core_id")) is not None
    }
    return len(cores) or None


def _cpu_quota(root: Path) -> float | None:
    quota, _, period = (read_text(root / "sys/fs/cgroup/cpu.max") or "max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _frequencies(cpus: Sequence[Path], name: str) -> list[float]:
    texts = (read_text(cpu / "cpufreq" / name) for cpu in cpus)
    return [int(text) / 1000 for text in texts if text and text.isdigit()]


def _boost(root: Path) -> bool | None:
    no_turbo = read_text(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == "0"
    boost = read_text(root / "sys/devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == "1"


def _distribution(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release") or "", re.MULTILINE)
    return match.group(1) if match else platform.system()
