"""Archive files: Parquet (zstd) with a manifest beside each, and how PostgreSQL's columns lie in them.

A `numeric` is a decimal of 18 places, so that any program can calculate with it, and its own number of places in a
column `<name>_scale`: 1.50 comes back as 1.50. Where one value of a file needs more, or is no number, that file has
the column as text. PostgreSQL writes and reads the rows as CSV; only the C++ of pyarrow looks at them in between, so
that the event loop has its interpreter to itself meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from datetime import datetime
from hashlib import file_digest, sha256
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from recio_ingest.errors import BadInputError, ConfigError

FORMAT = 1
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_RELATION = re.compile(rf"historical_data\.({_NAME.pattern})")
DIGITS, PLACES = 38, 18
_KINDS = {
    "text": "string",
    "bigint": "int64",
    "integer": "int32",
    "jsonb": "string",
    "timestamp with time zone": "timestamp[us, tz=UTC]",
}


class Column(NamedTuple):
    """One column: its name, PostgreSQL's type, and whether a numeric lies as decimal and scale (else as text)."""

    name: str
    kind: str
    decimal: bool = False

    def fields(self) -> list[tuple[str, str, str]]:
        """Return what the file has for it: name, Arrow type, and the SQL that gives it."""
        own = f'"{self.name}"'
        if self.kind != "numeric":
            if self.kind not in _KINDS:
                raise ConfigError(f"the column {self.name} is of a type that no archive has: {self.kind}")
            return [(self.name, _KINDS[self.kind], own)]
        if not self.decimal:
            return [(self.name, "string", own)]
        return [(self.name, "decimal", own), (f"{self.name}_scale", "int16", f"scale({own})")]

    def value(self) -> str:
        """Return the SQL that makes it again from the file's fields, which are text there."""
        if self.decimal:
            return f'round("{self.name}"::numeric, "{self.name}_scale"::integer)'
        return f'"{self.name}"::{self.kind}'


class Manifest(NamedTuple):
    """What a file holds; times are ISO 8601, UTC; `checksum` is ingest.rows_checksum_v1's."""

    table: str
    partition: str
    lower: str
    upper: str
    columns: tuple[Column, ...]
    rows: int
    min_time: str | None
    max_time: str | None
    checksum: str
    size_bytes: int = 0
    sha256: str = ""

    def holds(self, other: Manifest) -> bool:
        """Return whether the other's rows are these, whatever the files look like."""
        return (*self[:9],) == (*other[:9],)

    def text(self) -> str:
        """Return the manifest's file, sealed by a digest of its own."""
        body = {"format": FORMAT, **self._asdict(), "columns": [column._asdict() for column in self.columns]}
        return json.dumps({**body, "seal": _seal(body)}, indent=1) + "\n"


