"""The command line: one flag chooses what to do; without one, the daemon runs."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import structlog
import uvloop

from recio_ingest import (
    embedded,
    feeds,
    logs,
    parquet,
    replay,
    report,
    restore,
    rollover,
    schema,
    service,
    ship,
    status,
    store,
    verify,
)
from recio_ingest.credentials import offer_password_file, read_key
from recio_ingest.errors import EXIT_FAILED, EXIT_USAGE, ConfigError, RecioError
from recio_ingest.records import Outcome
from recio_ingest.settings import Settings, load, render
from recio_ingest.settlement import Result

log = structlog.get_logger()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit 64 (EX_USAGE); argparse's own 2 means something else to systemd and to scripts."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"recio-ingest: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. Every known trouble is one or two lines, never a traceback."""
    arguments = _arguments(argv)
    code = _exit_code(arguments)
    if arguments.lasting:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the daemon, which has left all its scopes: durable, shipped, unlocked.

    A name server that hangs holds threads of the event loop's library for half a minute a lookup, and it would wait for
    each of them (seen: over 28 s after `service.stopped`).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_code(arguments: argparse.Namespace) -> int:
    try:
        settings = load(arguments.config)
        logs.configure(settings.log.format, settings.log.level)
        offer_password_file(os.environ)
        return _run(arguments, settings)
    except RecioError as exc:
        return _explain(exc)
    except BaseExceptionGroup as group:
        known = _first(group)
        if known is None:
            raise
        return _explain(known)
    except KeyboardInterrupt:
        return 130


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="recio-ingest", description="Records exchange feeds into PostgreSQL.", allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="TOML (else $RECIO_CONFIG, else /etc/recio-ingest/...)")
    parser.add_argument("--takeover", action="store_true", help="write although another daemon does; fence that one")
    parser.add_argument("--adopt", action="store_true", help="with --migrate: move the predecessor's tables aside")
    parser.add_argument("--feed", choices=feeds.NAMES, help="with --replay: whose messages these are")
    parser.add_argument("--speed", type=float, default=0.0, metavar="N", help="with --replay: N times as it was")
    parser.add_argument("--user", default="0001", metavar="ID", help="with --backfill: whose rows these are")
    parser.add_argument("--dry-run", action="store_true", help="with --backfill: convert all, write nothing")
    parser.add_argument("--strict", action="store_true", help="with --backfill: quarantined rows end with 1")
    parser.add_argument("--report", type=Path, metavar="FILE", help="with --backfill: write the report as JSON")
    parser.add_argument("--undo", type=int, metavar="ID", help="with --backfill: take back what this load inserted")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--migrate", action="store_true", help="bring the schema up to date, and exit")
    mode.add_argument("--check-config", action="store_true", help="print the effective configuration, and exit")
    mode.add_argument("--rollover", action="store_true", help="move old rows to historical_data now, and exit")
    mode.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="ship spool segments or JSON lines")
    mode.add_argument("--replay-quarantine", action="store_true", help="decode quarantined frames again")
    mode.add_argument("--backfill", nargs="*", type=Path, metavar="FILE", help="load the predecessor's SQLite files")
    mode.add_argument("--verify-settlements", action="store_true", help="compare published values with the prints")
    mode.add_argument("--restore-archive", type=Path, metavar="FILE", help="bring an archived partition back")
    mode.add_argument("--status", action="store_true", help="ask the running daemon")
    mode.add_argument("--demo", action="store_true", help="run against simulated venues on loopback")
    mode.add_argument("--version", action="version", version=f"recio-ingest {report.VERSION}")
    arguments = parser.parse_args(argv)
    once = ("migrate", "check_config", "rollover", "replay", "replay_quarantine", "backfill", "verify_settlements",
            "restore_archive", "status")  # fmt: skip
    arguments.lasting = all(getattr(arguments, name) in (None, False) for name in once)
    if arguments.adopt and not arguments.migrate:
        parser.error("--adopt goes with --migrate")
    if (arguments.feed or arguments.speed) and not arguments.replay:
        parser.error("--feed and --speed go with --replay")
    if not 0 <= arguments.speed < math.inf:
        parser.error("--speed is a factor above 0")
    _check_backfill(parser, arguments)
    return arguments


