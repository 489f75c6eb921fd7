"""uvicorn, ended by a signal in order: nothing new is let in, what is under way is answered, the exit code is 0."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mmlop.errors import MmlopError
from mmlop.serving.service import Service

logger = logging.getLogger(__name__)
LAST = 5  # seconds that threads have to end once requests had theirs
HEAD = 256 * 1024  # bytes of a request's head: a thousand class names fit into its first line


class Server(uvicorn.Server):
    def __init__(self, app: FastAPI, service: Service, opened: Callable[[], None], access_log: bool = False) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,  # as the process has set it up
            access_log=access_log,
            server_header=False,
            h11_max_incomplete_event_size=HEAD,
            ws="none",
            http="h11",  # httptools knows no such limit
        )
        super().__init__(config)
        self._service, self._opened = service, opened

    def serve_on(self, sock: socket.socket, grace: float) -> None:
        """Serve until a signal; then what is under way has ``grace`` seconds, and threads LAST more. Where they do not
        end, the process does, with 1, as it does at once by a second signal. Raises MmlopError where the port was taken."""
        self.config.timeout_graceful_shutdown = round(grace)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.access").setLevel(logging.INFO if self.config.access_log else logging.WARNING)
        try:
            sock.listen(self.config.backlog)
        except OSError as error:  # another process that had it bound was faster
            raise MmlopError(f"The port cannot be listened on ({error.strerror}): choose another --port.") from error
        self.run(sockets=[sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._opened()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn would raise the signal again at its end, and only force itself by SIGINT."""
        if self.should_exit:
            os._exit(1)  # an exit in order would wait for threads that decode
        self._service.stopping = True
        self.should_exit = True
        watch = threading.Timer((self.config.timeout_graceful_shutdown or 0) + LAST, _give_up)
        watch.daemon = True
        watch.start()


def _give_up() -> None:
    logger.error("A computation did not end in time: the process ends without it.")
    logging.shutdown()
    os._exit(1)
