"""The configuration: where values come from, what is refused, and what is shown."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recio_ingest import settings
from recio_ingest.errors import ConfigError
from recio_ingest.settings import Settings, load, render

SAMPLE = Path(__file__).parents[1] / "config" / "recio-ingest.toml"

DEFAULTS: dict[str, Any] = {
    "state_dir": str(Path.home() / ".local/state/recio-ingest"),
    "database": {"dsn": ""},
    "feeds": {
        "coinbase": {
            "enabled": True,
            "url": "wss://ws-feed.exchange.coinbase.com",
            "rest_url": "https://api.exchange.coinbase.com",
            "products": ["BTC-USD"],
            "proxy": False,
        },
        "kalshi": {
            "enabled": True,
            "url": "wss://external-api-ws.kalshi.com/trade-api/ws/v2",
            "rest_url": "https://external-api.kalshi.com/trade-api/v2",
            "series": ["KXBTCD"],
            "key_id": "",
            "key_file": "",
            "proxy": False,
        },
    },
    "spool": {"retain_s": 3600, "max_bytes": 8589934592, "sync_interval_ms": 20},
    "batch": {"max_rows": 5000, "min_interval_ms": 20},
    "rollover": {"live_window_s": 86400, "keep_raw": False},
    "retention": {"historical_days": 0},
    "archive": {"dir": ""},
    "http": {"host": "127.0.0.1", "port": 9108},
    "log": {"format": "auto", "level": "info"},
}
NO_INTEGER = "Input should be a valid integer, unable to parse string as an integer"
PRINTABLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.fixture(autouse=True)
def _no_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep a configuration that this machine may have out of the tests."""
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "absent.toml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where a test may write a configuration."""
    return tmp_path / "recio.toml"


def mistakes(file: Path | None, environ: dict[str, str]) -> list[str]:
    """Return the lines in which the one error names what is wrong."""
    with pytest.raises(ConfigError) as caught:
        load(str(file) if file else None, environ)
    first, *lines = str(caught.value).splitlines()
    assert (first, caught.value.exit_code) == ("the configuration cannot be used:", 78)
    return [line.removeprefix("  ") for line in lines]


def test_defaults_without_file_and_environment() -> None:
    """With no file and no variable every key has the default that the contract names."""
    assert load(None, {}).model_dump(mode="json") == DEFAULTS


def test_the_sample_file_is_the_defaults(file: Path) -> None:
    """config/recio-ingest.toml names every key once, at its default, and so do the defaults."""
    sample = tomllib.loads(SAMPLE.read_text(encoding="utf-8"))
    assert sample["state_dir"] == "~/.local/state/recio-ingest"
    sample["state_dir"] = DEFAULTS["state_dir"]
    assert sample == DEFAULTS
    file.write_bytes(SAMPLE.read_bytes())
    assert load(str(file), {}) == Settings()


def test_the_file_is_under_the_environment(file: Path) -> None:
    """A key of the file replaces the default, a variable replaces the file's key, and the neighbours stay."""
    file.write_text('state_dir = "/srv/a"\n[http]\nhost = "::1"\nport = 1\n[feeds.kalshi]\nseries = ["A", "B"]\n')
    loaded = load(str(file), {"RECIO_HTTP__PORT": "2", "RECIO_FEEDS__COINBASE__ENABLED": "false"})
    assert (loaded.http.host, loaded.http.port, str(loaded.state_dir)) == ("::1", 2, "/srv/a")
    assert (loaded.feeds.kalshi.series, loaded.feeds.kalshi.enabled) == (("A", "B"), True)
    assert (loaded.feeds.coinbase.enabled, loaded.feeds.coinbase.products) == (False, ("BTC-USD",))


