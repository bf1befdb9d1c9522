"""Carries a journal to the server in the background, so that training never waits for the tracker."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from lab.core.progress import say, warn
from lab.tracking.offline import Spool
from lab.tracking.server import connect, describe

if TYPE_CHECKING:
    from lab.tracking.sender import Sender

SEND_INTERVAL_S = 2.0
RETRY_INTERVAL_S = 30.0


class Uploader:
    """Sends every two seconds while the server answers; asks again every thirty while it does not."""

    def __init__(self, spool: Spool, uri: str) -> None:
        self.spool = spool
        self.uri = uri
        self.is_online = False
        self._sender: Sender | None = None
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._was_warned = False
        self._thread = threading.Thread(target=self._loop, daemon=True, name=f"tracking-{spool.local_id}")

    def start(self) -> bool:
        """Send what is there now, so that the run's id is known, then go on in the background."""
        online = self.flush()
        self._thread.start()
        return online

    def flush(self) -> bool:
        """Send everything written so far in the calling thread. False when the server could not take it."""
        with self._busy:
            try:
                if self._sender is None:
                    self._sender = self._connected()
                self._sender.drain()
            except Exception as error:  # noqa: BLE001 no failure of a server may end a training run
                self._went_offline(error)
                return False
            self._came_online()
            return True

    def stop(self) -> bool:
        """Send the rest and end the thread. False when something is left for `lab runs sync`."""
        self._stop.set()
        delivered = self.flush()
        if self._thread.is_alive():
            self._thread.join()
        return delivered

    def _connected(self) -> Sender:
        client = connect(self.uri)
        from lab.tracking.sender import Sender

        return Sender(self.spool, client, self.uri)

    def _loop(self) -> None:
        next_try = time.monotonic() + RETRY_INTERVAL_S
        while not self._stop.wait(SEND_INTERVAL_S):
            if self.is_online or time.monotonic() >= next_try:
                self.flush()
                next_try = time.monotonic() + RETRY_INTERVAL_S

    def _went_offline(self, error: Exception) -> None:
        self._sender = None  # the next attempt begins with the short check
        self.is_online = False
        if not self._was_warned:
            warn(
                f"tracking: {describe(error)}\n"
                f"  the run goes on; everything is kept in {self.spool.folder}\n"
                "  upload it once the server is back: lab runs sync"
            )
        self._was_warned = True

    def _came_online(self) -> None:
        if self._was_warned and not self.is_online:
            say("tracking: the server is back, everything kept so far is uploaded")
            self._was_warned = False
        self.is_online = True
