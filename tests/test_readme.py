"""The documentation is true: its code runs, its commands and options exist, its links and paths lead somewhere.

A fenced block is run according to its language: `python` blocks in order, one namespace and one directory a page;
`console` and `bash` blocks line by line through the installed program. What cannot run in a test carries a marker with
the reason on the line before the fence, `<!-- not run: REASON -->`. A `text` block with the marker `<!-- prints -->` is
what the `python` block before it prints.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = (
    "export",
    "verify",
    "inspect",
    "run",
    "bench",
    "build",
    "quantize",
    "fuse",
    "visualize",
    "train",
    "models",
    "models scale",
)

RUN = {"python", "console", "bash"}
SHOWN = {"text", "json", "toml", "cmake", "cpp"}
"""Languages of blocks that are run, and of those that only show something."""

LEAST_RUN = {
    "README.md": 4,
    "docs/export.md": 8,
    "docs/checkpoints.md": 6,
    "docs/operators.md": 3,
    "docs/rewrites.md": 5,
    "docs/bench.md": 1,
    "docs/visualization.md": 4,
    "docs/models.md": 1,
}
"""How many blocks of a page run at least: a page that loses its blocks, or marks them all, is noticed."""

_FENCE = re.compile(r"^```(\w*)\s*$")
_MARKER = re.compile(r"^<!-- not run: (.*?)\s*-->$")
_PRINTS = "<!-- prints -->"
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"\bedgeconv +([a-z]\w*)([^\n#|]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_PATH = re.compile(r"(?:edgeconv|custom_ops|models|tests|benchmarks|scripts|docs|examples|\.ci)/[\w./*-]*")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language and text, why it is not run, and whether it is printed output."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None
    printed: bool = False

    @property
    def commands(self) -> list[str]:
        """The commands of a console block, continuation lines joined, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def page_name(page: Path) -> str:
    """Return a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks."""
    found = []
    lines = page.read_text(encoding="utf-8").splitlines()
    index = 0
    while index < len(lines):
        opening = _FENCE.match(lines[index])
        if opening:
            end = next(i for i in range(index + 1, len(lines)) if lines[i].rstrip() == "```")
            marker = _MARKER.match(lines[index - 1]) if index else None
            text = "\n".join(lines[index + 1 : end]) + "\n"
            printed = lines[index - 1] == _PRINTS
            found.append(Block(page_name(page), index + 1, opening[1], text, marker[1] if marker else None, printed))
            index = end
        index += 1
    return found


def runnable(page: Path) -> list[Block]:
    """Return the blocks that are run."""
    return [block for block in blocks(page) if block.language in RUN and block.reason is None]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@cache
def program() -> str:
    """Return the path of the installed program."""
    path = shutil.which("edgeconv", path=sysconfig.get_path("scripts"))
    assert path, "the program edgeconv is not installed beside this Python"
    return path


