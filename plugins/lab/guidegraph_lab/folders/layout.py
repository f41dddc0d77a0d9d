"""Layouts of a folder of pictures: by class, with a CSV of captions, with a map for each, or pictures alone."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from errno import ENAMETOOLONG
from pathlib import Path
from typing import Literal, NamedTuple
from unicodedata import normalize

from guidegraph.graph.trust.file_checks import read_regular

LayoutKind = Literal["auto", "classes", "captions", "maps", "pictures"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLES = ("captions.csv", "metadata.csv")
FILE_COLUMNS, CAPTION_COLUMNS = ("file", "file_name"), ("caption", "text")
LAYOUTS = (
    "expected a folder for each class (CLASS/*.png), pictures with captions.csv (file,caption), images/ with maps/, "
    "or pictures alone"
)
MAX_LISTED = 10


class FolderRow(NamedTuple):
    """One row of the data: the index of a picture, with its class or caption if it has one."""

    picture: int
    label: int | None = None
    caption: str | None = None


class FolderLayout(NamedTuple):
    """A folder's contents: relative paths of pictures, a map for each or none, class names, and rows."""

    kind: LayoutKind
    pictures: tuple[str, ...]
    maps: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[FolderRow, ...]


def find_layout(folder: Path, kind: LayoutKind) -> FolderLayout:
    """Find the layout of a folder, of the given kind or, with `auto`, of the kind present.

    Links to files count as files; links to folders are refused. Raises ``ValueError`` that names the folder for a
    missing folder, no pictures, mixed layouts, or another layout than `kind`.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder '{folder}'")
    layouts = detect_layouts(folder)
    chosen = kind
    if kind == "auto":
        if len(layouts) > 1:
            raise ValueError(
                f"'{folder}' mixes layouts ({' and '.join(layouts.values())}): {LAYOUTS}. Sort it, or set `kind`"
            )
        if not layouts:
            raise ValueError(f"'{folder}' holds no picture: {LAYOUTS}; pictures end in {', '.join(PICTURES)}")
        chosen = next(iter(layouts))
    elif kind not in layouts:
        summary = " and ".join(layouts.values()) or "no picture at all"
        raise ValueError(f"'{folder}' is not laid out as {kind}: {LAYOUTS}; found {summary}")
    return {
        "classes": read_class_layout,
        "captions": read_caption_layout,
        "maps": read_map_layout,
        "pictures": read_picture_layout,
    }[chosen](folder)


def detect_layouts(folder: Path) -> dict[LayoutKind, str]:
    """Detect the layouts in a folder, each with the files that indicate it.

    With a CSV, the pictures in its folder belong to it, and so do folders that it names a file of.
    """
    folders, loose, tables = list_subfolders(folder), list_pictures(folder), find_tables(folder)
    if tables:
        listed_paths = [Path(file.replace("\\", "/")).parts for _, file, _ in read_table(folder)]
        listed_folders = {normalize("NFC", parts[0]) for parts in listed_paths if len(parts) > 1}
        loose = []
        folders = [sub for sub in folders if normalize("NFC", sub) not in listed_folders]
    layouts: dict[LayoutKind, str] = {}
    if tables:
        layouts["captions"] = " and ".join(tables)
    if {"images", "maps"} <= set(folders):
        layouts["maps"] = "images/ and maps/"
        folders = [sub for sub in folders if sub not in ("images", "maps")]
    filled = [sub for sub in folders if list_pictures(folder / sub) or list_subfolders(folder / sub)]
    if filled:
        layouts["classes"] = join_names([f"{sub}/" for sub in filled], 3)
    if loose:
        layouts["pictures"] = f"{join_names(loose, 3)} beside no table"
    return layouts


def read_class_layout(folder: Path) -> FolderLayout:
    """Read one class per folder, in the order of their names, which are given in Unicode's form NFC.

    Raises ``ValueError`` for pictures outside them, and for two folders whose names look the same.
    """
    names = list_subfolders(folder)
    stray = [] if find_tables(folder) else list_pictures(folder)
    if stray:
        raise ValueError(f"'{folder}' mixes layouts: {join_names(stray)} beside the folders of classes have no class")
    pictures: list[str] = []
    rows: list[FolderRow] = []
    raise_problems(folder, list_lookalikes(names))
    for label, name in enumerate(names):
        files = list_pictures(folder / name)
        nested = [f"{name}/{sub}" for sub in list_subfolders(folder / name)]
        if nested:
            raise ValueError(
                f"'{folder}': {join_names(nested)}: expected pictures in the folder of a class, found folders"
            )
        if not files:
            raise ValueError(f"'{folder}': the folder of class '{name}' holds no picture: fill it or take it away")
        rows += [FolderRow(len(pictures) + i, label=label) for i in range(len(files))]
        pictures += [f"{name}/{file}" for file in files]
    return FolderLayout("classes", tuple(pictures), (), tuple(normalize("NFC", name) for name in names), tuple(rows))


def read_caption_layout(folder: Path) -> FolderLayout:
    """Read one row per line of the CSV; a picture may have several. Raises ``ValueError`` that names bad lines."""
    table, problems = find_tables(folder)[0], []
    index_of: dict[str, int] = {}
    rows = []
    lines = read_table(folder)
    paths = find_listed_files(folder, [file for _, file, _ in lines])
    for line, file, caption in lines:
        if not names_file_inside(file):
            problems.append(f"{table}:{line}: '{file}' names no file inside of the folder")
        elif file not in paths:
            remedy = ": write / for \\" if "\\" in file else ""
            problems.append(f"{table}:{line}: there is no file '{file:.200}'{remedy}")
        elif not caption:
            problems.append(f"{table}:{line}: the caption of '{file}' is empty")
        else:
            rows.append(FolderRow(index_of.setdefault(paths[file], len(index_of)), caption=caption))
    raise_problems(folder, problems)
    if not rows:
        raise ValueError(f"'{folder}': {table} names no picture")
    return FolderLayout("captions", tuple(index_of), (), (), tuple(rows))


def names_file_inside(file: str) -> bool:
    """Whether a relative path, as in a CSV, stays inside of the folder."""
    return bool(file) and not Path(file).is_absolute() and ".." not in Path(file).parts


def find_listed_files(folder: Path, files: Iterable[str]) -> dict[str, str]:
    """The relative paths of those listed files that exist, by their names in the list.

    Some file systems and archives store an accented letter as one character, others as a letter and an accent. Without
    a file of exactly that name, the one counts whose name looks the same (Unicode's form NFC).
    """
    names = [file for file in files if names_file_inside(file)]
    paths = {file: str(Path(file)) for file in names if is_present_file(folder / file)}
    missing = [file for file in names if file not in paths]
    if missing:
        present = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        by_form = {normalize("NFC", path.as_posix()): str(path) for path in present}
        forms = {file: normalize("NFC", Path(file).as_posix()) for file in missing}
        paths |= {file: by_form[form] for file, form in forms.items() if form in by_form}
    return paths


def is_present_file(path: Path) -> bool:
    """Whether a file is there. No file has a name that is too long for the file system."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            return False
        raise


def read_map_layout(folder: Path) -> FolderLayout:
    """Read pictures with a map of the same name for each. Raises ``ValueError`` for one without the other."""
    pictures = list_pictures(folder / "images")
    maps = [name for name in list_pictures(folder / "maps") if Path(name).suffix.lower() == ".png"]
    by_stem = {normalize("NFC", Path(name).stem): name for name in maps}
    stems = [normalize("NFC", Path(name).stem) for name in pictures]
    count = Counter(stems)
    duplicates = sorted(stem for stem in count if count[stem] > 1)
    problems = [
        f"images/: several pictures are called '{stem}', and their map is maps/{stem}.png" for stem in duplicates
    ]
    problems += [
        f"images/{name}: there is no maps/{Path(name).stem}.png"
        for name, stem in zip(pictures, stems, strict=True)
        if stem not in by_stem
    ]
    problems += [
        f"maps/{name}: there is no picture of that name in images/"
        for stem, name in by_stem.items()
        if stem not in count
    ]
    problems += [
        f"maps/{name}: {other} has the same name"
        for name in maps
        if (other := by_stem[normalize("NFC", Path(name).stem)]) != name
    ]
    raise_problems(folder, problems)
    if not pictures:
        raise ValueError(f"'{folder}': images/ holds no picture; pictures end in {', '.join(PICTURES)}")
    rows = tuple(FolderRow(i) for i in range(len(pictures)))
    pairs = tuple(f"maps/{by_stem[stem]}" for stem in stems)
    return FolderLayout("maps", tuple(f"images/{name}" for name in pictures), pairs, (), rows)


def read_picture_layout(folder: Path) -> FolderLayout:
    """Read pictures alone, for a first stage."""
    names = list_pictures(folder)
    return FolderLayout("pictures", tuple(names), (), (), tuple(FolderRow(i) for i in range(len(names))))


def list_subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, without hidden ones. Raises ``ValueError`` for a link to a folder."""
    names = sort_names(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry))
    links = [name for name in names if (folder / name).is_symlink()]
    if links:
        raise ValueError(
            f"'{folder}': {join_names(links)}: a link to a folder is not followed; put the folder itself there"
        )
    return names


def list_pictures(folder: Path) -> list[str]:
    """The names of picture files directly in a folder, by extension and without hidden ones, sorted."""
    return sort_names(
        entry.name
        for entry in folder.iterdir()
        if entry.suffix.lower() in PICTURES and not entry.is_dir() and not is_hidden(entry)
    )


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names by their form NFC, so that the order does not depend on how a file system stores accented letters."""
    return sorted(names, key=lambda name: (normalize("NFC", name), name))


def list_lookalikes(names: Iterable[str]) -> list[str]:
    """A problem for each group of names that differ in their Unicode form alone."""
    count = Counter(normalize("NFC", name) for name in names)
    return [
        f"{name}/: {count[name]} folders have this name in different Unicode forms" for name in count if count[name] > 1
    ]


def is_hidden(entry: Path) -> bool:
    """Whether a file is hidden or left behind by a system, such as .DS_Store."""
    return entry.name.startswith(".") or entry.name == "__MACOSX"


def find_tables(folder: Path) -> list[str]:
    """The CSV in a folder, as a list of one name or none. Raises ``ValueError`` for two."""
    tables = [name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise ValueError(f"'{folder}' holds {' and '.join(tables)}: keep one of them")
    return tables


def read_table(folder: Path) -> list[tuple[int, str, str]]:
    """Line, file and caption of each row of the folder's CSV. Raises ``ValueError`` for an invalid table."""
    name = find_tables(folder)[0]
    try:
        text = read_regular(folder / name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{folder}': {name} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}): save it as such"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        columns = [find_column(header, accepted) for accepted in (FILE_COLUMNS, CAPTION_COLUMNS)]
        if None in columns:
            raise ValueError(f"'{folder}': {name}:1: expected the header 'file,caption', found '{','.join(header)}'")
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise ValueError(
                    f"'{folder}': {name}:{reader.line_num}: expected {len(header)} cells, found {len(row)}: "
                    "put a caption with a comma in it in quotes"
                )
            if row:
                file, caption = (row[column].strip() for column in columns if column is not None)
                rows.append((reader.line_num, file, caption))
    except csv.Error as error:
        raise ValueError(f"'{folder}': {name}:{reader.line_num}: {error}") from None
    return rows


def find_column(header: Sequence[str], accepted: Sequence[str]) -> int | None:
    """The index of the first column with an accepted name, or None."""
    return next((header.index(name) for name in accepted if name in header), None)


def raise_problems(folder: Path, problems: Sequence[str]) -> None:
    """Raise ``ValueError`` that lists the problems, at most the first `MAX_LISTED`, if there are any."""
    if problems:
        more = [f"… and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        lines = "\n".join(f"  {problem}" for problem in [*problems[:MAX_LISTED], *more])
        raise ValueError(f"'{folder}' cannot be used:\n{lines}")


def join_names(names: Iterable[str], limit: int = MAX_LISTED) -> str:
    """Join names with commas, at most `limit`, followed by the number of further ones."""
    all_names = list(names)
    return ", ".join(all_names[:limit]) + (f" and {len(all_names) - limit} more" if len(all_names) > limit else "")
