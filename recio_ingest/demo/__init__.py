"""Simulated venues for `recio-ingest --demo`: the real protocols, invented markets, loopback only."""
