"""bin/grade as people run it: files, pipes, errors."""

import json
import subprocess
import sys
from pathlib import Path

GRADE = Path(__file__).resolve().parents[2] / "bin" / "grade"


def grade(*arguments, **options):
    command = [sys.executable, str(GRADE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_graded_lines_go_to_standard_output_and_totals_to_standard_error(tmp_path):
    rows = [{"prediction": "$(x+1)^2$", "gold": "$x^2+2x+1$"}, {"prediction": "3", "gold": "4"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = grade("--task=math", "--workers=1", file, cwd=tmp_path)  # where the package cannot be seen
    assert [json.loads(line)["correct"] for line in done.stdout.splitlines()] == [True, False], done.stderr
    assert "2 completions, 1 correct (0.5000)" in done.stderr
    assert done.returncode == 0


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    lines = (json.dumps({"completion": "7", "gold": "7"}) + "\n") * 20_000
    command = f"{sys.executable} {GRADE} --task=gsm8k - | head -n 1"
    done = subprocess.run(["bash", "-c", command], input=lines, capture_output=True, text=True, timeout=120)
    assert (json.loads(done.stdout)["correct"], done.stderr) == (True, "")


def test_mistakes_are_one_line_on_standard_error(tmp_path):
    missing = grade("--task=math", tmp_path / "none.jsonl")
    assert missing.returncode == 1
    assert missing.stderr.startswith("bin/grade: ")
    assert "none.jsonl" in missing.stderr
    policy = grade("--task=math", "--policy=units,lenient", "-", input="")
    assert policy.returncode == 1
    assert "answer policy 'lenient' does not exist; the names are exact_percent" in policy.stderr
