"""How a folder of pictures is laid out: by class, with a CSV of captions, with a map for each, or pictures alone."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from guidegraph.graph.trust.files import read_regular

Kind = Literal["auto", "classes", "captions", "maps", "pictures"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLES = ("captions.csv", "metadata.csv")
FILE_COLUMNS, CAPTION_COLUMNS = ("file", "file_name"), ("caption", "text")
LAYOUTS = (
    "expected a folder for each class (CLASS/*.png), pictures with captions.csv (file,caption), images/ with maps/, "
    "or pictures alone"
)
SHOWN = 10


class Row(NamedTuple):
    """One entry of the data: which picture, with its class or its caption where there is one."""

    picture: int
    label: int | None = None
    caption: str | None = None


class Layout(NamedTuple):
    """What a folder holds: pictures by their paths inside of it, a map for each or none, class names, and entries."""

    kind: Kind
    pictures: tuple[str, ...]
    maps: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[Row, ...]


def find_layout(folder: Path, kind: Kind) -> Layout:
    """The layout of a folder, of the wanted kind or, by `auto`, of the one that is there.

    Links to files count as files; links to folders are refused. Raises ``ValueError`` that names the folder and
    what is wrong: no folder, no pictures, layouts mixed, or another layout than was asked for.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder '{folder}'")
    found = present(folder)
    wanted = kind
    if kind == "auto":
        if len(found) > 1:
            raise ValueError(
                f"'{folder}' mixes layouts ({' and '.join(found.values())}): {LAYOUTS}. Sort it, or set `kind`"
            )
        if not found:
            raise ValueError(f"'{folder}' holds no picture: {LAYOUTS}; pictures end in {', '.join(PICTURES)}")
        wanted = next(iter(found))
    elif kind not in found:
        there = " and ".join(found.values()) or "no picture at all"
        raise ValueError(f"'{folder}' is not laid out as {kind}: {LAYOUTS}; found {there}")
    return {"classes": of_classes, "captions": of_captions, "maps": of_maps, "pictures": of_pictures}[wanted](folder)


def present(folder: Path) -> dict[Kind, str]:
    """The layouts that are in a folder, each with what shows it. Pictures that a CSV names belong to the CSV."""
    inside, here, tables = subfolders(folder), picture_names(folder), tables_of(folder)
    if tables:
        named = {str(Path(name)) for name in (file for _, file, _ in read_table(folder))}
        here = []
        inside = [sub for sub in inside if not named & {f"{sub}/{name}" for name in picture_names(folder / sub)}]
    found: dict[Kind, str] = {}
    if tables:
        found["captions"] = " and ".join(tables)
    if {"images", "maps"} <= set(inside):
        found["maps"] = "images/ and maps/"
        inside = [sub for sub in inside if sub not in ("images", "maps")]
    holding = [sub for sub in inside if picture_names(folder / sub) or subfolders(folder / sub)]
    if holding:
        found["classes"] = listed([f"{sub}/" for sub in holding], 3)
    if here:
        found["pictures"] = f"{listed(here, 3)} beside no table"
    return found


def of_classes(folder: Path) -> Layout:
    """A class for each folder, in the order of their names. Raises ``ValueError`` for pictures outside of one."""
    names = subfolders(folder)
    stray = [] if tables_of(folder) else picture_names(folder)
    if stray:
        raise ValueError(f"'{folder}' mixes layouts: {listed(stray)} beside the folders of classes have no class")
    pictures: list[str] = []
    rows: list[Row] = []
    for label, name in enumerate(names):
        own = picture_names(folder / name)
        deeper = [f"{name}/{sub}" for sub in subfolders(folder / name)]
        if deeper:
            raise ValueError(f"'{folder}': {listed(deeper)}: expected pictures in the folder of a class, found folders")
        if not own:
            raise ValueError(f"'{folder}': the folder of class '{name}' holds no picture: fill it or take it away")
        rows += [Row(len(pictures) + i, label=label) for i in range(len(own))]
        pictures += [f"{name}/{file}" for file in own]
    return Layout("classes", tuple(pictures), (), tuple(names), tuple(rows))


def of_captions(folder: Path) -> Layout:
    """An entry for each line of the CSV; a picture may have several. Raises ``ValueError`` that names the lines."""
    table, problems = tables_of(folder)[0], []
    place: dict[str, int] = {}
    rows = []
    for line, file, caption in read_table(folder):
        name = Path(file)
        if not file or name.is_absolute() or ".." in name.parts:
            problems.append(f"{table}:{line}: '{file}' names no file inside of the folder")
        elif not (folder / name).is_file():
            problems.append(f"{table}:{line}: there is no file '{file}'")
        elif not caption:
            problems.append(f"{table}:{line}: the caption of '{file}' is empty")
        else:
            rows.append(Row(place.setdefault(str(name), len(place)), caption=caption))
    report(folder, problems)
    if not rows:
        raise ValueError(f"'{folder}': {table} names no picture")
    return Layout("captions", tuple(place), (), (), tuple(rows))