def _seal(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def require() -> None:
    """Raise ConfigError where pyarrow is missing: at the start, not at the end of a month."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as exc:
        raise ConfigError(
            "archives need pyarrow, which is not installed",
            hint="pip install --require-hashes --only-binary :all: -r requirements-archive.lock",
        ) from exc


def manifest_of(path: Path) -> Path:
    """Return where the manifest of a Parquet file lies."""
    return path.with_suffix(".json")


def read_manifest(path: Path) -> Manifest:
    """Return a sealed manifest. Raises BadInputError for anything else."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body.pop("seal") != _seal(body) or body.pop("format") != FORMAT:
            raise BadInputError(f"{path.name} is damaged, or of a newer version")
        return _examined(Manifest(**{**body, "columns": tuple(Column(**column) for column in body["columns"])}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadInputError(f"{path.name} is no manifest of an archive: {exc}") from exc


def _examined(manifest: Manifest) -> Manifest:
    """Return it. Raises ValueError or TypeError for what no manifest of ours says: its names and types become SQL."""
    table, partition = (_RELATION.fullmatch(name) for name in (manifest.table, manifest.partition))
    if not (table and partition and partition[1].startswith(f"{table[1]}_")):
        raise ValueError(f"{manifest.partition!r} is no partition of {manifest.table!r}")
    for name, kind, decimal in manifest.columns:
        if not _NAME.fullmatch(name) or kind not in {*_KINDS, "numeric"} or decimal not in {False, kind == "numeric"}:
            raise ValueError(f"{name!r} of type {kind!r} is no column")
    lower, upper = (datetime.fromisoformat(time) for time in (manifest.lower, manifest.upper))
    within = [datetime.fromisoformat(time) for time in (manifest.min_time, manifest.max_time) if time is not None]
    if any(time.tzinfo is None for time in (lower, upper, *within)) or not lower < upper:
        raise ValueError("its times are no times, or its bounds no bounds")
    if manifest.rows < 0:
        raise ValueError(f"{manifest.rows} rows")
    int(manifest.checksum)
    return manifest


def check(path: Path) -> Manifest:
    """Return the manifest of a file that is, to the byte, the one that was written. Raises BadInputError."""
    manifest = read_manifest(manifest_of(path))
    try:
        size_bytes, digest = _measure(path)
    except OSError as exc:
        raise BadInputError(f"{path.name} cannot be read: {exc}") from exc
    if (size_bytes, digest) != (manifest.size_bytes, manifest.sha256):
        raise BadInputError(f"{path.name} is not the file that its manifest tells of: it is damaged")
    return manifest


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, file_digest(file, "sha256").hexdigest()


def _types(columns: tuple[Column, ...]) -> list[tuple[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415  # an extra

    made = {
        "string": pa.string(),
        "int64": pa.int64(),
        "int32": pa.int32(),
        "int16": pa.int16(),
        "decimal": pa.decimal128(DIGITS, PLACES),
        "timestamp[us, tz=UTC]": pa.timestamp("us", tz="UTC"),
    }
    return [(name, made[kind]) for column in columns for name, kind, _ in column.fields()]


class Writer:
    """Writes one file and its manifest; nothing has the final name before all of it is on disk."""

    def __init__(self, path: Path, columns: tuple[Column, ...]) -> None:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        import pyarrow.parquet as pq  # noqa: PLC0415

        self._path = path
        self._unfinished = path.with_name(f"{path.name}.tmp")
        self._types = _types(columns)
        self._file = self._unfinished.open("wb")
        self._parquet = pq.ParquetWriter(self._file, pa.schema(self._types), compression="zstd")

    def write(self, rows: bytes) -> None:
        """Add rows, as PostgreSQL's CSV, as a row group."""
        from pyarrow import csv  # noqa: PLC0415  # an extra

        if not rows:
            return
        table = csv.read_csv(
            io.BytesIO(rows),
            csv.ReadOptions(
                use_threads=False,
                column_names=[name for name, _ in self._types],
                block_size=max(1 << 20, len(rows)),  # a row larger than a block, and so than 1 MiB, would be refused
            ),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(
                column_types=dict(self._types),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        self._parquet.write_table(table)

    def finish(self, manifest: Manifest) -> Manifest:
        """Make both files durable under their names, the manifest last; return it complete."""
        self._parquet.close()
        self._sync_and_close()
        size_bytes, digest = _measure(self._unfinished)
        manifest = manifest._replace(size_bytes=size_bytes, sha256=digest)
        self._unfinished.replace(self._path)
        told = manifest_of(self._path)
        self._unfinished, self._file = told.with_name(f"{told.name}.tmp"), told.with_name(f"{told.name}.tmp").open("wb")
        self._file.write(manifest.text().encode())
        self._sync_and_close()
        self._unfinished.replace(told)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return manifest

    def _sync_and_close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Leave nothing behind of what was not finished; after `finish`, nothing is."""
        with contextlib.suppress(OSError, ValueError):  # a full disk does not take a last page either
            self._parquet.close()
        self._file.close()
        self._unfinished.unlink(missing_ok=True)


class Reader:
    """The rows of a file, row group by row group."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        import pyarrow.parquet as pq  # noqa: PLC0415

        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as exc:
            raise BadInputError(f"{path.name} is no Parquet file: {exc}") from exc
        if not self._file.schema_arrow.equals(pa.schema(_types(manifest.columns))):
            raise BadInputError(f"{path.name} does not have the columns that its manifest tells of")
        self.groups = self._file.num_row_groups

    def read(self, group: int) -> bytes:
        """Return one group as CSV that PostgreSQL reads."""
        from pyarrow import BufferOutputStream, csv  # noqa: PLC0415  # an extra

        out = BufferOutputStream()
        csv.write_csv(self._file.read_row_group(group, use_threads=False), out, csv.WriteOptions(include_header=False))
        return bytes(out.getvalue().to_pybytes())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
