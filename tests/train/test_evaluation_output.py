import json
import math

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlvr_jax.train.evaluation_output import evaluation_table, save_evaluation

METRICS = {
    "eval/math/greedy": 0.5,
    "eval/math/greedy_se": 0.125,
    "eval/math/maj@4": 0.75,
    "eval/math/maj@4_se": math.nan,
    "eval/math/ungraded_frac": 0.25,
    "eval/math/rewards/format": 0.125,
    "eval/math/level_5/greedy": 0.25,
    "eval/math/level_5/greedy_se": 0.1,
    "eval/math/level_5/n": 4,
}


def test_the_table_has_every_mean_and_then_every_category():
    assert evaluation_table(METRICS, n_problems=16).splitlines() == [
        "problems  n   metric          value  standard error",
        "all       16  greedy          0.500  0.125",
        "all       16  maj@4           0.750  nan",
        "all       16  ungraded_frac   0.250",
        "all       16  rewards/format  0.125",
        "level_5   4   greedy          0.250  0.100",
    ]


def test_evaluations_are_added_to_their_rows_and_all_shown(tmp_path):
    for update in (80, 40):  # an earlier checkpoint evaluated later must not hide the other
        save_evaluation(tmp_path / "new", {"update": update, "evaluated": "a policy", **METRICS})
    rows = [json.loads(line) for line in (tmp_path / "new" / "evals.jsonl").read_text().splitlines()]
    assert [(row["update"], row["eval/math/greedy"], row["eval/math/maj@4_se"]) for row in rows] == [
        (80, 0.5, None),
        (40, 0.5, None),
    ]
    events = EventAccumulator(str(tmp_path / "new")).Reload()
    assert sorted(event.step for event in events.Scalars("eval/math/level_5/greedy")) == [40, 80]
