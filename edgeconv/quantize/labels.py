"""Labelled images: a directory with one directory a class, or with a `labels.csv` of file names and classes."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from edgeconv.errors import InputError
from edgeconv.quantize.images import SUFFIXES, ImageDirectory, InputSpec, LabelledImages

LABELS_FILE = "labels.csv"


def open_labelled(path: str | os.PathLike[str], spec: InputSpec, metadata: dict[str, str]) -> LabelledImages:
    """Open labelled images.

    A class is a number, or a name that the file's metadata lists; where it lists none, names are numbered in their
    order.

    Args:
        path: The directory.
        spec: What the network takes.
        metadata: The file's properties; `edgeconv.class_names` may list the classes.

    Raises:
        InputError: It is no such directory, or a class is not known.
    """
    place = Path(path)
    if not place.is_dir():
        raise InputError(f"{place} is not a directory.", "Give one with a directory of images for each class.")
    table = place / LABELS_FILE
    pairs = _from_table(table) if table.is_file() else _from_directories(place)
    if not pairs:
        raise InputError(
            f"{place} holds no labelled images.",
            f"Make a directory for each class in it, or a {LABELS_FILE} of lines `file,class`.",
        )
    number = _numbering({name for _, name in pairs}, metadata, place)
    source = ImageDirectory(place, spec, None, [file for file, _ in pairs])
    return LabelledImages(source, {str(file): number[name] for file, name in pairs})


def _from_table(table: Path) -> list[tuple[Path, str]]:
    with open(table, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    if any(len(row) < 2 for row in rows):
        raise InputError(f"{table} has a line without a class.", "Each line is `file,class`.")
    pairs = [(table.parent / row[0], row[1].strip()) for row in rows]
    if pairs and not pairs[0][0].is_file():
        pairs = pairs[1:]  # a heading
    return pairs


def _from_directories(place: Path) -> list[tuple[Path, str]]:
    return [
        (file, directory.name)
        for directory in sorted(place.iterdir())
        if directory.is_dir()
        for file in sorted(directory.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]


def _numbering(names: set[str], metadata: dict[str, str], place: Path) -> dict[str, int]:
    listed = json.loads(metadata.get("edgeconv.class_names", "null"))
    known = {str(name): index for index, name in enumerate(listed)} if isinstance(listed, list) else {}
    if names <= known.keys():
        return {name: known[name] for name in names}
    if all(name.isdigit() for name in names):
        return {name: int(name) for name in names}
    if known:
        unknown = min(names - known.keys())
        raise InputError(f"the model has no class {unknown!r}, which {place} has.", "Name them as the model does.")
    return {name: index for index, name in enumerate(sorted(names))}
