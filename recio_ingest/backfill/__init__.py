"""Loads the predecessor's SQLite files: every row inserted, already there, or quarantined with its reason."""
