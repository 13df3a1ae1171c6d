import fcntl
import multiprocessing
import os
import threading

import pytest

from rlvr_jax.tasks.judge_cache import JudgeBudget, JudgeCache

KEY = JudgeCache.key("http://h/v1", {"model": "m"})


def test_what_is_kept_is_found_by_another_cache_of_the_folder(tmp_path):
    JudgeCache(tmp_path).save(KEY, "Score: 1 é\ud83d")
    assert JudgeCache(tmp_path).load(KEY) == "Score: 1 é\ud83d"
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("damaged", [b"", b'{"said": "Sc', b"null", b'{"said": 5}', b"\xff"])
def test_a_damaged_answer_is_none(tmp_path, damaged):
    cache = JudgeCache(tmp_path)
    assert cache.load(KEY) is None
    cache.save(KEY, "Score: 1")
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(damaged)
    assert cache.load(KEY) is None


def test_keys_tell_everything_that_is_asked_apart():
    keys = {JudgeCache.key(url, {"model": m, "t": t}) for url in "ab" for m in "mn" for t in (0, 1)}
    assert len(keys) == 8
    assert JudgeCache.key("a", {"x": 1, "y": 2}) == JudgeCache.key("a", {"y": 2, "x": 1})


def _take_all(folder, found):
    budget = JudgeBudget(folder, most_requests=200, most_tokens=0)
    found.put(sum(budget.take() == "" for _ in range(150)))


def test_processes_share_a_budget(tmp_path):
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    processes = [context.Process(target=_take_all, args=(tmp_path, found)) for _ in range(2)]
    for process in processes:
        process.start()
    taken = sorted(found.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert sum(taken) == 200


def test_nothing_is_counted_while_another_process_holds_the_file(tmp_path):
    budget = JudgeBudget(tmp_path, most_requests=1, most_tokens=0)
    file = os.open(tmp_path / "spent", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    found = []
    thread = threading.Thread(target=lambda: found.append(budget.take()))
    thread.start()
    thread.join(0.3)
    assert found == []
    os.write(file, b"requests 1\n")
    os.close(file)
    thread.join(30)
    assert "task.judge.budget_requests=1 is spent" in found[0]


def test_a_line_cut_by_a_kill_is_not_counted(tmp_path):
    budgets = [JudgeBudget(tmp_path, most_requests=3, most_tokens=0) for _ in range(2)]
    assert budgets[0].take() == ""
    with (tmp_path / "spent").open("ab") as file:
        file.write(b"reque")
    for budget in (*budgets, JudgeBudget(tmp_path, most_requests=4, most_tokens=0)):
        assert budget.take() == ""
    assert [budget.take() == "" for budget in budgets] == [False, False]
    assert budgets[0].spent == budgets[1].spent == {"requests": 4, "tokens": 0}


def test_no_budget_counts_nothing(tmp_path):
    assert JudgeBudget(tmp_path, most_requests=0, most_tokens=0).take() == ""
    assert not (tmp_path / "spent").exists()
