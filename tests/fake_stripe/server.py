"""The fake behind a real socket, and the hand that a test or a demo holds it by."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.fake_stripe import invoices
from tests.fake_stripe.app import DROP_CONNECTION, LoggedRequest, Receive, Scope, Send, StripeApp
from tests.fake_stripe.faults import FaultSchedule
from tests.fake_stripe.spec import SpecViolation
from tests.fake_stripe.webhooks import Delivery, DeliveryPlan, Endpoint, Webhooks
from tests.fake_stripe.world import Clock, Object, World

STOP_WITHIN_S = 10


class _DroppableProtocol(HttpToolsProtocol):
    """Lets the application lose the connection: ASGI has no word for that."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        transport = self.transport
        assert isinstance(transport, asyncio.Transport)
        self.scope[DROP_CONNECTION] = transport.abort  # type: ignore[typeddict-unknown-key]


class FakeStripe:
    """One account on 127.0.0.1. Use as a context manager; leaving it raises SpecViolation if the
    fake answered anything that Stripe's description does not allow.

    Attributes:
        url: base address for the SDK (`base_addresses={"api": url}`).
        api_key: a key that the fake accepts; any `sk_test_…` is.
    """

    api_key = "sk_test_fake"

    def __init__(self) -> None:
        self._open_account()
        self._socket = socket.create_server(("127.0.0.1", 0))
        # asyncio sets this only on sockets whose protocol number is explicit; without it every
        # answer waits 40 ms for the client's delayed acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            http=_DroppableProtocol,
            loop="asyncio",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="fake-stripe", daemon=True
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """The socket listens already, so that a request sent at once waits and is answered."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket; raises SpecViolation if the fake misbehaved."""
        self._server.should_exit = True
        self._thread.join(STOP_WITHIN_S)
        self._socket.close()
        self.check()

    def check(self) -> None:
        """Raises SpecViolation if any answer so far was one that Stripe would not give."""
        if self._app.violations:
            raise SpecViolation("\n".join(self._app.violations))

    def reset(self) -> None:
        """A new, empty account at the same address; raises SpecViolation as stop does."""
        self.check()
        self._open_account()

    def _open_account(self) -> None:
        self._world = World()
        self._app = StripeApp(self._world)
        self._webhooks = Webhooks(self._world)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @property
    def faults(self) -> FaultSchedule:
        return self._app.faults

    @property
    def clock(self) -> Clock:
        return self._world.clock

    @property
    def requests(self) -> list[LoggedRequest]:
        return list(self._app.log)

    def count(self, operation: str) -> int:
        """How many requests named this operation, as `POST /v1/invoices`."""
        return sum(entry.operation == operation for entry in self._app.log)

    def customers(self) -> list[Object]:
        with self._app.lock:
            return [dict(customer) for customer in self._world.customers.values()]

    def invoices(self) -> list[Object]:
        """All invoices, oldest first, each with all its lines in `lines.data`."""
        with self._app.lock:
            return [
                {**invoice, "lines": {**invoice["lines"], "data": list(self._world.lines[key])}}
                for key, invoice in self._world.invoices.items()
            ]

    def events(self) -> list[Object]:
        with self._app.lock:
            return list(self._world.events.values())

    def pay_invoice(self, invoice_id: str) -> Object:
        """What the customer does on the hosted page: pays the open invoice in full."""
        with self._app.lock:
            return dict(invoices.pay_as_customer(self._world, invoice_id))

    def register_webhook(
        self, url: str, *, secret: str, events: frozenset[str] | None = None
    ) -> None:
        self._webhooks.register(Endpoint(url=url, secret=secret, events=events))

    def deliver_webhooks(self, plan: DeliveryPlan | None = None) -> list[Delivery]:
        """Send what is waiting, in the way the plan says; returns what was sent."""
        return self._webhooks.deliver(plan or DeliveryPlan())
