"""An OpenAI-compatible endpoint on this machine whose answers a test scripts."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Reply:
    """What the server answers a request with."""

    def __init__(
        self, said="Score: 5", *, status=200, body=None, headers=None, after_s=0.0, drips=False, encoding="utf-8"
    ):
        said_body = {"choices": [{"message": {"content": said}}], "usage": {"total_tokens": 7}}
        self.body = json.dumps(said_body) if body is None else body
        self.status, self.headers, self.after_s, self.drips = status, headers or {}, after_s, drips
        self.encoding = encoding


class JudgeServer:
    """Answers with `reply(request, n)`, n requests having come before; keeps what it was asked."""

    def __init__(self, reply: Callable[[dict, int], Reply]):
        self.reply, self.requests, self.keys, self.times = reply, [], [], []
        self.n_open = self.most_open = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            n = len(self.requests)
            self.requests.append(request)
            self.keys.append(handler.headers["authorization"])
            self.times.append(time.monotonic())
            self.n_open += 1
            self.most_open = max(self.most_open, self.n_open)
        reply = self.reply(request, n)
        time.sleep(reply.after_s)
        with self._lock:
            self.n_open -= 1
        body = reply.body.encode(reply.encoding)
        with contextlib.suppress(OSError):  # the client may have given up
            handler.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            for i in range(len(body)) if reply.drips else ():
                handler.wfile.write(body[i : i + 1])
                handler.wfile.flush()
                time.sleep(0.02)
            if not reply.drips:
                handler.wfile.write(body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def judge_server(reply: Callable[[dict, int], Reply] = lambda request, n: Reply()) -> Iterator[JudgeServer]:
    """A server for as long as the block runs."""
    server = JudgeServer(reply)
    try:
        yield server
    finally:
        server.close()
