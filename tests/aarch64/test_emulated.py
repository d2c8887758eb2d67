"""Every operator in ONNX Runtime for aarch64, on emulated processors without and with dot products, against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .conftest import Machine
from .jobs import Job, accurate, all_jobs

# The best instruction set of each. cortex-a57: the Jetson Nano's and TX2's; cortex-a76: the least that Orin is.
CHOSEN = {"cortex-a57": "neon", "cortex-a76": "neon_dotprod", "max": "neon_dotprod"}


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    return all_jobs()


@pytest.mark.parametrize("cpu", CHOSEN)
def test_library(machine: Machine, jobs: list[Job], tmp_path: Path, cpu: str) -> None:
    chosen, outputs = machine.run(jobs, tmp_path, cpu)
    print(f"{cpu}: {chosen}, {len(jobs)} models")
    assert chosen == CHOSEN[cpu]
    for job, actual in zip(jobs, outputs, strict=True):
        job.check(actual)


def test_function_bodies(machine: Machine, jobs: list[Job], tmp_path: Path) -> None:
    """The same files without the library, but for those that state the accuracy of its own functions."""
    some = [job for job in jobs if job.compare is not accurate][::3]
    _, outputs = machine.run(some, tmp_path, "cortex-a76", native=False)
    for job, actual in zip(some, outputs, strict=True):
        job.check(actual, native=False)


@pytest.mark.parametrize(
    ("cpu", "isa", "expected"),
    [("cortex-a76", "baseline", "baseline"), ("cortex-a76", "neon", "neon"), ("cortex-a57", "neon_dotprod", "neon")],
)
def test_environment_chooses_the_instruction_set(
    machine: Machine, jobs: list[Job], tmp_path: Path, cpu: str, isa: str, expected: str
) -> None:
    some = jobs[1::3]
    chosen, outputs = machine.run(some, tmp_path, cpu, isa=isa)
    assert chosen == expected
    for job, actual in zip(some, outputs, strict=True):
        job.check(actual)


def test_forced_instruction_sets_are_really_used(machine: Machine, jobs: list[Job], tmp_path: Path) -> None:
    """The baseline rounds each product: its last bits differ, and those of NEON are the same on every processor."""
    some = [job for job in jobs if job.dtype == np.float32][::8]
    runs = {}
    for cpu, isa in (("cortex-a57", "neon"), ("max", "neon"), ("max", "baseline")):
        where = tmp_path / f"{cpu}-{isa}"
        where.mkdir()
        runs[cpu, isa] = np.concatenate([np.atleast_1d(out) for out in machine.run(some, where, cpu, isa=isa)[1]])
    np.testing.assert_array_equal(runs["cortex-a57", "neon"], runs["max", "neon"])
    assert (runs["max", "neon"] != runs["max", "baseline"]).any()


def test_unknown_instruction_set_is_an_error(machine: Machine, jobs: list[Job], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="EDGECONV_CPU_ISA is 'sse9': expected"):
        machine.run(jobs[:1], tmp_path, "max", isa="sse9")


def test_errors_arrive(machine: Machine, jobs: list[Job], tmp_path: Path) -> None:
    """A model that fails is one line, and the next one runs."""
    broken = type(jobs[0].model)()
    broken.CopyFrom(jobs[0].model)
    next(attribute for attribute in broken.graph.node[0].attribute if attribute.name == "group").i = 0
    bad = Job("broken", broken, jobs[0].feeds, jobs[0].dtype, jobs[0].expected)
    _, outputs = machine.run([bad, jobs[0]], tmp_path, "cortex-a57")
    assert isinstance(outputs[0], str)
    assert "group is 0: group must divide them" in outputs[0]
    jobs[0].check(outputs[1])
