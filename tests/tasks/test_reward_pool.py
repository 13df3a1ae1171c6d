"""User functions in processes: their scores, every way they can fail, and what is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rlvr_jax.tasks import reward_pool, reward_process
from rlvr_jax.tasks.reward_pool import RewardCall, RewardPool

GOOD = """
def score(prompt, completions):
    return [float(prompt) + i for i in range(len(completions))]
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(source, ...): a pool of score() in my_rewards.py, closed at the end."""
    monkeypatch.chdir(tmp_path)
    pools = []

    def start_pool(source, functions=("my_rewards:score",), *, limit_s=30.0, n_processes=1):
        write(tmp_path, source)
        pools.append(RewardPool(functions, limit_s=limit_s, n_processes=n_processes))
        return pools[-1]

    yield start_pool
    for pool in pools:
        pool.close()


def write(folder, source, name="my_rewards.py"):
    (folder / name).write_text(textwrap.dedent(source))


def calls(*prompts, n=2):
    return [RewardCall(0, prompt, ["a"] * n, "answer", {}) for prompt in prompts]


def state_and_parent(pid):
    """("S", 1234) of a process, None if there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def is_running(pid):
    """Whether a process is there and no zombie, which it stays if nobody collects it."""
    found = state_and_parent(pid)
    return found is not None and found[0] != "Z"


def held():
    """How many files and child processes this process has."""
    others = [state_and_parent(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return len(os.listdir("/proc/self/fd")), sum(found is not None and found[1] == os.getpid() for found in others)


def waits_until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def pid_in(file):
    assert waits_until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


# scores


@pytest.mark.parametrize("n_processes", [1, 3])
def test_scores_come_back_in_their_places(start, n_processes):
    pool = start(GOOD, n_processes=n_processes)
    for _ in range(3):
        assert pool.grade(calls(*map(str, range(20)))) == [[float(i), i + 1.0] for i in range(20)]
    assert pool.grade([]) == []


def test_every_argument_arrives_as_it_was(start):
    source = """
    def score(prompt, completions, answer, row):
        assert prompt == "two\\nlines \u2028 \\ud800"
        assert completions == ["", '"', "{}\\x00é"]
        assert answer == "42"
        assert row == {"k": [1, None, {"x": 2.5}]}
        return [1, 2, 3]
    """
    call = RewardCall(0, "two\nlines \u2028 \ud800", ["", '"', "{}\x00é"], "42", {"k": [1, None, {"x": 2.5}]})
    assert start(source).grade([call]) == [[1.0, 2.0, 3.0]]


def test_each_call_names_its_function(start):
    source = """
    def one(completions): return [1] * len(completions)
    def two(completions): return [2] * len(completions)
    """
    pool = start(source, ["my_rewards:one", "my_rewards:two"], n_processes=2)
    assert pool.grade([RewardCall(f, "p", ["a"], "x", {}) for f in (0, 1, 1, 0)]) == [[1.0], [2.0], [2.0], [1.0]]


@pytest.mark.parametrize(("length", "n"), [(5_000_000, 2), (1, 50_000)])
def test_requests_and_answers_may_be_larger_than_a_pipe(start, length, n):
    pool = start("def score(completions): return [float(len(c)) for c in completions]", n_processes=2)
    big = RewardCall(0, "p", ["x" * length] * n, "a", {})
    assert pool.grade([big] * 3) == [[float(length)] * n] * 3


def test_what_a_function_prints_and_reads_does_not_reach_the_pipes(start, capfd):
    source = """
    import os, subprocess, sys
    print("at import")
    def score(completions):
        print("printed")
        os.write(1, b"written\\n")
        subprocess.run(["echo", "echoed"])
        assert sys.stdin.read() == "" and os.read(0, 10) == b""
        return [1.0] * len(completions)
    """
    assert start(source).grade(calls("a", "b")) == [[1.0, 1.0]] * 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["at import", *["printed", "written", "echoed"] * 2]


def test_a_function_runs_apart_from_the_trainer(start, tmp_path):
    source = f"""
    import os, signal, sys, threading
    def score(completions):
        assert os.environ["JAX_PLATFORMS"] == "cpu" and os.environ["CUDA_VISIBLE_DEVICES"] == ""
        assert os.getcwd() == sys.path[0] == {str(tmp_path)!r}
        assert os.getpgrp() == os.getsid(0) == os.getpid()  # Ctrl-C does not reach it
        assert threading.current_thread() is threading.main_thread()  # where signal.alarm works
        return [1.0] * len(completions)
    """
    assert start(source).grade(calls("a")) == [[1.0, 1.0]]


@pytest.mark.parametrize("name", ["json", "queue"])
def test_a_user_file_may_have_the_name_of_one_the_worker_needs(start, tmp_path, name):
    write(tmp_path, "raise ImportError('the wrong one')", f"{name}.py")
    assert start(GOOD).grade(calls("1")) == [[1.0, 2.0]]


def test_files_beside_the_worker_are_not_found_in_place_of_the_users(start):
    with pytest.raises(ValueError, match="there is no module 'template'"):
        start(GOOD, ["template:score"])


def test_programs_may_be_started_with_multiprocessing(start):
    source = """
    import multiprocessing
    def score(completions):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.map(len, completions)
    """
    assert start(source).grade(calls("1")) == [[1.0, 1.0]]


# failures


@pytest.mark.parametrize("n_processes", [1, 2])
@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("raise KeyError('gone')", "raised KeyError: 'gone' (line 3 of my_rewards.py)"),
        ("return [1 / 0]", "raised ZeroDivisionError: division by zero (line 3 of my_rewards.py)"),
        ("raise SystemExit(3)", "raised SystemExit: 3 (line 3 of my_rewards.py)"),
        (
            "import json; json.loads('x')",
            "raised JSONDecodeError: Expecting value: line 1 column 1 (char 0) (line 3 of my",
        ),
        ("return [1.0, float('nan')]", "returned nan at index 1; rewards must be finite"),
        ("return [1.0]", "returned 1 numbers for 2 completions"),
        ("return 'ab'", "returned a str instead of a list of 2 numbers"),
        ("os._exit(3)", "its process exited with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process was killed by SIGSEGV (a crash in native code)"),
        ("os.kill(os.getpid(), 40)", "its process was killed by signal 40"),  # which has no name
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process was killed by SIGKILL (out of memory?)"),
        ("os.closerange(3, 100); time.sleep(60)", "its process closed its pipe to the trainer"),
        ("time.sleep(60)", "took longer than task.reward_limit_s=1 s and was stopped"),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 30)); time.sleep(60)", "took longer than"),
    ],
)
def test_a_failure_names_its_function_prompt_and_cause_and_stays_alone(start, statement, why, n_processes):
    source = f"""\
    def score(prompt, completions):
        if prompt == "bad":
            {statement}
        return [float(prompt)] * len(completions)
    import os, signal, time
    """
    pool = start(source, limit_s=1.0, n_processes=n_processes)
    first, bad, *others = pool.grade(calls("1", "bad", "3", "4"))
    assert [first, *others] == [[1.0, 1.0], [3.0, 3.0], [4.0, 4.0]]
    assert bad.startswith(f"reward my_rewards:score on prompt 'bad': {why}")
    assert pool.grade(calls("5", "6")) == [[5.0, 5.0], [6.0, 6.0]]


