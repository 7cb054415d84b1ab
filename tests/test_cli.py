"""The command line, run as a person or systemd runs it: exit codes, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from recio_ingest.spool import Spool

PROGRAM = Path(sys.executable).with_name("recio-ingest")
SECRETS = {
    "RECIO_DATABASE__DSN": "postgresql://recio:hunter2@db.example/rec_io",
    "RECIO_FEEDS__KALSHI__KEY_ID": "hunter2-key",
}


class Command:
    """The installed program in an environment with nothing in it but a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.out = self.err = ""

    def __call__(self, *arguments: str, **variables: str) -> int:
        """Run it to its end; return its exit code."""
        environ = {"HOME": str(self.home), "PATH": os.environ["PATH"]} | variables
        command = [str(PROGRAM), *arguments]
        result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
        self.out, self.err = result.stdout, result.stderr
        assert "Traceback" not in self.err
        return result.returncode


@pytest.fixture
def recio(tmp_path: Path) -> Command:
    """Return the program, with a home that must stay empty."""
    return Command(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--frobnicate", "unrecognized arguments: --frobnicate"),
        ("serve", "unrecognized arguments: serve"),
        ("--adopt", "--adopt goes with --migrate"),
        ("--migrate --status", "argument --status: not allowed with argument --migrate"),
        ("--feed coinbase", "--feed and --speed go with --replay"),
        ("--replay x --feed nasdaq", "argument --feed: invalid choice: 'nasdaq'"),
        ("--replay x --speed nan", "--speed is a factor above 0"),
    ],
)
def test_a_wrong_command_line_is_64(recio: Command, line: str, words: str) -> None:
    """What systemd must not try again has its own exit code, the usage, and what is wrong with it."""
    assert recio(*line.split()) == 64
    assert (recio.out, recio.err.startswith("usage: recio-ingest ")) == ("", True)
    assert words in recio.err
    assert list(recio.home.iterdir()) == []


def test_a_bad_configuration_is_78(recio: Command, tmp_path: Path) -> None:
    """Every mistake of file and environment is in one message, with a hint, before anything is opened."""
    file = tmp_path / "recio.toml"
    file.write_text("colour = 1\n[http]\nport = 65536\n")
    assert recio("--config", str(file), RECIO_LOG__LEVEL="loud", RECIO_COLOUR="red") == 78
    assert recio.out == ""
    assert recio.err.splitlines() == [
        "recio-ingest: the configuration cannot be used:",
        "  RECIO_COLOUR: no such key",
        f"  {file}: http.port: Input should be less than or equal to 65535",
        "  RECIO_LOG__LEVEL: log.level: Input should be 'debug', 'info', 'warning' or 'error'",
        f"  {file}: colour: no such key",
        "  every key with its default is in config/recio-ingest.toml; check with --check-config",
    ]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("command", ["--migrate", "--demo"])
def test_no_command_runs_on_a_bad_configuration(recio: Command, command: str) -> None:
    """One mistake stops every command with the same exit code, and leaves no trace."""
    assert recio(command, RECIO_HTTP__PORT="x") == 78
    assert "RECIO_HTTP__PORT" in recio.err
    assert list(recio.home.iterdir()) == []


def test_version(recio: Command) -> None:
    """The version is that of the package, and is told whatever the configuration."""
    assert recio("--version", RECIO_COLOUR="red") == 0
    assert (recio.out, recio.err) == (f"recio-ingest {version('recio-ingest')}\n", "")


def test_check_config_shows_what_is_in_force(recio: Command) -> None:
    """It prints the effective configuration as TOML and exits 0, with no secret in it."""
    assert recio("--check-config", RECIO_HTTP__PORT="1234", RECIO_ARCHIVE__DIR='/a "b"\\c', **SECRETS) == 0
    shown = tomllib.loads(recio.out)
    assert (shown["http"]["port"], shown["archive"]["dir"]) == (1234, '/a "b"\\c')
    assert shown["state_dir"] == str(recio.home / ".local/state/recio-ingest")
    assert (shown["database"]["dsn"], shown["feeds"]["kalshi"]["key_id"]) == ("(set)", "(set)")
    assert "hunter2" not in recio.out + recio.err
    assert list(recio.home.iterdir()) == []


def test_a_mistake_beside_a_secret_does_not_show_it(recio: Command) -> None:
    """The report of a mistake names keys, never what stands in them."""
    assert recio("--check-config", RECIO_LOG__FORMAT="hunter2-format", **SECRETS) == 78
    assert "hunter2" not in recio.out + recio.err


def test_without_a_feed_there_is_nothing_to_do(recio: Command) -> None:
    """A daemon that records nothing is a mistake in the configuration, found before a database is made."""
    off = {"RECIO_FEEDS__COINBASE__ENABLED": "false", "RECIO_FEEDS__KALSHI__ENABLED": "false"}
    assert recio(**off) == 78
    assert recio.err == "recio-ingest: no feed is enabled\n  set enabled = true under one of [feeds.*]\n"
    assert list(recio.home.iterdir()) == []


def test_a_spool_that_is_taken_is_75(recio: Command, tmp_path: Path) -> None:
    """A second daemon on the same spool is told so in one line and a hint, and may try again later."""
    with Spool(tmp_path / "spool", ["coinbase"]):
        assert recio(RECIO_STATE_DIR=str(tmp_path), RECIO_FEEDS__KALSHI__ENABLED="false") == 75
    folder = tmp_path / "spool"
    assert recio.err == (
        f"recio-ingest: another recio-ingest has the spool {folder} open\n"
        "  stop the other one, or give this one a state_dir of its own\n"
    )


def test_a_state_dir_that_cannot_be_used(recio: Command, tmp_path: Path) -> None:
    """Where the spool cannot be made the exit code is 1 and the hint says what to give the daemon."""
    (tmp_path / "file").touch()
    assert recio(RECIO_STATE_DIR=str(tmp_path / "file")) == 1
    assert recio.err.endswith("  give the daemon's account a state_dir that it owns\n")


def test_status_of_no_daemon_is_1(recio: Command) -> None:
    """Where nothing answers, the exit code says unhealthy and the words say where it looked."""
    assert recio("--status", RECIO_HTTP__PORT="1") == 1
    assert "no answer from http://127.0.0.1:1" in recio.out
    assert recio.err == ""
