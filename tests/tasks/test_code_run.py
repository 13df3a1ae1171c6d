"""Completions' code in its processes: what counts as right, what is held back, what cannot be faked."""

import os
import time
from pathlib import Path

import pytest

from rlvr_jax.tasks.code_run import CodeLimits, run_tests
from rlvr_jax.tasks.confine import can_hide_files

LIMITS = CodeLimits(wall_s=20.0, cpu_s=1, memory_mib=256)
ONE = ["assert f(1) == 2"]


def verdicts(code, tests=ONE, limits=LIMITS):
    return run_tests(code, tests, limits)


CHECK = """
def check(candidate):
    assert candidate(-1) == 0
    assert candidate(10 ** 5000) == 10 ** 5000 + 1
check(f)
"""
RAISES = """
try:
    f('a')
except TypeError:
    pass
else:
    raise AssertionError
"""


def test_each_test_has_its_own_verdict():
    by_test = {
        "assert f(1) == 2": "passed",
        "assert f(2) == 2": "failed",
        "assert math.isclose(f(0.5), 1.5)": "passed",
        "import math as m\nassert m.floor(f(1.5)) == 2": "passed",
        CHECK: "passed",
        RAISES: "passed",
        "assert f(x=3) == 4 and all(f(i) == i + 1 for i in range(3))": "passed",
        "assert f(object()) is None": "untestable",
        "assert g(1)": "failed",
    }
    assert verdicts("def f(x):\n    return x + 1\n", list(by_test)) == list(by_test.values())


def test_functions_may_be_called_like_the_checkers_own_names():
    names = ["check", "Link", "_link", "_checker_link", "_checker_test_0", "_test_0", "sys", "tests"]
    code = "".join(f"def {name}(x): return x + 1\n" for name in names)
    tests = [f"assert {name}(1) == {wanted}" for name in names for wanted in (2, 3)]
    assert verdicts(code, tests) == ["passed", "failed"] * len(names)


STOPS = [
    "assert all(map(f, [2, 3, 5]))",
    "assert not any(map(f, [4, 6]))",
    "for got, want in zip(map(f, [1, 2]), [2, 3]):\n    assert got == want",
    "assert list(iter(lambda: f(1), 0)) == []",
]


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration", "type('Mine', (StopIteration,), {})"])
def test_code_cannot_end_the_loop_of_a_test(kind):
    assert verdicts(f"def f(x):\n    raise {kind}", STOPS) == ["failed"] * 4


def wants(kind):
    return f"try:\n    f('a')\n{kind}:\n    pass\nelse:\n    raise AssertionError"


@pytest.mark.parametrize(
    "deed",
    ["os._exit(0)", "sys.exit(0)", "raise KeyboardInterrupt", "raise GeneratorExit", "return object()", "return f"],
)
def test_ending_or_giving_what_is_no_value_is_not_the_error_that_a_test_wants(deed):
    tests = [wants(kind) for kind in ("except Exception", "except TypeError", "except")]
    assert verdicts(f"import os, sys\ndef f(x):\n    {deed}", tests) == ["failed"] * 3


def test_an_error_of_the_codes_own_kind_is_caught_as_its_base():
    base_by_error = {
        "type('Mine', (ValueError,), {})": "ValueError",
        "type('Mine', (KeyError,), {})": "LookupError",
        "__import__('json').JSONDecodeError('', '', 0)": "ValueError",
        "UnicodeDecodeError('utf-8', b'', 0, 1, '')": "UnicodeError",
        "type('Mine', (Exception,), {})": "Exception",
    }
    code = f"ERRORS = [{', '.join(base_by_error)}]\ndef f(i): raise ERRORS[i]"
    wanted = [(i, base) for i, kind in enumerate(base_by_error.values()) for base in (kind, "OSError")]
    tests = [wants(f"except {base}").replace("'a'", str(i)) for i, base in wanted]
    assert verdicts(code, tests) == ["passed", "failed"] * 5


def test_what_cannot_be_sent_is_the_tests_fault_even_where_it_wants_an_error():
    assert verdicts("def f(x): return 0", [wants("except TypeError").replace("'a'", "object()")]) == ["untestable"]


