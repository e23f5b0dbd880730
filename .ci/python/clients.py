"""WebSocket clients that keep what they get, many at a time."""

import asyncio
import threading

from websockets.asyncio.client import connect


class Clients:
    """One connection for each user, on an event loop of its own. Use it in a `with`."""

    def __init__(self, gateway, users):
        self._gateway = gateway
        self._users = users
        self._taken = asyncio.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._run(self._connect_all())
        return self

    def __exit__(self, *_):
        self._run(self._close_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def take(self, total, timeout=60):
        """Waits for the next `total` messages of all users together; returns what each of them got, in order."""
        received = {user: [] for user in self._users}
        try:
            self._run(asyncio.wait_for(self._take(received, total), timeout))
        except TimeoutError:
            counts = {user: len(messages) for user, messages in received.items()}
            raise AssertionError(f"{sum(counts.values())} of {total} messages in {timeout} s: {counts}") from None
        return received

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _connect_all(self):
        self._connections = await asyncio.gather(
            *(connect(self._gateway.user_url(user), compression=None, proxy=None) for user in self._users)
        )
        self._readers = [asyncio.create_task(self._read(*pair)) for pair in zip(self._users, self._connections)]

    async def _read(self, user, connection):
        async for message in connection:
            self._taken.put_nowait((user, message))

    async def _take(self, received, total):
        for _ in range(total):
            user, message = await self._taken.get()
            received[user].append(message)

    async def _close_all(self):
        await asyncio.gather(*(connection.close() for connection in self._connections))
        await asyncio.gather(*self._readers)
