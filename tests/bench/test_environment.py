from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest

from edgeconv.bench.conditions import Conditions, Snapshot
from edgeconv.bench.environment import Environment, parse_power_mode, read_environment

ORIN_CORE = """processor\t: {index}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    write(tmp_path, "proc/cpuinfo", "".join(ORIN_CORE.format(index=index) for index in range(4)))
    write(tmp_path, "proc/meminfo", "MemTotal:       15656384 kB\nMemFree: 1 kB\n")
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson AGX Orin\0")
    write(tmp_path, "proc/loadavg", "0.25 0.10 0.05 1/300 4000\n")
    write(tmp_path, "proc/stat", "cpu  100 0 50 9000 10 5 5 40 0 0\ncpu0 0 0 0 0 0 0 0 0\n")
    write(tmp_path, "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.4 LTS"\n')
    for index in range(4):
        cpu = f"sys/devices/system/cpu/cpu{index}"
        write(tmp_path, f"{cpu}/cpufreq/scaling_governor", "schedutil\n")
        write(tmp_path, f"{cpu}/cpufreq/scaling_min_freq", "729600\n")
        write(tmp_path, f"{cpu}/cpufreq/scaling_max_freq", "2201600\n")
        write(tmp_path, f"{cpu}/cpufreq/scaling_cur_freq", f"{1000000 + index * 200000}\n")
        write(tmp_path, f"{cpu}/topology/physical_package_id", "0\n")
        write(tmp_path, f"{cpu}/topology/core_id", f"{index}\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48500\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "51250\n")
    write(tmp_path, "sys/class/thermal/thermal_zone2/temp", "-256000\n")  # a part that is switched off
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    return tmp_path


def stamp(root: Path = Path("/"), mode: str | None = None) -> Environment:
    return read_environment(
        provider="cpu",
        available_providers=["CPUExecutionProvider"],
        onnxruntime_version="1.31.1",
        threads=3,
        op_library_sha256="ab" * 32,
        root=root,
        power_mode=lambda: mode,
    )


def test_stamp_of_a_jetson(jetson: Path) -> None:
    found = stamp(jetson, "MODE_30W")
    assert found.cpu_model == "Arm Cortex-A78AE"
    assert found.board == "NVIDIA Jetson AGX Orin"
    assert found.physical_cores == 4
    assert found.cpu_quota == 1.5
    assert found.isa == ("asimd", "asimdhp", "asimddp")
    assert found.governor == ("schedutil",)
    assert (found.frequency_min, found.frequency_max) == (729.6, 2201.6)
    assert found.power_mode == "MODE_30W"
    assert found.memory == 15656384 * 1024
    assert found.os == "Ubuntu 22.04.4 LTS"
    assert found.virtual_machine is None
    assert (found.threads, found.onnxruntime, found.op_library_sha256) == (3, "1.31.1", "ab" * 32)


def test_snapshot_of_a_jetson(jetson: Path) -> None:
    found = Snapshot.take(jetson)
    hertz = os.sysconf("SC_CLK_TCK")
    assert (found.load, found.frequency, found.temperature) == (0.25, 1300.0, 51.25)
    assert (found.busy, found.stolen) == (160 / hertz, 40 / hertz)
    assert found.throttle_events is None


def test_what_a_machine_does_not_tell_is_none(tmp_path: Path) -> None:
    found = stamp(tmp_path)
    for name in ("cpu_model", "board", "physical_cores", "cpu_quota", "governor", "frequency_max", "boost", "memory"):
        assert getattr(found, name) is None, name
    snapshot = Snapshot.take(tmp_path)
    assert snapshot.busy is snapshot.load is snapshot.temperature is snapshot.frequency is None


def test_big_and_little_cores_are_both_named(tmp_path: Path) -> None:
    big = ORIN_CORE.format(index=0)
    write(tmp_path, "proc/cpuinfo", big + big.replace("0xd42", "0xd05") + big.replace("0xd42", "0xfff"))
    assert stamp(tmp_path).cpu_model == "Arm Cortex-A55 + Arm Cortex-A78AE + implementer 0x41 part 0xfff"


@pytest.mark.parametrize(
    ("path", "text", "boost"),
    [
        ("sys/devices/system/cpu/intel_pstate/no_turbo", "1", False),
        ("sys/devices/system/cpu/intel_pstate/no_turbo", "0", True),
        ("sys/devices/system/cpu/cpufreq/boost", "1", True),
        ("sys/devices/system/cpu/cpufreq/boost", "0", False),
    ],
)
def test_boost(tmp_path: Path, path: str, text: str, boost: bool) -> None:
    write(tmp_path, path, text)
    assert stamp(tmp_path).boost is boost


def test_stamp_of_this_machine_survives_json() -> None:
    found = stamp()
    data = json.loads(json.dumps(found.to_dict()))
    assert set(data) == {field.name for field in fields(Environment)}
    assert Environment.from_dict(data) == found
    assert found.logical_cpus >= found.available_cpus >= 1
    for version in (found.python, found.numpy, found.edgeconv, found.kernel):
        assert version


def test_cpu_isa_override_is_stamped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECONV_CPU_ISA", "baseline")
    assert stamp().variables["EDGECONV_CPU_ISA"] == "baseline"


def test_power_mode_output() -> None:
    assert parse_power_mode("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n") == "MAXN"
    assert parse_power_mode("error") is None


def snapshot(**changes: float | None) -> Snapshot:
    values: dict[str, float | None] = {
        **{"seconds": 0.0, "load": 0.0, "frequency": 2000.0, "temperature": 40.0},
        **{"throttle_events": 3, "busy": 100.0, "stolen": 1.0, "own": 10.0, **changes},
    }
    return Snapshot(**values)  # type: ignore[arg-type]


def test_quiet_conditions_give_no_warning() -> None:
    conditions = Conditions(snapshot(), snapshot(seconds=10.0, busy=120.0, own=30.0), 60.0)
    assert conditions.other_cpus == 0
    assert conditions.warnings(("performance",), True) == []
    assert conditions.warnings(None, None) == []


@pytest.mark.parametrize(
    ("after", "governor", "message"),
    [
        ({}, ("powersave",), "governor is powersave"),
        ({"throttle_events": 5}, None, "rose by 2"),
        ({"busy": 125.0, "own": 15.0}, None, "other processes kept 2.0 CPUs busy"),
        ({"stolen": 2.0}, None, "hypervisor took 0.10 CPUs"),
        ({"frequency": 1500.0}, None, "fell by 25%"),
    ],
)
def test_disturbances_are_named(after: dict[str, float], governor: tuple[str, ...] | None, message: str) -> None:
    conditions = Conditions(snapshot(), snapshot(seconds=10.0, **after), 60.0)
    (warning,) = conditions.warnings(governor, None)
    assert message in warning


def test_conditions_survive_json() -> None:
    conditions = Conditions(snapshot(), snapshot(seconds=1.0, temperature=None), 60.0)
    assert Conditions.from_dict(json.loads(json.dumps(conditions.to_dict()))) == conditions