def test_a_long_prompt_is_shortened_in_messages(start):
    (message,) = start("def score(completions): raise ValueError").grade(calls("x" * 100))
    assert message.startswith(f"reward my_rewards:score on prompt '{'x' * 57}...': raised ValueError (line 1")


@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_after_three_hangs_the_rest_is_not_tried_whatever_the_number_of_processes(start, n_processes):
    source = """
    import time
    def score(prompt, completions):
        if int(prompt) in (1, 3, 4, 7): time.sleep(60)
        return [1.0]
    """
    pool = start(source, limit_s=0.5, n_processes=n_processes)
    outcomes = pool.grade(calls(*map(str, range(9)), n=1))
    assert [outcome == [1.0] for outcome in outcomes] == [i in (0, 2) for i in range(9)]
    assert all("took longer" in outcomes[i] and "was stopped" in outcomes[i] for i in (1, 3, 4))
    assert outcomes[5:] == [
        f"reward my_rewards:score on prompt '{i}': not tried after 3 calls that took longer than "
        "task.reward_limit_s=0.5 s"
        for i in (5, 6, 7, 8)
    ]
    assert pool.grade(calls("0", "2", n=1)) == [[1.0], [1.0]]  # the next time starts afresh


def test_two_hangs_do_not_stop_the_rest(start):
    source = """
    import time
    def score(prompt, completions):
        if int(prompt) < 2: time.sleep(60)
        return [1.0]
    """
    outcomes = start(source, limit_s=0.5).grade(calls("0", "1", "2", "3", n=1))
    assert outcomes[2:] == [[1.0], [1.0]]


