"""Records exchange feeds into PostgreSQL, every accepted frame exactly once."""
