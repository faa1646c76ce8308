"""Published files as records, one at a time: JSON lines, a JSON array, a JSON object of records, CSV, parquet, or a folder of such.

Memory holds one record (parquet: one batch of 256 rows and what its row group needs), never the file.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rlvid.data.questions import QuestionError
from rlvid.data.sources.base import Record
from rlvid.data.sources.unusable import Unusable

FORMATS = (".jsonl", ".json", ".csv", ".parquet")
BATCH_ROWS = 256
BOM = b"\xef\xbb\xbf"

Columns = tuple[str, ...]


def read(path: Path, columns: Columns) -> Iterator[Record]:
    """The rows of a file, or of every file of a known format in a folder. QuestionError where the file as a whole cannot be read."""
    yield from each_file(path, columns, rows)


def read_keyed(path: Path, columns: Columns) -> Iterator[Record]:
    """As `read`, but a .json file that begins with `{` is one object: a record for each key, `{"key": ..., "value": ...}`."""
    yield from each_file(path, columns, keyed_rows)


def rows(path: Path, columns: Columns) -> Iterator[Record]:
    """The rows of one file. `columns` are those wanted: parquet reads no others."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path, columns)
    elif suffix == ".csv":
        yield from _csv(path)
    elif suffix == ".jsonl" or (suffix == ".json" and _first_byte(path) == b"{"):
        yield from _json_lines(path)
    elif suffix == ".json":
        yield from _json(path, "item", lambda number, item: (f"row {number}", item))
    else:
        raise QuestionError(f"{path}: format {suffix or 'without a suffix'} is not read (known: {', '.join(FORMATS)})", "format")


def keyed_rows(path: Path, columns: Columns) -> Iterator[Record]:
    if path.suffix.lower() == ".json" and _first_byte(path) == b"{":
        yield from _json(path, "", lambda _, pair: (f"key {pair[0]!r}", {"key": pair[0], "value": pair[1]}))
    else:
        yield from rows(path, columns)


def lines(path: Path) -> Iterator[tuple[int, float, str]]:
    """(line number from 1, share read, text) of every line that is not blank."""
    with _opened(path) as file:
        size = max(1, os.path.getsize(path))
        done = 0
        for number, raw in enumerate(file, start=1):
            done += len(raw)
            if raw.strip():
                yield number, done / size, raw.decode("utf-8-sig", "replace").strip()


def side_file(path: Path) -> Any:
    """A small JSON file beside the questions, whole (it is held in memory)."""
    try:
        with _opened(path) as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise QuestionError(f"{path}: is not JSON ({error})", "format") from None


def each_file(path: Path, columns: Columns, reader: Callable[[Path, Columns], Iterator[Record]], formats: Columns = FORMATS) -> Iterator[Record]:
    """What `reader` yields of the file, or of every file of these formats in the folder, each row's place led by its file's name."""
    if not path.is_dir():
        yield from reader(path, columns)
        return
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in formats)
    if not found:
        raise QuestionError(f"{path}: holds no file of a known format ({', '.join(formats)})", "format")
    for at, file in enumerate(found):
        for record in reader(file, columns):
            yield Record(f"{file.name}: {record.place}", record.values, record.origin, (at + record.share) / len(found), record.wrong)


def _json_lines(path: Path) -> Iterator[Record]:
    for number, share, line in lines(path):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Record(f"line {number}", {}, str(path), share, Unusable("line", f"is not JSON ({str(error)[:80]})", "not JSON"))
            continue
        yield _record(f"line {number}", values, path, share)


def _json(path: Path, prefix: str, named: Callable[[int, Any], tuple[str, Any]]) -> Iterator[Record]:
    import ijson

    size = max(1, os.path.getsize(path))
    with _opened(path) as file:
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        found = ijson.items(file, prefix, use_float=True) if prefix else ijson.kvitems(file, prefix, use_float=True)
        try:
            for number, item in enumerate(found, start=1):
                place, values = named(number, item)
                yield _record(place, values, path, file.tell() / size)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:80]
            raise QuestionError(f"{path}: is not whole JSON ({reason}; download it anew)", "format") from None


def _csv(path: Path) -> Iterator[Record]:
    size = max(1, os.path.getsize(path))
    try:
        with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            for number, values in enumerate(csv.DictReader(file), start=1):
                yield _record(f"row {number}", values, path, raw.tell() / size)
    except (csv.Error, UnicodeDecodeError) as error:
        raise QuestionError(f"{path}: is not a CSV file in UTF-8 ({error})", "format") from None


def _parquet(path: Path, columns: Columns) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise QuestionError(f"{path}: parquet needs the package pyarrow (pip install pyarrow)", "format") from None
    try:
        with parquet.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in columns]
            number, total = 0, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
                for values in batch.to_pylist() if wanted else [{}] * batch.num_rows:
                    number += 1
                    yield _record(f"row {number}", values, path, number / total)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: values that Python cannot hold
        reason = " ".join(str(error).split())[:80]
        raise QuestionError(f"{path}: is not a whole parquet file ({reason})", "format") from None


def _record(place: str, values: Any, path: Path, share: float) -> Record:
    if isinstance(values, dict):
        return Record(place, values, str(path), min(1.0, share))
    return Record(place, {}, str(path), min(1.0, share), Unusable("row", f"is {type(values).__name__}, not an object", "not an object"))


def _first_byte(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(4096).removeprefix(BOM).lstrip()[:1]


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise QuestionError(f"{path}: cannot be read ({error.strerror})", "format") from None
