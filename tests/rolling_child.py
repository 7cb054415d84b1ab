"""The daemon, with a live window, slices and pauses so short that its rows are always under way to the past.

Stands before the program's own command line (`Daemon.within`), whose first word is the program.
"""

from __future__ import annotations

import sys
from typing import Any

from recio_ingest import rollover, service, upkeep
from recio_ingest.__main__ import main

WINDOW_S = 2.0
SLICE_ROWS = 100


def _rollover(dsn: str, _: float, **options: Any) -> rollover.Rollover:
    return rollover.Rollover(dsn, WINDOW_S, slice_rows=SLICE_ROWS, **options)


if __name__ == "__main__":
    vars(service)["Rollover"] = _rollover
    upkeep.FIRST_ROLL_AFTER_S = upkeep.ROLL_EVERY_S = 0.1
    sys.exit(main(sys.argv[2:]))