def _check_backfill(parser: _Parser, arguments: argparse.Namespace) -> None:
    given = [f"--{name.replace('_', '-')}" for name in ("dry_run", "strict", "report") if getattr(arguments, name)]
    if arguments.backfill is None:
        given += ["--user"] * (arguments.user != parser.get_default("user")) + ["--undo"] * (arguments.undo is not None)
        if given:
            parser.error(f"{given[0]} goes with --backfill")
    elif arguments.undo is None and not arguments.backfill:
        parser.error("--backfill needs a file, or --undo and the id of a load")
    elif arguments.undo is not None and (arguments.backfill or given):
        parser.error("--backfill --undo takes the id of a load and nothing else")
    if not re.fullmatch("[0-9a-z_]{1,16}", arguments.user):
        parser.error("--user is an id of 1 to 16 of 0-9, a-z and _")


def _run(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.check_config:
        print("\n".join(render(settings)))  # noqa: T201  # the command's output
        return 0
    if arguments.status:
        return status.show(settings)
    if (command := _command(arguments, settings)) is not None:
        return _once(command)
    work = _demo(settings) if arguments.demo else _serve(settings, takeover=arguments.takeover)
    # Not `uvloop.run`: closing the loop waits for lookups.
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work)
    return 0


def _command(arguments: argparse.Namespace, settings: Settings) -> Coroutine[Any, Any, int] | None:
    """Return what does its work on the database and ends; None for the daemon."""
    commands: tuple[tuple[object, Callable[[], Coroutine[Any, Any, int]]], ...] = (
        (arguments.migrate, lambda: _migrate(settings, adopt=arguments.adopt)),
        (arguments.rollover, lambda: _rollover(settings)),
        (arguments.replay, lambda: _replay(settings, arguments.replay, arguments.feed, arguments.speed)),
        (arguments.backfill is not None, lambda: _backfill(settings, arguments)),
        (arguments.replay_quarantine, lambda: _replay_quarantine(settings)),
        (arguments.verify_settlements, lambda: _verify_settlements(settings)),
        (arguments.restore_archive, lambda: _restore_archive(settings, arguments.restore_archive)),
    )
    return next((work() for asked, work in commands if asked), None)


def _once(work: Coroutine[Any, Any, int]) -> int:
    """Run a command that ends by itself; a database that is not there is its own exit code."""
    try:
        return uvloop.run(work)
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        ConnectionError,
        TimeoutError,
    ) as exc:
        raise ship.one_shot(exc) from exc


async def _serve(settings: Settings, *, takeover: bool) -> None:
    streams = _streams(settings)
    if not streams:
        raise ConfigError("no feed is enabled", hint="set enabled = true under one of [feeds.*]")
    if settings.archive.dir:
        parquet.require()
    await service.serve(settings, streams, takeover=takeover)


async def _demo(settings: Settings) -> None:
    from recio_ingest import demo  # noqa: PLC0415  # the simulator is loaded by those who ask for it

    async with demo.venues(settings) as simulated:
        await service.serve(simulated, _streams(simulated))


def _streams(settings: Settings) -> list[feeds.Feed]:
    """Return the configured feeds. Raises ConfigError where one could not sign: better at the start than at night."""
    streams = feeds.configured(settings.feeds)
    for feed in streams:
        if feed.sign is not None:
            feed.sign(read_key(feed.key_file), 0)
        if feed.warning:
            log.warning("feed.limited", feed=feed.name, why=feed.warning)
    return streams


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[str]:
    """Yield the DSN, with the embedded server running if there is none configured, and the schema in place."""
    if settings.database.dsn:
        yield settings.database.dsn
    else:
        async with embedded.running(settings.state_dir) as server:
            yield server.dsn


async def _migrate(settings: Settings, *, adopt: bool) -> int:
    async with _database(settings) as dsn:
        done = await _bring_up_to_date(dsn, adopt=adopt)
    print("\n".join(done) or "the schema is up to date")  # noqa: T201  # the command's output
    return 0