def test_which_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the command line comes before that of RECIO_CONFIG, and that before the one in /etc."""
    for name, port in (("etc", 1), ("variable", 2), ("flag", 3)):
        (tmp_path / name).write_text(f"[http]\nport = {port}\n")
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "etc")
    variable = {"RECIO_CONFIG": str(tmp_path / "variable")}
    assert load(None, {}).http.port == 1
    assert load(None, variable).http.port == 2
    assert load(str(tmp_path / "flag"), variable).http.port == 3
    assert mistakes(file, {}) == [f"{file}: No such file or directory"]


def test_lists_are_comma_separated() -> None:
    """A list in a variable is split at commas, and blanks around the parts and empty parts do not count."""
    loaded = load(None, {"RECIO_FEEDS__COINBASE__PRODUCTS": "BTC-USD, ETH-USD,,SOL-USD ,"})
    assert loaded.feeds.coinbase.products == ("BTC-USD", "ETH-USD", "SOL-USD")


def test_home_is_expanded() -> None:
    """A tilde means the home directory, and one of nobody is a mistake in the configuration like any other."""
    assert load(None, {"RECIO_STATE_DIR": "~/x"}).state_dir == Path.home() / "x"
    assert mistakes(None, {"RECIO_STATE_DIR": "~no-such-account/x"}) == [
        "RECIO_STATE_DIR: state_dir: there is no such home directory"
    ]
    assert load(None, {"RECIO_ARCHIVE__DIR": "~/x"}).archive.dir == str(Path.home() / "x")
    assert mistakes(None, {"RECIO_ARCHIVE__DIR": "~no-such-account/x"}) == [
        "RECIO_ARCHIVE__DIR: archive.dir: there is no such home directory"
    ]


def test_all_mistakes_in_one_report(file: Path) -> None:
    """Every mistake of the file and of the environment is in the same error, each with where it was made."""
    file.write_text('colour = "red"\n[http]\nport = 65536\n[batch]\nmax_rows = 0\n[spool]\nretained_s = 1\n')
    environ = {
        "RECIO_LOG__LEVEL": "loud",
        "RECIO_BATCH__MAX_ROWS": "many",
        "RECIO_FEEDS__COINBASE__URL": "https://example.org",
        "RECIO_FEEDS__COINBASE__PRODUCTS": "BTC USD",
        "RECIO_DATABASE": "postgresql:///x",
        "RECIO_STATE_DIR__X": "1",
        "RECIO_COLOR": "red",
        "RECIO_": "",
    }
    assert sorted(mistakes(file, environ)) == sorted(
        [
            f"{file}: colour: no such key",
            f"{file}: http.port: Input should be less than or equal to 65535",
            f"{file}: spool.retained_s: no such key",
            f"RECIO_BATCH__MAX_ROWS: batch.max_rows: {NO_INTEGER}",
            "RECIO_LOG__LEVEL: log.level: Input should be 'debug', 'info', 'warning' or 'error'",
            r"RECIO_FEEDS__COINBASE__URL: feeds.coinbase.url: String should match pattern '^wss?://\S+$'",
            "RECIO_FEEDS__COINBASE__PRODUCTS: feeds.coinbase.products: String should match pattern '^[A-Za-z0-9._-]+$'",
            "RECIO_DATABASE: is a section; a key of it is RECIO_DATABASE__...",
            "RECIO_STATE_DIR__X: no such key",
            "RECIO_COLOR: no such key",
            "RECIO_: no such key",
        ]
    )


@pytest.mark.parametrize("text", ["port = ", "[http]\nport = 1\nport = 2\n", "[http\n"], ids=["half", "twice", "open"])
def test_a_file_that_is_not_toml(file: Path, text: str) -> None:
    """A file that cannot be read is one mistake with its line, and the environment's are reported beside it."""
    file.write_text(text)
    broken, variable = mistakes(file, {"RECIO_X": ""})
    assert broken.startswith(f"{file}: not TOML: ")
    assert variable == "RECIO_X: no such key"


def test_a_section_that_is_a_value(file: Path) -> None:
    """A value where a section belongs is refused, also when a variable would go into that section."""
    file.write_text("database = 5\n")
    assert mistakes(file, {"RECIO_DATABASE__DSN": "x"}) == [
        "RECIO_DATABASE__DSN: database is not a section in the file",
        f"{file}: database: Input should be a valid dictionary or instance of Database",
    ]


def test_two_variables_are_not_keys() -> None:
    """RECIO_CONFIG and RECIO_CAPTURES are no keys and no mistakes, and other programs' variables are not ours."""
    file = {"RECIO_CONFIG": str(SAMPLE), "RECIO_CAPTURES": "/x", "RECORDER": "1", "recio_http__port": "1"}
    assert load(None, file) == Settings()


def test_text_that_is_not_utf8_is_refused() -> None:
    """Bytes of a variable that are no UTF-8 are a mistake here, and not a traceback where they are printed."""
    assert mistakes(None, {"RECIO_HTTP__HOST": "a\udcff"}) == ["RECIO_HTTP__HOST: is not UTF-8"]


