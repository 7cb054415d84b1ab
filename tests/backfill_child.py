"""A load in a process of its own, to be killed: says each batch on its standard output."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from pathlib import Path

from recio_ingest.backfill import snapshot
from recio_ingest.backfill.load import Loader
from recio_ingest.backfill.source import Source


async def main(dsn: str, path: str, folder: str, batch_rows: str) -> None:
    """Load every table of the file in batches of so many rows."""
    with snapshot.taken(Path(path), Path(folder)) as copy, closing(Source(copy)) as source:
        source.check()
        for found in source.find():
            loader = Loader(dsn, source, found, "0001", batch_rows=int(batch_rows))
            await loader.run(lambda done: print(done, flush=True))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
