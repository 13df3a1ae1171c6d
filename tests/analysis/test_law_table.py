"""Tables of steps to targets: what a line means, and what is refused."""

import math
import time

import pytest

from rlvr_jax.analysis.law_table import (
    one_update_rows,
    read_table,
    table_observations,
    unused_columns,
)
from rlvr_jax.analysis.table_notes import table_notes

HEADER = "run,n_prompts,n_rollouts,target,steps"
LINES = "a,32,8,0.5,75\na,32,8,0.6,\nb,64,8,0.5,50\nb,64,8,0.6,225\n"


def write(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def windows(path, unit="step", **options):
    return [(seen.after, seen.by) for seen in table_observations(read_table(path, **options), unit)]


def test_exact_steps_are_known_exactly_and_a_blank_lies_beyond_the_runs_own_last_step(tmp_path):
    path = write(tmp_path, f"{HEADER}\n{LINES}")
    assert windows(path) == [(75, 75), (75, math.inf), (50, 50), (225, 225)]
    seen = table_observations(read_table(path), "step")
    assert [one.at for one in seen] == [75, None, 50, 225]
    assert [(one.run, one.batch, one.target) for one in seen[:2]] == [("a", 256, 0.5), ("a", 256, 0.6)]
    assert "a > 75 steps to 0.6" in " ".join(table_notes(read_table(path)))


def test_a_printed_step_lies_above_the_evaluation_before_it(tmp_path):
    path = write(tmp_path, f"{HEADER}\n{LINES}c,128,8,0.5,25\n")
    assert windows(path, eval_every=25) == [(50, 75), (75, math.inf), (25, 50), (200, 225), (0, 25)]
    assert "a printed 75 means 50-75, and 25 means at most 25" in " ".join(table_notes(read_table(path, eval_every=25)))


def test_targets_met_by_the_first_evaluation_are_named(tmp_path):
    text = f"{HEADER}\na,32,8,0.4,25\na,32,8,0.5,75\nb,64,8,0.4,25\nb,64,8,0.5,50\nc,64,8,0.4,50\nc,64,8,0.5,50\n"
    notes = " ".join(table_notes(read_table(write(tmp_path, text), eval_every=25)))
    assert "no more than an upper bound is known: 2 of 3 runs at 0.4. Absolute residuals take" in notes
    assert "upper bound" not in " ".join(table_notes(read_table(write(tmp_path, text))))


def test_max_steps_say_how_far_a_run_went_up_to_its_last_evaluation(tmp_path):
    path = write(tmp_path, f"{HEADER},max_steps,eval_every\na,32,8,0.6,,110,25\nb,32,8,0.6,,110,\n")
    assert windows(path) == [(100, math.inf), (110, math.inf)]


def notes_of(path, **options):
    return " ".join(table_notes(read_table(path, **options)))


def test_a_run_that_printed_nothing_went_as_far_as_any_of_its_group(tmp_path):
    path = write(
        tmp_path, f"{HEADER},group\n{LINES.replace(chr(10), ',x' + chr(10))}lost,128,8,0.5,,x\nc,32,8,0.5,990,y\n"
    )
    assert windows(path) == [(75, 75), (75, math.inf), (50, 50), (225, 225), (225, math.inf), (990, 990)]
    notes = notes_of(path)
    assert "taken to have gone as far as the last step printed for any run of its group" in notes
    assert "would replace this: lost > 225 steps to 0.5." in notes
    assert windows(path, eval_every=None, max_steps=1000)[4] == (1000, math.inf)
    assert "taken to have gone" not in notes_of(path, max_steps=1000)


def test_a_run_of_which_nothing_is_known_is_kept_without_a_bound_and_named(tmp_path):
    path = write(tmp_path, f"{HEADER},group,seed\na,32,8,0.5,75,x,0\nlost,128,8,0.5,,y,3\n")
    assert windows(path) == [(75, 75), (0, math.inf)]
    assert not table_observations(read_table(path), "step")[1].is_known
    assert "Used by no fit: lost seed 3 reached no target" in notes_of(path)
    assert "give max_steps" in notes_of(path)


def test_a_run_that_ended_before_its_first_evaluation_is_named(tmp_path):
    path = write(tmp_path, f"{HEADER},max_steps,eval_every\na,32,8,0.5,75,,25\nb,64,8,0.5,,10,25\n")
    assert windows(path) == [(50, 75), (0, math.inf)]
    assert "Used by no fit: b ended before the first evaluation." in notes_of(path)


def test_max_steps_in_one_row_of_a_run_are_those_of_its_other_rows(tmp_path):
    path = write(tmp_path, f"{HEADER},max_steps\na,32,8,0.5,1000,1500\na,32,8,0.6,,\n")
    assert windows(path) == [(1000, 1000), (1500, math.inf)]
    assert "does not say how far" not in notes_of(path)


def test_a_minibatch_larger_than_the_collection_is_the_collection(tmp_path):
    path = write(tmp_path, f"{HEADER},minibatch_prompts\na,64,8,0.5,75,256\nb,512,8,0.5,50,256\n")
    assert [(row.minibatch_prompts, row.updates_per_step) for row in read_table(path)] == [(64, 1), (256, 2)]
    assert [seen.updates_per_step for seen in table_observations(read_table(path), "update")] == [1, 2]
    assert "minibatch_prompts is larger than n_prompts for a: read as n_prompts" in notes_of(path)


def test_names_are_one_line_that_a_terminal_shows(tmp_path):
    path = write(tmp_path, f'{HEADER},group\n"a\n\x1b[2Jb",32,8,0.5,75,"g\th"\n')
    (row,) = read_table(path)
    assert (row.run, row.group) == ("a \\x1b[2Jb", "g h")


def test_in_updates_a_step_counts_its_minibatches_and_the_batch_is_one_of_them(tmp_path):
    path = write(tmp_path, f"{HEADER},minibatch_prompts\na,64,8,0.5,75,16\na,64,8,0.6,,16\nb,64,8,0.5,100,\n")
    assert windows(path, "update", eval_every=25) == [(200, 300), (300, math.inf), (75, 100)]  # 4 updates per step
    seen = table_observations(read_table(path), "update")
    assert [(one.n_prompts, one.n_rollouts) for one in seen] == [(16, 8), (16, 8), (64, 8)]
    assert [row.run for row in one_update_rows(read_table(path))] == ["b"]
    with pytest.raises(ValueError, match="unit='epoch' is none of step, update"):
        table_observations(read_table(path), "epoch")


def test_seeds_of_one_name_are_runs_of_their_own_and_groups_are_kept(tmp_path):
    path = write(tmp_path, f"{HEADER},seed,group\na,32,8,0.5,75,0,x\na,32,8,0.5,85,1,x\na,32,8,0.5,95,0,y\n")
    seen = table_observations(read_table(path), "step")
    assert [(one.run, one.seed, one.group) for one in seen] == [("a", 0, "x"), ("a", 1, "x"), ("a", 0, "y")]


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{HEADER}\r\n{LINES}".replace("\n", "\r\n").replace("\r\r", "\r"),  # as Excel saves it
        f"{HEADER}\n{LINES}".replace(",", ";").replace("0.", "0,"),
        f"{HEADER}\n{LINES}".replace(",", "\t"),
        f"\n{HEADER}\n\n{LINES}\n\n , ,,,\n",
        f"{HEADER}\n{LINES}".replace(",\n", ",-\n").replace("32,8", "32.0, 8 "),
        f'"run","n_prompts","n_rollouts","target","steps"\n{LINES}'.replace("a,", '"a",').replace("75", '"75"'),
        "steps,target,n_rollouts,n_prompts,run\n75,0.5,8,32,a\nNaN,0.6,8,32,a\n50,0.5,8,64,b\n225,0.6,8,64,b\n",
    ],
    ids=["byte order mark and CRLF", "semicolons", "tabs", "blank lines", "dashes and floats", "quotes", "order"],
)
def test_a_table_may_come_from_any_program(tmp_path, text):
    plain = write(tmp_path, f"{HEADER}\n{LINES}")
    expected = table_observations(read_table(plain), "step")
    assert table_observations(read_table(write(tmp_path, text)), "step") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv is empty; it needs the columns run, n_prompts"),
        (f"{HEADER}\n", "has a header and no rows"),
        ("run,n_prompts,target,steps\n", "lacks the column n_rollouts: its header is run, n_prompts, target, steps"),
        (f"{HEADER},minibatch\na,32,8,0.5,75,8\n", "unknown column 'minibatch'; name it minibatch_prompts"),
        (f"{HEADER},steps\na,32,8,0.5,75,8\n", "column steps twice"),
        (f"{HEADER}\na,32,8,0.5\n", "line 2 has 4 fields where the header has 5"),
        (f"{HEADER}\na,32,8,0.5,soon\n", "line 2: steps='soon' is not a number of steps above 0; leave it blank where"),
        (f"{HEADER}\na,32,8,0.5,0\n", "line 2: steps='0' is not"),
        (f"{HEADER}\na,32,8,0.5,inf\n", "line 2: steps='inf' is not"),
        (f"{HEADER}\n\na,-32,8,0.5,75\n", "line 3: n_prompts='-32' is not a whole number above 0"),
        (f"{HEADER}\na,32,7.5,0.5,75\n", "n_rollouts='7.5' is not a whole number above 0"),
        (f"{HEADER}\na,32,,0.5,75\n", "line 2: n_rollouts is blank"),
        (f"{HEADER}\na,32,8,best,75\n", "target='best' is not a number"),
        (f"{HEADER}\n,32,8,0.5,75\n", "line 2: run is blank"),
        (
            f"{HEADER}\na,32,8,0.5,75\na,32,8,0.5,80\n",
            "lines 2 and 3 both hold run a at target 0.5; repeated runs need",
        ),
        (
            f"{HEADER}\na,32,8,0.5,75\na,64,8,0.6,80\n",
            "lines 2 and 3: run a has n_prompts=32 and 64; runs of different",
        ),
        (f"{HEADER},minibatch_prompts\na,32,8,0.5,75,12\n", "minibatch_prompts=12 does not divide n_prompts=32"),
        (f"{HEADER}\na,1e300,8,0.5,75\n", "n_prompts='1e300' is not a whole number above 0 and at most 1e12"),
        (f"{HEADER}\na,1_000,8,0.5,75\n", "n_prompts='1_000' is not a whole number"),
        (f"{HEADER}\na,32,8,0.5,1e-300\n", "steps='1e-300' is not a number of steps, 0.001 to 1e"),
        (f"{HEADER},eval_every\na,32,8,0.5,70,25\n", "steps=70 is not a multiple of eval_every=25"),
        (f"{HEADER},max_steps\na,32,8,0.5,70,50\n", "steps=70 lie beyond max_steps=50"),
        (f"{HEADER},seed\na,32,8,0.5,70,1.5\n", "seed='1.5' is not a whole number"),
        (f"{HEADER}\nä,32,8,0.5,70\n".encode("latin-1"), r"is not UTF-8 \(byte 0xe4 on line 2\); save it as CSV UTF-8"),
        (f"{HEADER}\na,32,8,0.5,70\n".encode("utf-16"), "is not UTF-8"),
        (f"{HEADER}\na,32,8,\0,70\n", r"line 2: target='\\x00' is not a number"),
    ],
)
def test_a_bad_table_is_one_message_with_line_value_and_fix(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(tmp_path, text))
    assert "table.csv" in str(caught.value)