WRONG_ADDRESS = "its host or port cannot be right, or a password in it is not percent-encoded"
NO_DSN = r"String should match pattern '^(postgres(ql)?://\S*)?$'"
MODES = "sslmode is one of disable, allow, prefer, require, verify-ca, verify-full"


@pytest.mark.parametrize(
    ("dsn", "mistake"),
    [
        ("postgresql://u:hunter2/x@h/d", WRONG_ADDRESS),
        ("postgresql://u:hunter2@h\u2100/d", WRONG_ADDRESS),
        ("postgresql://u:hunter2@h..x/d", WRONG_ADDRESS),
        ("postgresql://u:hunter2@h:65536/d", WRONG_ADDRESS),
        ("postgresql://u:hunter2@h1,h2:x/d", WRONG_ADDRESS),
        ("postgresql://u:hunter2@[::1/d", WRONG_ADDRESS),
        ("postgresql://u:hun ter2@h/d", NO_DSN),
        ("host=/run dbname=d password=hunter2", NO_DSN),
        ("postgresql://u:hunter2@h/d?sslmode=hunter2", MODES),
    ],
)
def test_a_wrong_dsn_is_refused_without_quoting_it(dsn: str, mistake: str) -> None:
    """What cannot be connected to is found at the start, and no piece of a password is in the report."""
    assert mistakes(None, {"RECIO_DATABASE__DSN": dsn}) == [f"RECIO_DATABASE__DSN: database.dsn: {mistake}"]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql:///rec_io?host=/run/postgresql&user=recio-ingest",
        "postgresql://h1:5432,h2:5433/d?target_session_attrs=read-write",
        "postgresql://u:hunter%2F2@[::1]:5432,[::2]/d?sslmode=require",
        "postgres://%2Fa%2Fvery%2Flong%2Fpath%2Fto%2Fa%2Fsocket%2Fthat%2Fis%2Fno%2Fname%2Fof%2Fa%2Fhost/d",
    ],
)
def test_a_dsn_that_postgresql_takes_is_taken(dsn: str) -> None:
    """Sockets, several hosts with their ports, and IPv6 addresses are all right."""
    assert load(None, {"RECIO_DATABASE__DSN": dsn}).database.dsn == dsn


def test_settings_are_frozen() -> None:
    """What was read at the start holds until the end."""
    loaded = load(None, {})
    with pytest.raises(ValidationError, match="frozen"):
        loaded.http.port = 1
    with pytest.raises(ValidationError, match="frozen"):
        loaded.http = settings.Http(port=1)


def test_no_secret_is_shown(file: Path) -> None:
    """Neither the rendered configuration, nor the settings' own text, nor an error shows a DSN or a key's id."""
    file.write_text('[database]\ndsn = "postgresql://u:hunter2@h/d"\n[feeds.kalshi]\nkey_id = "hunter2"\n')
    loaded = load(str(file), {})
    assert loaded.database.dsn == "postgresql://u:hunter2@h/d"
    shown = list(render(loaded))
    assert 'dsn = "(set)"' in shown
    assert 'key_id = "(set)"' in shown
    assert "hunter2" not in "\n".join(shown) + repr(loaded) + str(loaded)
    file.write_text("[http]\nport = true\n")
    wrong = {"RECIO_DATABASE__DSN": "\udcff hunter2", "RECIO_HTTP__PORT": "hunter2", "RECIO_LOG__FORMAT": "hunter2"}
    assert "hunter2" not in "\n".join(mistakes(file, wrong))


@given(
    host=PRINTABLE, folder=PRINTABLE, port=st.integers(0, 65535), keep=st.booleans(), level=st.sampled_from(["debug"])
)
def test_rendered_settings_read_back(host: str, folder: str, port: int, keep: bool, level: str) -> None:  # noqa: FBT001
    """What --check-config prints is TOML, and reads back to the settings it was printed from, whatever they hold."""
    values = DEFAULTS | {
        "http": {"host": host, "port": port},
        "archive": {"dir": folder},
        "rollover": {"live_window_s": 60, "keep_raw": keep},
        "log": {"format": "json", "level": level},
    }
    before = Settings.model_validate(values)
    assert Settings.model_validate(tomllib.loads("\n".join(render(before)))) == before
