"""Datasets on the Hugging Face Hub: the real client against a server of this test, which knows its few addresses."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from rlvr_jax.tasks import data_files

pytest.importorskip("huggingface_hub")

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def row(text):
    return json.dumps({"prompt": text}).encode() + b"\n"


DATASETS = {  # (dataset, revision) -> files
    ("me/one", "main"): {"README.md": b"#", "problems.jsonl": row("newest")},
    ("me/one", "v1"): {"old.jsonl": row("old")},
    ("me/split", "main"): {"data/test.jsonl": row("test"), "data/train.jsonl": row("train"), "x.csv": b"a"},
    ("me/many", "main"): {"easy/train.jsonl": row("easy"), "hard/train.jsonl": row("hard"), "test.jsonl": row("t")},
    ("me/none", "main"): {"README.md": b"#", "x.csv": b"a"},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """/api/datasets/O/N/tree/R lists files, /datasets/O/N/resolve/R/FILE is one of them."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_listing = parts[0] == "api"
        owner, name, _, revision, *file = parts[2 if is_listing else 1 :]
        dataset = f"{owner}/{name}"
        files = DATASETS.get((dataset, revision))
        if dataset == "me/gated":
            self.say(403, b"", {"X-Error-Code": "GatedRepo"})
        elif (dataset, "main") not in DATASETS:
            self.say(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif files is None:
            self.say(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif is_listing:
            tree = [{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in files.items()]
            self.say(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif "/".join(file) not in files:
            self.say(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMITS[revision]})
        else:
            content = files["/".join(file)]
            etag = hashlib.sha1(content).hexdigest()
            self.say(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMITS[revision]})

    def say(self, status, content, headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


READ = """
import json, sys, time
time.sleep = lambda s: None  # the client's pauses between tries of a hub that is not there
from rlvr_jax.tasks.data_files import read_data_files
for path in sys.argv[1:]:
    try:
        files = read_data_files(path)
        print(json.dumps([row["prompt"] for file in files for _, row in file.rows]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def outcomes(paths, endpoint, folder):
    """What reading each path gives in a new process (the client reads its settings when it is imported)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"PYTHONPATH": str(Path(data_files.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(paths, map(json.loads, done.stdout.splitlines()), strict=True))


PATHS = {
    "hf://datasets/me/one": ["newest"],
    "me/one": ["newest"],
    "me/one@v1": ["old"],
    "me/one/problems.jsonl": ["newest"],
    "hf://datasets/me/one/old.jsonl@v1": ["old"],
    "me/split": ["train"],
    "me/split/data/test.jsonl": ["test"],
    "me/many": "me/many holds 2 files that could be meant; add one to the path:"
    "\n  easy/train.jsonl\n  hard/train.jsonl",
    "me/many/*/train.jsonl": ["easy", "hard"],
    "me/many/*/dev-*.jsonl@main": "me/many/*/dev-*.jsonl@main: no file of the dataset fits; "
    "leave the file out of the path to see which it has",
    "me/none": "me/none holds no .jsonl, .json or .parquet file on the Hugging Face Hub",
    "me/none/x.csv": "me/none/x.csv: x.csv is of no kind that can be read; name another file of the dataset",
    "me/gone": "me/gone: there is no such file here, and on the Hugging Face Hub there is no dataset me/gone; "
    "correct the path, or `hf auth login` if it is private",
    "hf://datasets/me/gone/f.jsonl": "hf://datasets/me/gone/f.jsonl: on the Hugging Face Hub there is no dataset "
    "me/gone; correct the path, or `hf auth login` if it is private",
    "me/gated": "me/gated: there is no such file here, and on the Hugging Face Hub me/gated is gated; "
    "accept its terms on its page, then `hf auth login`",
    "me/one@v2": "me/one@v2: there is no such file here, and on the Hugging Face Hub me/one has no revision 'v2'; "
    "correct what stands after the @",
    "me/one/p.jsonl@v1": "me/one/p.jsonl@v1: there is no such file here, and on the Hugging Face Hub me/one has no "
    "such file; leave the file out of the path to see which it has",
    "hf://datasets/one": "hf://datasets/one is no dataset on the Hugging Face Hub; "
    "write hf://datasets/OWNER/NAME/FILE@REVISION",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield outcomes(list(PATHS), f"http://127.0.0.1:{server.server_port}", tmp_path_factory.mktemp("hub"))
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", PATHS)
def test_what_a_path_on_the_hub_gives(found, path):
    assert found[path] == PATHS[path]


def test_a_local_file_comes_before_the_hub(tmp_path):
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "one.jsonl").write_bytes(row("local"))
    nowhere = "http://127.0.0.1:9"  # nothing listens there, so the Hub would fail
    assert outcomes(["me/one.jsonl"], nowhere, tmp_path) == {"me/one.jsonl": ["local"]}


def test_a_hub_that_cannot_be_reached_is_one_message_with_the_fix(tmp_path):
    paths = ["hf://datasets/me/one", "hf://datasets/me/one/p.jsonl"]
    for path, message in outcomes(paths, "http://127.0.0.1:9", tmp_path).items():
        assert message.startswith(f"{path}: on the Hugging Face Hub me/one cannot be reached (")
        assert message.endswith("); check the network, or download the file and name it in task.path")
        assert "\n" not in message
