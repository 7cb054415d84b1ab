"""A fake Coinbase in a process of its own, and the orders that a test can give it."""

from __future__ import annotations

from harness.ledger import Ledger
from harness.venue_process import VenueProcess


class OracleVenue(VenueProcess):
    """`rate` is messages a second over all products, a ticker after every `ticker_every` matches included."""

    def __init__(self, *, rate: float = 2000, products: tuple[str, ...] = ("BTC-USD",), ticker_every: int = 4) -> None:
        self.products = products
        settings = {"products": list(products), "rate": rate, "ticker_every": ticker_every}
        super().__init__("harness.venue_server", settings)

    @property
    def url(self) -> str:
        """Where the websocket feed is."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def rest_url(self) -> str:
        """Where the REST trades are, when switched on."""
        return f"http://127.0.0.1:{self.port}"

    async def rest(self, *, on: bool = True) -> None:
        """Answer REST requests for trades, or not."""
        await self.order("rest", on=on)

    async def ledger(self) -> Ledger:
        """What was sent until now."""
        return Ledger.from_venue(await self.order("ledger"))
