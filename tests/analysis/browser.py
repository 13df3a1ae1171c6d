"""A headless Chromium for tests, over its DevTools pipe: what a page asked for, said and looks like.

One process for many pages. Every host name fails to resolve, so nothing leaves the machine whatever a page asks for;
what it asked for is seen all the same. Protocol: chromedevtools.github.io/devtools-protocol, messages of JSON
with a zero byte between them, the browser reading descriptor 3 and writing descriptor 4.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIMIT_S = 60.0  # for one answer; a start takes about a second
_FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
]  # fmt: skip


def chromium_path() -> str | None:
    """None where there is no Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass(frozen=True)
class PageSeen:
    """A page after it was loaded."""

    said: list[str]  # on the console: errors, warnings, exceptions and what else was logged
    asked_for: list[str]  # every address but the page's own and data:
    images: list[tuple[str, int]]  # (alt text, natural width in pixels; 0: broken)
    overflowing: list[str]  # elements that stick out of the page to the right
    page_width: int  # in CSS pixels; above the window's: the reader scrolls sideways
    scripts_ran: bool
    text: str


class Browser:
    """`with Browser(folder) as browser: browser.look(path, width=375)`."""

    def __init__(self, profile: Path):
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        # a shell gives the two ends the numbers 3 and 4; high numbers first, as one of them may be 3 or 4 already
        script = f'exec 8<&{to_child} 9>&{from_child}; exec "$@" 3<&8 4>&9 8<&- 9>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", chromium_path(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_child, from_child), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        self._last_id, self._buffer, self._events = 0, b"", []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("Browser.close")
            self._process.wait(timeout=10)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def look(
        self, path: Path, *, width: int, height: int = 800, is_dark: bool = False, picture: Path | None = None,
        whole: bool = False,
    ) -> PageSeen:  # fmt: skip
        """Loads a file in a window of that size; `picture`: where a screenshot goes, of the window or of the page."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable", session)
        window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", session, **window)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._ask("Emulation.setEmulatedMedia", session, features=[scheme])
        self._events.clear()
        self._ask("Page.navigate", session, url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        facts = self._ask("Runtime.evaluate", session, expression=_FACTS, returnByValue=True, awaitPromise=True)
        facts = facts["result"]["value"]
        if picture is not None:
            size = {"x": 0, "y": 0, "width": width, "height": facts["height"] if whole else height, "scale": 1}
            shot = self._ask("Page.captureScreenshot", session, clip=size, captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(shot["data"]))
        events = [(event["method"], event["params"]) for event in self._events]
        self._ask("Target.closeTarget", targetId=target)
        urls = [params["request"]["url"] for method, params in events if method == "Network.requestWillBeSent"]
        own = path.resolve().as_uri()
        return PageSeen(
            said=[_words(method, params) for method, params in events if method in _SPEAKING],
            asked_for=[url for url in urls if url != own and not url.startswith("data:")],
            images=[tuple(image) for image in facts["images"]],
            overflowing=facts["overflowing"],
            page_width=facts["width"],
            scripts_ran=facts["scripts_ran"],
            text=facts["text"],
        )

    def _ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") != self._last_id:
                self._events.append(answer)
            elif "error" in answer:
                raise OSError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def _wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + _LIMIT_S
        while b"\0" not in self._buffer:
            is_ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not is_ready:
                raise TimeoutError(f"Chromium did not answer within {_LIMIT_S:g} s")
            read = os.read(self._read, 1 << 20)
            if not read:
                raise EOFError("Chromium ended")
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


_SPEAKING = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


def _words(method: str, params: dict[str, Any]) -> str:
    if method == "Runtime.consoleAPICalled":
        return f"{params['type']}: " + " ".join(str(arg.get("value", arg)) for arg in params["args"])
    if method == "Runtime.exceptionThrown":
        details = params["exceptionDetails"]
        return f"exception: {details.get('exception', {}).get('description', details['text'])}"
    return f"{params['entry']['level']}: {params['entry']['text']}"


# images may still be being decoded at the load event; scrolling boxes may hold what is wider than the page
_FACTS = """(async () => {
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  const page = document.documentElement;
  const isBoxed = element => {
    for (let e = element.parentElement; e && e !== document.body; e = e.parentElement)
      if (getComputedStyle(e).overflowX !== 'visible') return true;
    return false;
  };
  const overflowing = [...document.body.querySelectorAll('*')]
    .filter(e => e.getBoundingClientRect().right > page.clientWidth + 1 && !isBoxed(e))
    .map(e => `${e.tagName.toLowerCase()}.${e.className}: ${(e.textContent || '').trim().slice(0, 60)}`);
  return {
    images: [...document.images].map(image => [image.alt, image.naturalWidth]),
    overflowing, width: page.scrollWidth, height: page.scrollHeight,
    scripts_ran: Boolean(window.ran), text: document.body.innerText,
  };
})()"""