@cache
def options_of(command: str) -> frozenset[str]:
    """Return the long options that a command's help shows."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [program(), *command.split(), "--help"], env=environment, capture_output=True, text=True, check=True
    )
    return frozenset(_OPTION.findall(done.stdout))


def run_command(command: str, directory: Path) -> None:
    """Run one command line as a user would, with the environment's programs first on the path."""
    environment = {**os.environ, "PATH": f"{Path(program()).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], cwd=directory, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{command}\n{output}"
    assert "Traceback" not in output, f"{command}\n{output}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a copy of the examples, which is the current one."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.resume"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_own_models(directory: Path) -> None:
    """Write plain.onnx and kerv.onnx, which stand for the reader's own files."""
    import torch
    from networks import Plain, Small

    import edgeconv

    edgeconv.to_onnx(Plain(), torch.randn(1, 4, 12, 10), directory / "plain.onnx", verify=False)
    edgeconv.to_onnx(Small(), torch.randn(1, 3, 12, 10), directory / "kerv.onnx", verify=False)


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=page_name)
def test_code_runs(page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "plain.onnx" in page.read_text(encoding="utf-8"):
        write_own_models(workplace)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    said = ""
    for block in blocks(page):
        if block.printed:
            assert said == block.text, f"{block.page}:{block.line}"
        elif block not in runnable(page):
            continue
        elif block.language == "python":
            capsys.readouterr()
            # Leading lines, so that a traceback shows the page's own line numbers.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, namespace)
            said = capsys.readouterr().out
        else:
            for command in block.commands:
                run_command(command, workplace)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_block_is_left_out_silently(page: Path) -> None:
    for block in blocks(page):
        where = f"{block.page}:{block.line}"
        assert block.language in RUN | SHOWN, f"{where}: a fence needs a language, one of {sorted(RUN | SHOWN)}"
        assert not block.printed or block.language == "text", f"{where}: what is printed is text"
        if block.reason is not None:
            assert block.language in RUN, f"{where}: nothing to mark"
            assert len(block.reason.split()) >= 2, f"{where}: the marker gives no reason"
        elif block.language != "python" and block.language in RUN:
            for command in block.commands:
                assert command.startswith("edgeconv "), f"{where}: {command!r} is neither run nor marked"
    assert len(runnable(page)) >= LEAST_RUN.get(page_name(page), 0)


def test_pages_with_code_are_known() -> None:
    assert set(LEAST_RUN) <= {page_name(page) for page in PAGES}
    assert sum(len(runnable(page)) for page in PAGES) >= sum(LEAST_RUN.values())


def commands_of(page: Path) -> list[tuple[str, str]]:
    """Return the uses of the program on a page, in fenced and indented code and in spans: (command, rest)."""
    code = [command for block in blocks(page) if block.language in {"console", "bash"} for command in block.commands]
    for line in prose(page).splitlines():
        if "planned" not in line:
            code += [line] if line.startswith("    edgeconv ") else _SPAN.findall(line)
    return [found for text in code for found in _COMMAND.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_options_exist(page: Path) -> None:
    for command, rest in commands_of(page):
        nested = f"{command} {(rest.split() or [''])[0]}"
        command = nested if nested in COMMANDS else command
        assert command in COMMANDS, f"{page_name(page)}: there is no command edgeconv {command}"
        unknown = set(_OPTION.findall(rest)) - options_of(command)
        assert not unknown, f"{page_name(page)}: edgeconv {command} has no {', '.join(sorted(unknown))}"
    anywhere = frozenset().union(*(options_of(command) for command in COMMANDS))
    for span in _SPAN.findall(prose(page)):
        unknown = set(_OPTION.findall(span)) - anywhere if span.startswith("--") else set()
        assert not unknown, f"{page_name(page)}: no command has {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("command", ["export", "verify", "inspect"])
def test_every_option_is_documented(command: str) -> None:
    documented = set(_OPTION.findall((ROOT / "docs/export.md").read_text(encoding="utf-8")))
    assert options_of(command) - {"--help"} <= documented


def anchors(page: Path) -> set[str]:
    """Return the anchors that headings get: lower case, punctuation dropped, spaces to hyphens."""
    headings = re.findall(r"^#+ (.+?)\s*$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        destination = (page.parent / name).resolve() if name else page
        assert destination.exists(), f"{page_name(page)}: {target}"
        if anchor:
            assert anchor in anchors(destination), f"{page_name(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_paths_exist(page: Path) -> None:
    own = prose(page).split("## 8. Examples to follow")[0]  # what follows names files of other projects
    for line in own.splitlines():
        for span in _SPAN.findall(line):
            if _PATH.fullmatch(span) and "planned" not in line:
                assert list(ROOT.glob(span)), f"{page_name(page)}: {span} does not exist"


# What follows holds what the pages say of the base installation: it imports and inspects without any extra.

_BLOCK = """
import sys

class Absent:
    names = {"torch", "onnxscript", "onnx_ir", "onnxruntime", "matplotlib", "openvino", "tensorrt", "PIL"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_python(code: str, *arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def test_import_loads_no_extra(tmp_path: Path) -> None:
    code = (
        "import sys, edgeconv, edgeconv.cli\n"
        "extras = ('torch', 'onnxscript', 'onnx_ir', 'onnxruntime', 'matplotlib')\n"
        "print([name for name in extras if name in sys.modules])"
    )
    done = run_python(code, directory=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


CALLS = {
    "benchmark": ("edgeconv.benchmark(['m.onnx'])", "edgeconv[cpu]"),
    "build_engine": ("edgeconv.build_engine('m.onnx')", "edgeconv[tensorrt]"),
    "export_checkpoint": ("edgeconv.export_checkpoint('m.pt')", "edgeconv[export]"),
    "fuse_model": ("edgeconv.fuse_model", None),
    "inspect_model": ("edgeconv.inspect_model('m.onnx')", None),
    "list_models": ("edgeconv.list_models()", "edgeconv[export]"),
    "load_checkpoint": ("edgeconv.load_checkpoint('m.pt')", "edgeconv[export]"),
    "op_library": ("edgeconv.op_library()", None),
    "quantize_model": ("edgeconv.quantize_model('m.onnx', '.')", "pip install pillow"),
    "run_model": ("edgeconv.run_model('m.onnx')", "edgeconv[cpu]"),
    "scale_architecture": ("edgeconv.scale_architecture('lenet5', budget_macs=1e6)", "edgeconv[export]"),
    "save_checkpoint": ("edgeconv.save_checkpoint", "edgeconv[export]"),
    "to_onnx": ("edgeconv.to_onnx", "edgeconv[export]"),
    "train_model": ("edgeconv.train_model('lenet5')", "edgeconv[export]"),
    "visualize_model": ("edgeconv.visualize_model('m.pt')", "edgeconv[export]"),
    "verify_model": ("edgeconv.verify_model('m.onnx', 'm.pt')", "edgeconv[export]"),
}
"""Each public name: a call, and what its remedy names; None where the base installation is enough."""


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a file m.onnx that holds one kervolution."""
    import torch
    from networks import Small

    import edgeconv

    directory = tmp_path_factory.mktemp("base")
    edgeconv.to_onnx(Small(), torch.randn(1, 3, 8, 9), directory / "m.onnx", verify=False)
    return directory


@pytest.mark.parametrize("name", sorted(CALLS))
def test_without_extras_every_public_name_works_or_says_what_is_missing(name: str, model_directory: Path) -> None:
    call, extra = CALLS[name]
    code = (
        f"{_BLOCK}\nimport edgeconv\nfrom edgeconv.errors import MissingDependencyError\n"
        f"try:\n    {call}\nexcept MissingDependencyError as error:\n    print('missing', error.remedy)\n"
        "else:\n    print('works')"
    )
    done = run_python(code, directory=model_directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("works" if extra is None else "missing"), done.stdout
    assert extra is None or extra in done.stdout


def test_every_public_name_is_listed() -> None:
    import edgeconv

    assert set(CALLS) == set(edgeconv.__all__)
    assert set(edgeconv.__all__) <= set(dir(edgeconv))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["inspect", "m.onnx"], 0),
        (["export", "m.pt"], 3),
        (["bench", "m.onnx"], 3),
        (["run", "m.onnx"], 3),
        (["models"], 3),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_program_without_extras(arguments: list[str], status: int, model_directory: Path) -> None:
    code = f"{_BLOCK}\nfrom edgeconv.cli import main\nmain()"
    done = run_python(code, *arguments, directory=model_directory)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert status == 0 or "pip install" in done.stderr