def test_the_spacing_is_given_once_and_is_positive(tmp_path):
    path = write(tmp_path, f"{HEADER},eval_every\na,32,8,0.5,75,25\n")
    with pytest.raises(ValueError, match="has a column eval_every: leave --eval_every=25 out"):
        read_table(path, eval_every=25)
    with pytest.raises(ValueError, match="--eval_every=0 is not a number of steps above 0"):
        read_table(write(tmp_path, f"{HEADER}\n{LINES}"), eval_every=0)
    path = write(tmp_path, f"{HEADER},max_steps\na,32,8,0.5,75,100\n")
    with pytest.raises(ValueError, match="has a column max_steps: leave --max_steps=200 out"):
        read_table(path, max_steps=200)


def test_other_columns_are_left_alone_and_named(tmp_path):
    path = write(tmp_path, f"{HEADER},lr,notes\na,32,8,0.5,75,1e-6,fine\n")
    assert len(read_table(path)) == 1
    assert unused_columns(path) == ["lr", "notes"]


def test_steps_that_rise_and_fall_from_target_to_target_are_pointed_at(tmp_path):
    path = write(tmp_path, f"{HEADER}\na,32,8,0.4,50\na,32,8,0.5,40\na,32,8,0.6,90\nb,32,8,2.0,10\nb,32,8,1.0,30\n")
    assert "Check a: steps neither rise nor fall" in table_notes(read_table(path))[-1]  # b: a loss, which falls
    rows = "".join(f"a,32,8,{t},{s},{seed}\n" for seed in (0, 1) for t, s in ((0.4, 50), (0.5, 40), (0.6, 90)))
    assert "Check a seed 0, a seed 1: steps" in notes_of(write(tmp_path, f"{HEADER},seed\n{rows}"))


def test_a_large_table_is_read_in_seconds(tmp_path):
    lines = "".join(f"r{k // 4},{2 ** (k // 4 % 8)},8,0.{k % 4 + 1},{25 + k % 4}\n" for k in range(10_000))
    path, start = write(tmp_path, f"{HEADER}\n{lines}"), time.process_time()
    assert len(table_observations(read_table(path), "step")) == 10_000
    assert time.process_time() - start < 3.0  # 0.2 s on a 2-core CPU