def test_a_process_may_be_idle_for_longer_than_a_call_may_take(start):
    pool = start(GOOD, limit_s=0.5)
    (process,) = pool._processes
    pid = process.pid
    pool.grade(calls("1"))
    time.sleep(0.7)
    assert pool.grade(calls("1")) == [[1.0, 2.0]]
    assert process.pid == pid


def test_a_process_that_reads_nothing_is_stopped_at_the_limit(start):
    pool = start(GOOD, limit_s=1.0)
    os.kill(pool._processes[0].pid, signal.SIGSTOP)
    (message,) = pool.grade([RewardCall(0, "1", ["x" * 1_000_000], "a", {})])
    assert "took longer than task.reward_limit_s=1 s and was stopped" in message
    assert pool.grade(calls("1")) == [[1.0, 2.0]]


def test_a_process_that_died_in_between_is_nobodys_failure(start):
    pool = start(GOOD)
    (process,) = pool._processes
    os.kill(process.pid, signal.SIGKILL)
    process._process.wait()
    assert pool.grade(calls("1", "2")) == [[1.0, 2.0], [2.0, 3.0]]


def test_a_function_that_forks_and_returns_twice_answers_once(start):
    source = """
    import os
    def score(prompt, completions):
        if prompt == "fork": os.fork()
        return [1.0, 2.0] if prompt == "fork" else [3.0, 4.0]
    """
    pool = start(source)
    assert pool.grade(calls("fork", "1", "fork", "2")) == [[1.0, 2.0], [3.0, 4.0]] * 2


def test_a_fork_that_holds_the_pipes_does_not_hide_a_death(start, tmp_path):
    source = """
    import os, pathlib, time
    def score(prompt, completions):
        if os.fork() == 0:
            os.setsid()
            pathlib.Path("pid").write_text(f"{os.getpid()}\\n")
            time.sleep(60)
        os._exit(3)
    """
    (message,) = start(source, limit_s=50.0).grade(calls("1"))
    os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)
    assert message.endswith("its process exited with status 3")


def test_a_function_that_cannot_be_imported_again_fails_the_rest_until_it_can(start, tmp_path):
    source = """
    import os, pathlib
    def score(prompt, completions):
        if prompt == "bad":
            pathlib.Path("my_rewards.py").write_text("raise RuntimeError('broken')")
            os._exit(3)
        return [1.0] * len(completions)
    """
    pool = start(source, n_processes=1)
    outcomes = pool.grade(calls("1", "bad", "3", "4"))
    assert outcomes[0] == [1.0, 1.0]
    assert outcomes[1].endswith("its process exited with status 3")
    for outcome, prompt in zip(outcomes[2:], "34", strict=True):
        assert outcome.startswith(
            f"reward my_rewards:score on prompt '{prompt}': its process could not be started again: "
            "reward my_rewards:score: importing my_rewards raised RuntimeError: broken (line 1 of my_rewards.py)"
        )
    write(tmp_path, GOOD)
    assert pool.grade(calls("1")) == [[1.0, 2.0]]


def test_a_process_that_the_system_does_not_start_again_fails_the_rest_until_it_does(start, monkeypatch):
    pool = start("import os\ndef score(prompt, completions): return [1.0] if prompt == '1' else os._exit(3)")

    def refuse(process):
        raise BlockingIOError(11, "no more processes")

    with monkeypatch.context() as patched:
        patched.setattr(reward_process.RewardProcess, "start", refuse)
        first, _, last = pool.grade(calls("1", "bad", "1", n=1))
    assert first == [1.0]
    assert last.endswith("its process could not be started again: [Errno 11] no more processes")
    assert pool.grade(calls("1", n=1)) == [[1.0]]


