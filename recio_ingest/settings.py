"""The configuration: a TOML file, then `RECIO_*` variables, read once, checked as a whole, frozen.

Every mistake is reported in one ConfigError, each with the key and where it was set.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from recio_ingest.errors import ConfigError

PREFIX = "RECIO_"
DEFAULT_FILE = Path("/etc/recio-ingest/recio-ingest.toml")
# RECIO_CONFIG names the file, RECIO_CAPTURES is read by the tests; neither is a key.
_NOT_KEYS = frozenset({"RECIO_CONFIG", "RECIO_CAPTURES"})
# What may not stand as it is in a TOML string.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127)} | {ord('"'): '\\"', ord("\\"): "\\\\"}

_Milliseconds = Annotated[int, Field(ge=0, le=10_000)]
_Port = Annotated[int, Field(ge=0, le=65_535)]


def _address(value: str) -> str:
    """Raise ValueError for what would only fail when it is connected to: a port past 65535, a name with two dots."""
    try:
        parts = urlsplit(value)
        for host in parts.netloc.rpartition("@")[2].split(","):  # PostgreSQL takes several
            name, port = urlsplit(f"//{host}").hostname or "", urlsplit(f"//{host}").port
            if "%" not in name and (name or port is not None):  # %2F begins a socket's path
                name.encode("idna")
    except ValueError:
        # Not the library's words: where a password is not percent-encoded they quote a piece of it.
        raise ValueError("its host or port cannot be right, or a password in it is not percent-encoded") from None
    if parse_qs(parts.query).get("sslmode", ["prefer"])[-1] not in _SSL_MODES:
        raise ValueError(f"sslmode is one of {', '.join(_SSL_MODES)}")
    return value


_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_WebsocketUrl = Annotated[str, Field(pattern=r"^wss?://\S+$"), AfterValidator(_address)]
_RestUrl = Annotated[str, Field(pattern=r"^https?://\S+$"), AfterValidator(_address)]
_Dsn = Annotated[str, Field(pattern=r"^(postgres(ql)?://\S*)?$", repr=False), AfterValidator(_address)]
# A header of every handshake: printable, and no line of its own.
_KeyId = Annotated[str, Field(max_length=200, pattern=r"^[!-~]*$", repr=False)]
_Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9._-]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Database(_Section):
    """Where PostgreSQL is; an empty `dsn` means an embedded one under `state_dir`."""

    dsn: _Dsn = ""


class Coinbase(_Section):
    """The Coinbase Exchange feed."""

    enabled: bool = True
    url: _WebsocketUrl = "wss://ws-feed.exchange.coinbase.com"
    rest_url: _RestUrl = "https://api.exchange.coinbase.com"
    products: tuple[_Name, ...] = ("BTC-USD",)
    proxy: bool = False


class Kalshi(_Section):
    """The Kalshi feed."""

    enabled: bool = True
    url: _WebsocketUrl = "wss://external-api-ws.kalshi.com/trade-api/ws/v2"
    rest_url: _RestUrl = "https://external-api.kalshi.com/trade-api/v2"
    series: tuple[_Name, ...] = ("KXBTCD",)
    key_id: _KeyId = ""
    key_file: str = ""
    proxy: bool = False


class Feeds(_Section):
    """Every venue."""

    coinbase: Coinbase = Coinbase()
    kalshi: Kalshi = Kalshi()


class SpoolSettings(_Section):
    """The durable local record of frames."""

    retain_s: Annotated[int, Field(ge=0)] = 3600
    max_bytes: Annotated[int, Field(ge=16_777_216)] = 8_589_934_592
    sync_interval_ms: _Milliseconds = 20


class BatchSettings(_Section):
    """The transactions."""

    max_rows: Annotated[int, Field(ge=1, le=100_000)] = 5000
    min_interval_ms: _Milliseconds = 20


class Rollover(_Section):
    """When live rows become historical ones."""

    live_window_s: Annotated[int, Field(ge=60)] = 86_400
    keep_raw: bool = False


class Retention(_Section):
    """How long historical rows are kept; 0 is for ever."""

    historical_days: Annotated[int, Field(ge=0, le=36_500)] = 0


class Archive(_Section):
    """Where old partitions go; empty is nowhere."""

    dir: str = ""

    @field_validator("dir")
    @classmethod
    def _home(cls, value: str) -> str:
        return str(_at_home(Path(value))) if value else ""


class Http(_Section):
    """Where metrics, health and status are served."""

    host: str = "127.0.0.1"
    port: _Port = 9108


class Log(_Section):
    """How to log."""

    format: Literal["json", "console", "auto"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section):
    """Everything that can be configured."""

    state_dir: Path = Path("~/.local/state/recio-ingest")
    database: Database = Database()
    feeds: Feeds = Feeds()
    spool: SpoolSettings = SpoolSettings()
    batch: BatchSettings = BatchSettings()
    rollover: Rollover = Rollover()
    retention: Retention = Retention()
    archive: Archive = Archive()
    http: Http = Http()
    log: Log = Log()

    @field_validator("state_dir")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return _at_home(value)


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such home directory") from None


def load(file: str | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of that file (else `$RECIO_CONFIG`, else the default file) under the environment.

    Raises ConfigError that lists every mistake.
    """
    places: dict[tuple[str, ...], str] = {}
    values, mistakes = _from_file(file or environ.get("RECIO_CONFIG"), places)
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in _NOT_KEYS:
            path = tuple(name.removeprefix(PREFIX).lower().split("__"))
            if (problem := _set(values, path, environ[name])) is not None:
                mistakes.append(f"{name}: {problem}")
            else:
                places[path] = name
    try:
        settings = Settings.model_validate(values)
    except ValidationError as exc:
        mistakes += [_line(dict(error), places) for error in exc.errors(include_input=False, include_url=False)]
    if mistakes:
        raise ConfigError(
            "the configuration cannot be used:\n" + "\n".join(f"  {mistake}" for mistake in mistakes),
            hint="every key with its default is in config/recio-ingest.toml; check with --check-config",
        )
    return settings