def test_a_function_without_a_value_changes_its_arguments_in_place():
    code = """
def f(x, y=None):
    x.sort() if isinstance(x, list) else x.update([(1, 2)]) if isinstance(x, dict) else x.clear()
    if y is not None:
        y.append(x)
def g(x):
    x.clear()
    return x
"""
    by_test = {
        "x = [2, 1]\nassert f(x) is None\nassert x == [1, 2]": "passed",
        "x = [2, 1]\nf(x)\nassert x == [2, 1]": "failed",
        "x = {0: 0}\nf(x)\nassert x == {0: 0, 1: 2}": "passed",
        "x = {1}\ny = []\nf(x, y=y)\nassert (x, y) == (set(), [set()])": "passed",
        "x = collections.defaultdict(int)\nf(x)\nassert x == {1: 2}": "passed",
        "x = bytearray(b'a')\nf(x)\nassert x == b''": "passed",
        "x = [3, 4]\nassert g(x) == sorted(x)": "failed",  # emptying what it is compared with is no way to be right
    }
    assert verdicts(code, list(by_test)) == list(by_test.values())


def test_dictionaries_of_the_standard_library_are_plain():
    code = """
from collections import Counter, OrderedDict, defaultdict
def f(text): return Counter(text)
def g(text): return OrderedDict((c, 1) for c in text)
def h(text):
    found = defaultdict(list)
    found[text].append(1)
    return found
class Mine(dict):
    def __eq__(self, other): return True
def k(text): return Mine()
"""
    by_test = {
        "assert f('aab') == {'a': 2, 'b': 1} and f('aab').most_common(1) == [('a', 2)]": "passed",
        "from collections import OrderedDict\nassert g('ab') == OrderedDict([('a', 1), ('b', 1)])": "passed",
        "from collections import OrderedDict\nassert g('ab') != OrderedDict([('b', 1), ('a', 1)])": "passed",
        "assert h('a') == {'a': [1]}": "passed",
        "assert k('a') == {}": "failed",
    }
    assert verdicts(code, list(by_test)) == list(by_test.values())


def test_plain_values_come_and_go_as_they_are():
    values = ["None", "True", "-7", "1e-300", "float('inf')", "3j", "'é\\n\\ud83d'", "b'\\x00'", "bytearray(b'a')"]
    values += ["[1, (2, {3}), {}]", "{'a': [None]}", "{(1, 2): frozenset({1})}"]
    tests = [f"value = f({value})\nassert value == {value} and type(value) is type({value})" for value in values]
    assert verdicts("def f(x): return x", [*tests, "assert f([1]) != (1,)"]) == ["passed"] * 13


@pytest.mark.parametrize(
    "code",
    [
        "class Same:\n    def __eq__(self, other): return True\ndef f(x): return Same()",
        "class Same(int):\n    def __eq__(self, other): return True\ndef f(x): return Same(0)",
        "import os\ndef f(x): os._exit(0)",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def f(x): raise SystemExit",
        "import builtins\nbuiltins.AssertionError = Exception\ndef f(x): return 0",
        # tells every pipe that all is well
        "import os\nfor fd in range(3, 64):\n    for said in (b'passed\\n' * 9, b'{\"ready\": true}\\n'):\n"
        "        try: os.write(fd, said)\n        except OSError: pass\ndef f(x): return 0",
        "def f(x): return '['  * (1 << 21)",
        "def f(x):\n    y = []\n    for i in range(100_000): y = [y]\n    return y",
        "def f(x) return 2",
        "\x00",
        "",
    ],
    ids=range(13),
)
def test_nothing_but_the_right_value_passes(code):
    assert verdicts(code) == ["failed"]


