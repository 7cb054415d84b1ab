"""The queries of docs/queries.md, as they stand there: what is measured and explained is what people paste."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "queries.md"


def documented() -> dict[str, str]:
    """Return the SQL of each section by its title, without the semicolon at its end."""
    sections = PAGE.read_text().split("\n## ")[1:]
    found = ((part.partition("\n")[0], re.search(r"```sql\n(.*?);\n```", part, re.DOTALL)) for part in sections)
    return {title: sql[1] for title, sql in found if sql}