def test_an_interrupted_grading_leaves_no_answers_to_the_next(start, monkeypatch):
    pool = start(GOOD, n_processes=2)

    def interrupt(processes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reward_pool, "wait_for_news", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.grade(calls("1", "2", "3"))
    assert pool.grade(calls("7", "8")) == [[7.0, 8.0], [8.0, 9.0]]


def test_processes_start_again_in_the_folder_they_first_did(start, monkeypatch):
    pool = start("import os\ndef score(prompt, completions): return [1.0] if prompt == '1' else os._exit(3)")
    monkeypatch.chdir("/")
    _, outcome = pool.grade(calls("bad", "1", n=1))
    assert outcome == [1.0]


# what is left behind


def test_hanging_takes_the_programs_a_function_started_with_it(start, tmp_path):
    source = """
    import pathlib, subprocess
    def score(completions):
        program = subprocess.Popen(["sleep", "100"])
        pathlib.Path("pid").write_text(f"{program.pid}\\n")
        program.wait()
    """
    start(source, limit_s=1.0).grade(calls("1"))
    pid = pid_in(tmp_path / "pid")
    assert waits_until(lambda: not is_running(pid))


def test_neither_files_nor_processes_add_up(start):
    source = """
    import os, time
    def score(prompt, completions):
        if prompt == "exit": os._exit(3)
        if prompt == "hang": time.sleep(60)
        return [1.0]
    """

    pool = start(source, limit_s=0.5, n_processes=2)
    before = held()
    for _ in range(1_000):
        pool.grade(calls("1", "2", n=1))
    for _ in range(3):
        pool.grade(calls("1", "exit", "hang", "2", "exit", n=1))
    assert held() == before
    pool.close()
    files, children = held()
    assert (files, children) == (before[0] - 4, before[1] - 2)  # two pipes each


def test_a_closed_pool_lets_modules_end_in_peace(start, tmp_path):
    source = """
    import atexit, pathlib
    atexit.register(pathlib.Path("ended").touch)
    def score(completions): return [1.0] * len(completions)
    """
    start(source).close()
    assert (tmp_path / "ended").exists()


def test_a_closed_pool_has_no_processes_and_refuses_to_grade(start):
    pool = start(GOOD, n_processes=2)
    pids = [process.pid for process in pool._processes]
    pool.close()
    pool.close()
    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(ValueError, match="closed"):
        pool.grade(calls("1"))


TRAINER = """
import sys, time
from rlvr_jax.tasks.reward_pool import RewardCall, RewardPool

if __name__ == "__main__":
    pool = RewardPool(["my_rewards:score"], limit_s=1_000, n_processes=2)
    print(*[process.pid for process in pool._processes], flush=True)
    if sys.argv[1] == "grading":
        pool.grade([RewardCall(0, "1", ["a"], "a", {})])
    if sys.argv[1] == "idle":
        time.sleep(1_000)
"""


@pytest.mark.parametrize(("doing", "is_killed"), [("leaving", False), ("idle", True), ("grading", True)])
def test_the_processes_end_with_the_trainer(tmp_path, doing, is_killed):
    source = """
    import pathlib, subprocess
    def score(completions):
        program = subprocess.Popen(["sleep", "1000"])
        pathlib.Path("pid").write_text(f"{program.pid}\\n")
        program.wait()
    """
    write(tmp_path, source)
    root = Path(reward_pool.__file__).resolve().parents[2]
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, doing],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 2
    if doing == "grading":
        pids.append(pid_in(tmp_path / "pid"))
    if is_killed:
        assert all(is_running(pid) for pid in pids)
        trainer.kill()
    assert trainer.wait(timeout=60) == (-signal.SIGKILL if is_killed else 0)
    trainer.stdout.close()
    assert waits_until(lambda: not any(is_running(pid) for pid in pids))


# functions that cannot be used