DEEDS = [
    "os.fork()",
    "__import__('subprocess').run(['true'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "__import__('socket').socket()",
    "__import__('socket').create_connection(('127.0.0.1', 80), 1)",
    "open('here', 'w')",
    "open(PATH, 'a')",
    "os.open('/tmp', os.O_RDWR | os.O_TMPFILE)",
    "os.unlink(PATH)",
    "os.rename(PATH, PATH + 'x')",
    "os.truncate(PATH, 0)",
    "os.chmod(PATH, 0o777)",
    "os.utime(PATH)",
    "__import__('shutil').rmtree(os.path.dirname(PATH))",
    "os.mkdir('new')",
    "os.symlink('/', 'root')",
    "os.kill(os.getppid(), 0)",
    "os.killpg(0, 0)",
    "os.nice(1)",
    "os.memfd_create('m')",
    "__import__('resource').setrlimit(0, (-1, -1))",
    "open(f'/proc/{os.getppid()}/mem', 'rb+')",
    "[bytearray(1 << 20) for _ in range(1000)]",
    "open('/dev/shm/x', 'w')",
    "__import__('multiprocessing').Process(target=print).start()",
]


def test_what_is_not_computing_is_refused(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    code = f"import os\nPATH = {str(path)!r}\nDEEDS = [{', '.join(f'lambda: {deed}' for deed in DEEDS)}]\n"
    code += "def f(i):\n    try:\n        DEEDS[i]()\n    except (OSError, MemoryError, ValueError):\n"
    code += "        return 'refused'\n"
    found = verdicts(code, [f"assert f({i}) == 'refused'" for i in range(len(DEEDS))])
    assert [deed for deed, verdict in zip(DEEDS, found, strict=True) if verdict != "passed"] == []
    assert path.read_text() == "data"


@pytest.mark.skipif(not can_hide_files(), reason="needs a kernel with Landlock")
def test_only_pythons_own_files_can_be_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text("the answers")
    code = """
import json, decimal, sqlite3, unicodedata, zoneinfo, random, difflib
def f(path):
    try:
        return len(open(path, "rb").read(100))
    except PermissionError:
        return "refused"
def g(path):
    import os
    try:
        return os.listdir(path) != []
    except PermissionError:
        return "refused"
"""
    hidden = [str(tmp_path / "rows.jsonl"), "/etc/passwd", "/proc/self/environ", f"/proc/{os.getpid()}/environ"]
    tests = [f"assert f({path!r}) == 'refused'" for path in hidden]
    tests += [f"assert g({path!r}) == 'refused'" for path in ("/", "/proc", str(tmp_path))]
    assert verdicts(code, tests) == ["passed"] * 7


def test_a_thread_is_allowed_and_dies_with_its_process():
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\ndef f(x): return 2"
    assert verdicts(code) == ["passed"]


@pytest.mark.parametrize(
    "code",
    [
        "def f(x):\n    while True: pass",
        "while True: pass",
        "import threading\ndef f():\n    while True: pass\nfor _ in range(9): threading.Thread(target=f).start()",
        "def f(x):\n    while True: print('x' * 10_000_000, flush=True)",
        "f = lambda x: 10 ** 10 ** 10",
        "import time\ndef f(x): time.sleep(1000)",
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f(x)",
    ],
    ids=range(7),
)
def test_what_does_not_end_is_ended(code):
    started = time.monotonic()
    assert run_tests(code, ONE, CodeLimits(0.6, 1, 256)) == ["failed"]
    assert time.monotonic() - started < 4


def test_computing_is_limited_too():
    started = time.monotonic()
    assert run_tests("def f(x):\n    while True: pass", ONE, CodeLimits(60.0, 1, 256)) == ["failed"]
    assert time.monotonic() - started < 30


def test_tests_before_a_hang_have_passed():
    code = "def f(x):\n    while x > 1: pass\n    return x"
    tests = ["assert f(1) == 1", "assert f(2) == 2", "assert f(0) == 0"]
    assert run_tests(code, tests, CodeLimits(2.0, 1, 256)) == ["passed", "failed", "failed"]


def children():
    """Of this process, which may have some from other tests."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_no_process_and_no_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    n_files, before = len(os.listdir("/proc/self/fd")), children()
    verdicts("import time\ndef f(x): time.sleep(100)", limits=CodeLimits(0.5, 1, 256))
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == n_files
    assert children() == before


def test_nothing_of_the_users_environment_reaches_the_code(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = "import os, sys\ndef f(x): return sorted(os.environ)\ndef g(x): return sys.stdin.read()"
    assert (
        verdicts(code, ["assert [n for n in f(1) if not n.startswith('LC_')] == []", "assert g(1) == ''"])
        == ["passed"] * 2
    )
