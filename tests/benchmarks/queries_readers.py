"""Who asks: one reader, or fifty at once, each a process of its own on either side.

For SQLite that is the best there is: fifty threads of one Python would hand the interpreter's lock to each other at
every row. Its file is opened for each question, as the predecessor's programs do; a program of today keeps its
connection, and the plans of its questions with it.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import orjson
import uvloop

# For a plan that is made once and kept: a reader's connection lives for days, and a plan for many partitions costs more
# than most of these questions. Months that a question does not name are still left out, when it is asked.
# And pages of a solid-state disk cost the same in any order: without that a day's rows are fetched as a bitmap, and
# then sorted.
SETTINGS = {"timezone": "UTC", "plan_cache_mode": "force_generic_plan", "random_page_cost": "1.1"}
STARTS_IN_S = 0.1
SQLITE, POSTGRES = "sqlite", "postgres"


class Question(NamedTuple):
    """The same question to both sides: SQL and arguments each, and in which SQLite file the answer is."""

    name: str
    postgres: str
    postgres_arguments: Sequence[Any]
    file: str
    sqlite: str
    sqlite_arguments: Sequence[Any]


class Reader:
    """One process's way of asking either side."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._folder = folder
        self._loop = uvloop.new_event_loop()
        self._connection = self._loop.run_until_complete(_connect(dsn))
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}

    def ask(self, side: str, question: Question) -> list[Any]:
        """Return all rows of the answer."""
        if side == SQLITE:
            with closing(sqlite3.connect(self._folder / f"{question.file}.db")) as connection:
                return connection.execute(question.sqlite, question.sqlite_arguments).fetchall()
        statement = self._prepared.get(question.name)
        if statement is None:
            statement = self._loop.run_until_complete(self._connection.prepare(question.postgres))
            self._prepared[question.name] = statement
        return list(self._loop.run_until_complete(statement.fetch(*question.postgres_arguments)))

    def close(self) -> None:
        """Leave the server."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


async def _connect(dsn: str) -> asyncpg.Connection:
    """Connect as docs/queries.md tells programs to."""
    connection = await asyncpg.connect(dsn, server_settings=SETTINGS)
    await connection.set_type_codec("json", schema="pg_catalog", encoder=orjson.dumps, decoder=orjson.loads)
    return connection


class Order(NamedTuple):
    """Ask that side so often, one after the other, from a moment of the machine's monotonic clock on."""

    side: str
    question: Question
    start_s: float
    times: int


def serve(pipe: Connection, dsn: str, folder: Path) -> None:
    """Carry out orders until there is none: the life of a reader's process. Answers are seconds."""
    reader = Reader(dsn, folder)
    pipe.send([])
    while (order := pipe.recv()) is not None:
        time.sleep(max(0.0, order.start_s - time.perf_counter()))
        # Of a reader among others the wait for a core counts, so the first is timed from when all were to begin.
        began_s, took = order.start_s, []
        for _ in range(order.times):
            reader.ask(order.side, order.question)
            ended_s = time.perf_counter()
            took.append(ended_s - began_s)
            began_s = ended_s
        pipe.send(took)
    reader.close()


class Readers:
    """Processes that wait for orders."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def alone(self, side: str, question: Question, times: int) -> list[float]:
        """Return the seconds of each question that one reader asks, but the first, which it begins when it wakes."""
        self._pipes[0].send(Order(side, question, time.perf_counter(), times + 1))
        return list(self._pipes[0].recv())[1:]

    def at_once(self, side: str, question: Question) -> list[float]:
        """Return for each reader the seconds from when all ask until it has its answer."""
        start_s = time.perf_counter() + STARTS_IN_S
        for pipe in self._pipes:
            pipe.send(Order(side, question, start_s, 1))
        return [took for pipe in self._pipes for took in pipe.recv()]


@contextmanager
def readers(count: int, dsn: str, folder: Path) -> Iterator[Readers]:
    """Lend so many readers, connected."""
    # Not forked from here: this process has an event loop and an imported asyncpg at work.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ends, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, dsn, folder), daemon=True)
            process.start()
            ends.append(ours)
            processes.append(process)
        for end in ends:
            end.recv()
        yield Readers(ends)
    finally:
        for end in ends:
            end.send(None)
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()
