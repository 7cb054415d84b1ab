"""A venue's public REST: bounded answers, at a rate that it allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from recio_ingest import metrics
from recio_ingest.errors import RecioError
from recio_ingest.feeds import Request
from recio_ingest.headers import note_clock, wait_asked_s

# The rates without an account are not published; half of what is advised (5 a second), and a burst of a dozen pages.
PER_S, BURST = 2.5, 12
TIMEOUT_S = 15.0
CONNECT_WITHIN_S = 5.0
# A page of 200 markets has 300 kB.
MAX_ANSWER_BYTES = 8 * 2**20
OK, BUSY = 200, 429
# These two are about who asks, and from where: a block of an address has lasted for hours.
FORBIDDEN = frozenset({401, 403})
# Only these are about the question; all others may be about the venue, the way there, or the asker.
OWN_FAULT = frozenset({400, 404, 410, 422})


class RestError(RecioError):
    """A question was not answered; `cause` is one of a fixed set of words (a metric label).

    `alone` says that it may be about this question only, and nothing about the venue.
    """

    def __init__(self, cause: str, message: str, wait_s: float = 0.0, *, alone: bool = False) -> None:
        super().__init__(message)
        self.cause = cause
        self.wait_s = wait_s
        self.alone = alone


class Rest:
    """Asks one venue."""

    def __init__(self, feed: str, url: str, session: aiohttp.ClientSession) -> None:
        self._feed = feed
        self._url = url.rstrip("/")
        self._session = session
        self._bucket = Bucket(PER_S, BURST)

    async def get(self, request: Request) -> bytes:
        """Return the body of an answer. Raises RestError."""
        await self._bucket.take()
        outcome = "bug"
        try:
            async with self._session.get(self._url + request.path, params=dict(request.query)) as answer:
                note_clock(self._feed, answer.headers)
                if answer.status != OK:
                    raise _refused(answer.status, answer.headers)
                body = await _body(answer.content)
        except TimeoutError:
            outcome = "timeout"
            raise RestError(outcome, f"no answer within {TIMEOUT_S:.0f} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            outcome = "unreachable"
            raise RestError(outcome, str(exc) or type(exc).__name__) from exc
        except RestError as exc:
            outcome = exc.cause
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        else:
            outcome = "ok"
            return body
        finally:
            metrics.REST_REQUESTS.labels(self._feed, outcome).inc()


class Bucket:
    """Lets `burst` through at once, and then `per_s` a second, in the order of asking."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._tokens, self._counted_s = float(burst), time.monotonic()
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Return when it is this one's turn."""
        async with self._turn:
            self._refill()
            if self._tokens < 1:
                await asyncio.sleep((1 - self._tokens) / self._per_s)
                self._refill()
            self._tokens -= 1

    def _refill(self) -> None:
        now_s = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now_s - self._counted_s) * self._per_s)
        self._counted_s = now_s


@asynccontextmanager
async def asking(feed: str, url: str, *, proxy: bool = False) -> AsyncIterator[Rest]:
    """Yield a client; a proxy of the environment is used only where that was asked for."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, connect=CONNECT_WITHIN_S)
    headers = {"User-Agent": "recio-ingest", "Accept": "application/json"}
    jar = aiohttp.DummyCookieJar()  # a venue's cookies are of no use, and there could be any number of them
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=proxy, cookie_jar=jar) as session:
        yield Rest(feed, url, session)


async def _body(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    while part := await content.readany():
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > MAX_ANSWER_BYTES:
            raise RestError("oversize", f"an answer of more than {MAX_ANSWER_BYTES} bytes", alone=True)
    return b"".join(parts)


def _refused(status: int, headers: Mapping[str, str]) -> RestError:
    if status == BUSY:
        return RestError("rate_limited", "429: asked too often", wait_asked_s(headers))
    cause = "forbidden" if status in FORBIDDEN else "refused"
    return RestError(cause, f"answered with {status}", wait_asked_s(headers), alone=status in OWN_FAULT)