@pytest.mark.parametrize(
    ("source", "function", "fault"),
    [
        (GOOD, "my_reward:score", "there is no module 'my_reward': looked for in the current folder {folder}, then"),
        (GOOD, "my_reward:score", "did you mean my_rewards?"),
        (GOOD, "no.such.module:score", "there is no module 'no': looked for in the current folder {folder}"),
        (GOOD, "my_rewards:scores", "my_rewards.py has no 'scores'; did you mean my_rewards:score?"),
        ("SCALE = 2", "my_rewards:score", "my_rewards.py has no 'score'; it defines no function"),
        ("score = 2", "my_rewards:score", "'score' in {folder}/my_rewards.py is not callable but an int"),
        ("\nimport no_such", "my_rewards:score", "raised ModuleNotFoundError: No module named 'no_such' (line 2 of my"),
        ("def score(:", "my_rewards:score", "importing my_rewards raised SyntaxError: invalid syntax (my_rewards.py"),
        ("1 / 0", "my_rewards:score", "importing my_rewards raised ZeroDivisionError: division by zero (line 1 of my"),
        ("raise SystemExit", "my_rewards:score", "importing my_rewards raised SystemExit (line 1 of my_rewards.py)"),
        ("import os; os._exit(3)", "my_rewards:score", "importing my_rewards:score: the process exited with status 3"),
        ("import time; time.sleep(60)", "my_rewards:score", "importing my_rewards:score took longer than 2 s"),
        ("def score(text): 0", "my_rewards:score", "needs a parameter 'text', but the four that exist are prompt, co"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_at_the_start(start, tmp_path, monkeypatch, source, function, fault):
    if "sleep" in source:
        monkeypatch.setattr(reward_process, "START_LIMIT_S", 2.0)
    files_and_children = held()
    with pytest.raises(ValueError, match=function) as error:
        start(source, [function], n_processes=2)
    assert fault.format(folder=tmp_path) in str(error.value)
    assert held() == files_and_children


@pytest.mark.parametrize(
    ("function", "fix"),
    [
        ("score", "write 'my_rewards:score' for score\\(\\) in my_rewards.py"),
        ("my_rewards.py:score", "write 'my_rewards:score'"),
        ("./verifiers/maths.py:score", "write 'verifiers.maths:score'"),
        ("my_rewards.py", "write 'my_rewards:function'"),
        ("my_rewards:", "write 'my_rewards:score'"),
        ("a:b:c", "write 'my_rewards:score'"),
        ("my-rewards:score", "write 'my_rewards:score'"),
        ("__import__('os')", "write 'my_rewards:score'"),
        ("--help", "write 'my_rewards:score'"),
    ],
)
def test_a_name_that_is_no_module_and_function_is_refused_with_the_fix(function, fix):
    with pytest.raises(ValueError, match=f"is neither a reward of the task nor module:function; {fix}"):
        RewardPool([function], limit_s=1.0, n_processes=1)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"limit_s": 0.0}, "task.reward_limit_s=0.0 must be above 0"),
        ({"limit_s": float("nan")}, "task.reward_limit_s=nan must be above 0"),
        ({"n_processes": 0}, "task.reward_workers=0 must be at least 1"),
    ],
)
def test_a_pool_that_could_not_work_is_refused(start, settings, fault):
    with pytest.raises(ValueError, match=fault):
        start(GOOD, **settings)


def test_a_process_is_replaced_after_its_calls_without_losing_an_answer(tmp_path):
    write(tmp_path, "import os\n\ndef score(completions):\n    return [float(os.getpid())] * len(completions)\n")
    pool = RewardPool(["my_rewards:score"], limit_s=30.0, n_processes=1, max_calls=2, folder=str(tmp_path))
    pids = [outcome["scores"][0] for outcome in pool.outcomes(calls(*"abcde", n=1))]
    pool.close()
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]


def test_a_process_with_a_memory_limit_fails_alone_where_it_would_exceed_it(tmp_path):
    write(tmp_path, "def score(prompt, completions):\n    return [float(len(bytearray(int(prompt))))]\n")
    pool = RewardPool(["my_rewards:score"], limit_s=30.0, n_processes=1, folder=str(tmp_path), memory_gib=1.0)
    too_much, enough = pool.outcomes(calls(str(2**32), "8", n=1))
    pool.close()
    assert too_much["failure"].startswith("raised MemoryError")
    assert enough == {"scores": [8.0]}


def test_without_a_limit_on_hangs_every_call_is_tried(start):
    source = (
        "import time\n\ndef score(prompt, completions):\n    time.sleep(60 * (prompt == 'hang'))\n    return [1.0]\n"
    )
    start(source).close()
    pool = RewardPool(["my_rewards:score"], limit_s=0.05, n_processes=2, max_hangs=float("inf"))
    outcomes = pool.outcomes(calls(*["hang"] * 5, "go", n=1))
    pool.close()
    assert [outcome.get("late") for outcome in outcomes] == [0.05] * 5 + [None]


def test_packages_named_are_there_before_the_first_call(tmp_path):
    write(tmp_path, "import sys\n\ndef score(completions):\n    return [float('fractions' in sys.modules)]\n")
    pool = RewardPool(["my_rewards:score"], limit_s=30.0, n_processes=1, folder=str(tmp_path), imports=["fractions"])
    assert pool.outcomes(calls("a", n=1)) == [{"scores": [1.0]}]
    pool.close()