def of_maps(folder: Path) -> Layout:
    """A map of the same name for each picture. Raises ``ValueError`` for one without the other."""
    pictures = picture_names(folder / "images")
    maps = [name for name in picture_names(folder / "maps") if Path(name).suffix.lower() == ".png"]
    by_stem = {Path(name).stem: name for name in maps}
    stems = [Path(name).stem for name in pictures]
    count = Counter(stems)
    twice = sorted(stem for stem in count if count[stem] > 1)
    problems = [f"images/: several pictures are called '{stem}', and their map is maps/{stem}.png" for stem in twice]
    problems += [
        f"images/{name}: there is no maps/{Path(name).stem}.png" for name in pictures if Path(name).stem not in by_stem
    ]
    problems += [
        f"maps/{name}: there is no picture of that name in images/"
        for stem, name in by_stem.items()
        if stem not in count
    ]
    report(folder, problems)
    if not pictures:
        raise ValueError(f"'{folder}': images/ holds no picture; pictures end in {', '.join(PICTURES)}")
    rows = tuple(Row(i) for i in range(len(pictures)))
    pairs = tuple(f"maps/{by_stem[stem]}" for stem in stems)
    return Layout("maps", tuple(f"images/{name}" for name in pictures), pairs, (), rows)


def of_pictures(folder: Path) -> Layout:
    """Pictures alone, for a first stage."""
    names = picture_names(folder)
    return Layout("pictures", tuple(names), (), (), tuple(Row(i) for i in range(len(names))))


def subfolders(folder: Path) -> list[str]:
    """The folders in a folder by name, but for hidden ones. Raises ``ValueError`` for a link to a folder."""
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not hidden(entry))
    linked = [name for name in found if (folder / name).is_symlink()]
    if linked:
        raise ValueError(
            f"'{folder}': {listed(linked)}: a link to a folder is not followed; put the folder itself there"
        )
    return found


def picture_names(folder: Path) -> list[str]:
    """The files in a folder, not deeper, that are pictures by their ending, but for hidden ones, sorted."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.suffix.lower() in PICTURES and not entry.is_dir() and not hidden(entry)
    )


def hidden(entry: Path) -> bool:
    """Whether an entry is one that systems leave behind, such as .DS_Store."""
    return entry.name.startswith(".") or entry.name == "__MACOSX"


def tables_of(folder: Path) -> list[str]:
    """The CSV in a folder, or none. Raises ``ValueError`` for two."""
    found = [name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"'{folder}' holds {' and '.join(found)}: keep one of them")
    return found


def read_table(folder: Path) -> list[tuple[int, str, str]]:
    """Line, file and caption of each row of the folder's CSV. Raises ``ValueError`` for what is no such table."""
    name = tables_of(folder)[0]
    try:
        text = read_regular(folder / name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{folder}': {name} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}): save it as such"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        columns = [column_of(header, known) for known in (FILE_COLUMNS, CAPTION_COLUMNS)]
        if None in columns:
            raise ValueError(f"'{folder}': {name}:1: expected the header 'file,caption', found '{','.join(header)}'")
        found = []
        for row in reader:
            if row and len(row) != len(header):
                raise ValueError(
                    f"'{folder}': {name}:{reader.line_num}: expected {len(header)} cells, found {len(row)}: "
                    "put a caption with a comma in it in quotes"
                )
            if row:
                file, caption = (row[column].strip() for column in columns if column is not None)
                found.append((reader.line_num, file, caption))
    except csv.Error as error:
        raise ValueError(f"'{folder}': {name}:{reader.line_num}: {error}") from None
    return found


def column_of(header: Sequence[str], known: Sequence[str]) -> int | None:
    """Where a column of one of the known names is."""
    return next((header.index(name) for name in known if name in header), None)


def report(folder: Path, problems: Sequence[str]) -> None:
    """Raises ``ValueError`` that lists the problems, the first ones of many."""
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = "\n".join(f"  {problem}" for problem in [*problems[:SHOWN], *more])
        raise ValueError(f"'{folder}' cannot be used:\n{lines}")


def listed(names: Iterable[str], most: int = SHOWN) -> str:
    """Some names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