async def _bring_up_to_date(dsn: str, *, adopt: bool = False) -> list[str]:
    connection = await store.connect(dsn, role=None)
    try:
        done = await schema.migrate(connection, adopt=adopt)
    finally:
        await connection.close()
    return [f"applied {migration.version:04d} {migration.name}" for migration in done]


async def _rollover(settings: Settings) -> int:
    of = settings.rollover
    async with _database(settings) as dsn:
        await _bring_up_to_date(dsn)
        done = await rollover.Rollover(dsn, of.live_window_s, keep_raw=of.keep_raw).run_once()
    print("\n".join(f"{table}: {rows} rows" for table, rows in done.moved.items()) or "no row is old enough")  # noqa: T201  # the command's output
    for trouble in done.troubles:
        raise trouble
    return 0


async def _replay(settings: Settings, paths: Sequence[Path], feed: str | None, speed: float) -> int:
    worst = 0
    async with _database(settings) as dsn:
        await _bring_up_to_date(dsn)
        for path in replay.in_order(paths):
            try:
                done = await replay.replay(dsn, path, feed, speed, settings.batch.max_rows)
            except RecioError as exc:
                worst = max(worst, _explain(exc))
                continue
            words = ", ".join(f"{done.counts[outcome]} {outcome}" for outcome in Outcome if done.counts[outcome])
            print(f"{done.name}: {done.new_rows} new rows; frames in all: {words or 'none'}")  # noqa: T201
    return worst


async def _replay_quarantine(settings: Settings) -> int:
    async with _database(settings) as dsn:
        await _bring_up_to_date(dsn)
        used, remaining = await replay.replay_quarantine(dsn)
    print(f"{used} frames used, {remaining} remain in the quarantine")  # noqa: T201  # the command's output
    return 0


async def _backfill(settings: Settings, arguments: argparse.Namespace) -> int:
    from recio_ingest.backfill import run  # noqa: PLC0415  # its parts are loaded by those who ask for it

    folder = settings.state_dir / "backfill"
    wanted = run.Wanted(
        arguments.backfill, arguments.user, arguments.dry_run, arguments.strict, arguments.report, folder
    )
    async with _database(settings) as dsn:
        if arguments.undo is not None:
            return await run.take_back(dsn, arguments.undo)
        if not arguments.dry_run:
            await _bring_up_to_date(dsn)
        return await run.run(dsn, wanted, _explain)


async def _verify_settlements(settings: Settings) -> int:
    known = {series for rule in feeds.rules() for series in rule.series}
    followed = [series for feed in feeds.configured(settings.feeds) for series in feed.describe.get("series", ())]
    for series in [series for series in followed if series not in known]:
        print(f"{series}: not checked, as it is not known how its events are settled")  # noqa: T201  # the output
    counts: Counter[str] = Counter()
    async with _database(settings) as dsn:
        await _bring_up_to_date(dsn)
        async for row in verify.verify_all(dsn, feeds.rules()):
            counts[row.outcome] += 1
            if row.why:
                print(f"{row.event_ticker}: {row.outcome}: {row.why}")  # noqa: T201  # the command's output
    words = ", ".join(f"{counts[result]} {result}" for result in Result)
    print(f"{counts.total()} events: {words}")  # noqa: T201  # same
    return EXIT_FAILED if counts[Result.DIFFERS] else 0


async def _restore_archive(settings: Settings, path: Path) -> int:
    parquet.require()
    async with _database(settings) as dsn:
        await _bring_up_to_date(dsn)
        done = await restore.restore(dsn, path)
    print(f"{done.partition} is back: {done.rows} rows")  # noqa: T201  # the command's output
    return 0


def _explain(exc: RecioError) -> int:
    print(f"recio-ingest: {exc}", file=sys.stderr)  # noqa: T201  # for the person at the terminal, or the journal
    if exc.hint:
        print(f"  {exc.hint}", file=sys.stderr)  # noqa: T201  # same
    return exc.exit_code


def _first(group: BaseExceptionGroup[BaseException]) -> RecioError | None:
    """Return the first error of a group if all of it is known trouble."""
    known, unknown = group.split(RecioError)
    if known is None or unknown is not None:
        return None
    found: BaseException = known
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, RecioError) else None


if __name__ == "__main__":
    sys.exit(main())