def render(settings: Settings) -> Iterator[str]:
    """Yield the effective configuration as TOML lines, without secrets."""
    values = settings.model_dump(mode="json")
    yield f"state_dir = {_toml(values.pop('state_dir'))}"
    yield from _tables(values, "")


def _from_file(name: str | None, places: dict[tuple[str, ...], str]) -> tuple[dict[str, Any], list[str]]:
    if name is None and not DEFAULT_FILE.is_file():
        return {}, []
    path = DEFAULT_FILE if name is None else Path(name).expanduser()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        return {}, [f"{path}: {exc.strerror or exc}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        return {}, [f"{path}: not TOML: {exc}"]
    places[()] = str(path)
    return values, []


def _set(values: dict[str, Any], path: tuple[str, ...], text: str) -> str | None:
    """Put a variable's text in its place; return what is wrong with it, if anything is."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "is not UTF-8"  # bytes that Python could not decode, and nothing could print
    section: Any = Settings
    at = values
    for step in path[:-1]:
        field = section.model_fields.get(step)
        section = field.annotation if field is not None else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return "no such key"
        at = at.setdefault(step, {})
        if not isinstance(at, dict):
            return f"{step} is not a section in the file"
    field = section.model_fields.get(path[-1])
    if field is None:
        return "no such key"
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return f"is a section; a key of it is {PREFIX}{'__'.join(path).upper()}__..."
    is_list = str(field.annotation).startswith("tuple")
    at[path[-1]] = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    return None


def _line(error: dict[str, Any], places: Mapping[tuple[str, ...], str]) -> str:
    keys = tuple(str(part) for part in error["loc"] if not isinstance(part, int))
    where = next((places[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in places), "default")
    what = "no such key" if error["type"] == "extra_forbidden" else error["msg"].removeprefix("Value error, ")
    return f"{where}: {'.'.join(keys)}: {what}"


def _tables(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            plain = {key: item for key, item in value.items() if not isinstance(item, dict)}
            if plain:
                yield from ("", f"[{prefix}{name}]")
                yield from (f"{key} = {_toml(_hide(key, item))}" for key, item in plain.items())
            yield from _tables({key: item for key, item in value.items() if isinstance(item, dict)}, f"{prefix}{name}.")


def _hide(key: str, value: Any) -> Any:  # noqa: ANN401  # any TOML value
    if key == "key_id" and value:
        return "(set)"
    if key == "dsn" and value:
        return "(set)"
    return value


def _toml(value: Any) -> str:  # noqa: ANN401  # any TOML value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return str(value)
