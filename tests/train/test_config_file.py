"""From a command line to the points of a study."""

import pytest
from absl import flags

from rlvr_jax.train import config_file
from rlvr_jax.train.config import ConfigError
from rlvr_jax.train.config_file import choose_point, load_points
from rlvr_jax.train.validate import validate

STUDY = """
from rlvr_jax.train import config as c

def get_config(arg=None):
    if arg not in (None, "tiny"):
        raise c.ConfigError([f"no variant {arg}"])
    return c.TrainConfig(study="grid_tiny" if arg else "grid", n_updates=7)
"""
SWEEP = """
def sweep(arg=None):
    return [{"batch.n_prompts": p, "seed": s} for s in (0, 1) for p in (8, 16)]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config file into the current folder, which is a fresh one."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="grid.py"):
        (tmp_path / name).write_text(text)

    return write


def points_of(*arguments):
    return load_points(["bin/train", *arguments], flags.FlagValues())


def splits_of(*arguments):
    return [(point.batch.n_prompts, point.seed) for point in points_of(*arguments)]


def problems_of(*arguments):
    with pytest.raises(ConfigError) as refused:
        points_of(*arguments)
    return refused.value.problems


def test_a_file_without_a_sweep_is_one_point(write):
    write(STUDY)
    (point,) = points_of("--config=grid.py")
    assert (point.study, point.n_updates, point.batch.n_prompts) == ("grid", 7, 64)


def test_a_sweep_gives_its_points_in_its_order(write):
    write(STUDY + SWEEP)
    assert splits_of("--config=grid.py") == [(8, 0), (16, 0), (8, 1), (16, 1)]


def test_what_follows_the_colon_reaches_the_file(write):
    write(STUDY + SWEEP)
    assert {point.study for point in points_of("--config=grid.py:tiny")} == {"grid_tiny"}
    assert problems_of("--config=grid.py:huge") == ["no variant huge"]


def test_an_override_reaches_every_point(write):
    write(STUDY + SWEEP)
    points = points_of("--config=grid.py", "--config.n_updates=9", "--config.optimizer.peak_lr=1")
    assert [(point.n_updates, point.optimizer.peak_lr) for point in points] == [(9, 1.0)] * 4


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--config.eval.k=1,2"], (1, 2)),
        (["--config.eval.k=(1,2)"], (1, 2)),
        (["--config.eval.k", "1,2"], (1, 2)),
    ],
)
def test_a_tuple_can_be_overridden(write, arguments, value):
    write(STUDY)
    (point,) = points_of("--config=grid.py", *arguments)
    assert point.eval.k == value


@pytest.mark.parametrize("second", [["--config.seed=1"], ["-config.seed=0"], ["--config.seed", "1"]])
def test_a_repeated_override_is_refused_by_name(write, second):
    write(STUDY + SWEEP)
    assert problems_of("--config=grid.py", "--config.seed=0", *second) == ["config.seed is given twice; keep one"]


@pytest.mark.parametrize("second", [["--config=other.py"], ["--config", "other.py"], ["-config=other.py"]])
def test_a_repeated_config_is_refused_by_name(write, second):
    write(STUDY)
    write(STUDY, name="other.py")
    (problem,) = problems_of("--config=grid.py", *second)
    assert problem == "--config is given 2 times (grid.py, other.py); keep one"


def rates_of(*arguments):
    points = points_of("--config=grid.py", "--config.optimizer.lr_rule=grid", *arguments)
    return [(point.point_name, point.peak_lr) for point in points]


def test_a_grid_of_rates_makes_each_point_one_per_rate_after_overrides(write):
    write(STUDY + SWEEP)
    assert rates_of("--config.optimizer.lr_grid=0.5,5", "--config.optimizer.peak_lr=1e-6", "--config.seed=1") == [
        ("grid_np8_nr4_lr5e-07_s1", 5e-7),
        ("grid_np8_nr4_lr5e-06_s1", 5e-6),  # as floats 5 * 1e-6 is a little less
        ("grid_np16_nr4_lr5e-07_s1", 5e-7),
        ("grid_np16_nr4_lr5e-06_s1", 5e-6),
    ]


def test_a_grid_of_rates_scales_an_adapters_own_rate_and_ends_a_name_that_is_given(write):
    write(STUDY + 'def sweep(arg=None):\n    return [{"point": "mine", "lora.peak_lr": 3e-3, "lora.enabled": True}]\n')
    assert rates_of("--config.optimizer.lr_grid=1,2") == [("mine_lr0.003", 3e-3), ("mine_lr0.006", 6e-3)]


def test_a_grid_that_cannot_work_is_left_for_the_checks_of_all_settings(write):
    write(STUDY)
    assert len(rates_of("--config.optimizer.lr_grid=0,1")) == 1


@pytest.mark.parametrize("value", [{"lr_grid": 0.5}, {"lr_grid": None}, {"lr_grid": (1,), "peak_lr": "1e-3"}])
def test_a_mistyped_rate_of_a_grid_is_left_for_the_checks_of_all_settings(write, value):
    changes = {f"optimizer.{name}": given for name, given in value.items()}
    write(f"{STUDY}\ndef sweep(arg=None):\n    return [{changes}]\n")
    (point,) = points_of("--config=grid.py", "--config.optimizer.lr_rule=grid")
    with pytest.raises(ConfigError, match=r"optimizer\.(lr_grid|peak_lr)=.* must be a"):
        validate(point)


def test_points_share_nothing(write):
    write(STUDY + SWEEP)
    first, *others = points_of("--config=grid.py")
    first.optimizer.peak_lr = 123.0
    assert all(point.optimizer.peak_lr != 123.0 for point in others)


def test_an_override_of_a_swept_field_keeps_the_points_that_agree(write):
    write(STUDY + SWEEP)
    assert splits_of("--config=grid.py", "--config.batch.n_prompts=16") == [(16, 0), (16, 1)]
    assert splits_of("--config=grid.py", "--config.batch.n_prompts=16", "--config.seed=1") == [(16, 1)]


def test_an_override_that_agrees_with_no_point_is_refused(write):
    write(STUDY + SWEEP)
    (problem,) = problems_of("--config=grid.py", "--config.batch.n_prompts=12")
    assert "no point of the sweep in grid.py has config.batch.n_prompts=12" in problem


def test_every_unknown_field_names_its_nearest(write):
    write(STUDY)
    assert problems_of("--config=grid.py", "--config.batch.n_promts=8", "--config.n_update=3") == [
        "config.batch.n_promts is no field of the config; did you mean config.batch.n_prompts?",
        "config.n_update is no field of the config; did you mean config.n_updates?",
    ]


def test_an_unknown_field_in_a_sweep_names_its_nearest(write):
    write(STUDY + 'def sweep(arg=None):\n    return [{"batch.n_promts": 8}]\n')
    (problem,) = problems_of("--config=grid.py")
    assert "did you mean config.batch.n_prompts?" in problem


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("config.batch.n_prompts=many", "must be a whole number, such as 64"),
        ("config.n_updates=1.5", "must be a whole number, such as 7"),
        ("config.optimizer.peak_lr=fast", "must be a number, such as 0.0001"),
        ("config.warmstart.enabled=maybe", ""),
    ],
)
def test_a_mistyped_override_is_named_with_its_value(write, override, says):
    write(STUDY)
    (problem,) = problems_of("--config=grid.py", f"--{override}")
    assert override in problem
    assert says in problem


def test_an_entry_of_a_tuple_is_no_field(write):
    write(STUDY)
    assert problems_of("--config=grid.py", "--config.eval.k[0]=2") == [
        "config.eval.k[0] is no field of the config; did you mean config.eval.k?"
    ]


@pytest.mark.parametrize("arguments", [[], ["--config"], ["--config="], ["--config.n_updates=3"]])
def test_a_missing_config_is_said_with_the_files_there_are(arguments):
    (problem,) = problems_of(*arguments)
    assert problem.startswith("--config=FILE is missing")
    assert "smoke.py" in problem


def test_an_unknown_file_is_said_with_the_files_there_are(write):
    (problem,) = problems_of("--config=nowhere.py")
    assert problem.startswith("--config=nowhere.py: no such file")
    assert "smoke.py" in problem


@pytest.mark.parametrize("arguments", [["--config=grid.py", "extra"], ["extra", "--config=grid.py"]])
def test_leftover_arguments_are_refused_by_name(write, arguments):
    write(STUDY)
    (problem,) = problems_of(*arguments)
    assert problem.startswith("unexpected argument(s) extra")


def test_an_unknown_flag_is_refused_by_name(write):
    write(STUDY)
    (problem,) = problems_of("--config=grid.py", "--pont=3")
    assert "pont" in problem


@pytest.mark.parametrize(
    "arguments", [["--config=grid"], ["--config", "grid.py"], ["-config=grid.py"], ["-config", "grid"]]
)
def test_the_file_can_be_named_in_several_ways(write, arguments):
    write(STUDY)
    assert [point.study for point in points_of(*arguments)] == ["grid"]


def test_a_bare_name_is_looked_for_in_configs(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "grid.py").write_text(STUDY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(config_file, "CONFIG_FOLDER", tmp_path / "configs")
    assert [point.study for point in points_of("--config=grid.py:tiny")] == ["grid_tiny"]
    (tmp_path / "elsewhere" / "grid.py").write_text(STUDY.replace('"grid"', '"here"'))
    assert [point.study for point in points_of("--config=grid.py")] == ["here"]  # the nearer file wins


def test_the_folder_of_configs_is_the_one_of_the_repository(write):
    assert [point.study for point in points_of("--config=smoke.py")] == ["smoke"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "has no get_config"),
        ("def get_config(arg=None):\n    return {'n_updates': 3}\n", "must return a TrainConfig, got dict"),
    ],
)
def test_a_file_that_is_no_config_is_refused(write, text, says):
    write(text)
    (problem,) = problems_of("--config=grid.py")
    assert "grid.py" in problem
    assert says in problem


def test_other_flags_keep_their_meaning(write):
    write(STUDY)
    values = flags.FlagValues()
    flags.DEFINE_integer("index", None, "", flag_values=values)
    load_points(["bin/train", "--index=3", "--config=grid.py", "--config.seed=5"], values)
    assert values.index == 3


def test_a_point_is_chosen_by_name_or_by_index(write):
    write(STUDY + SWEEP)
    points = points_of("--config=grid.py")
    assert choose_point(points, name=None, index=None) == points
    assert choose_point(points, name="grid_np16_nr4_s1", index=None) == [points[3]]
    assert choose_point(points, name=None, index=0) == [points[0]]
    assert choose_point(points, name=None, index=3) == [points[3]]


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_outside_the_study_is_refused(write, index):
    write(STUDY + SWEEP)
    with pytest.raises(ConfigError, match=rf"--index={index} lies outside 0\.\.3"):
        choose_point(points_of("--config=grid.py"), name=None, index=index)


def test_an_unknown_point_names_the_nearest_or_all(write):
    write(STUDY + SWEEP)
    points = points_of("--config=grid.py")
    with pytest.raises(ConfigError, match=r"did you mean grid_np16_nr4_s1\?"):
        choose_point(points, name="grid_np16_s1", index=None)
    with pytest.raises(ConfigError, match="points are grid_np8_nr4_s0, grid_np16_nr4_s0"):
        choose_point(points, name="?", index=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(arg=None):\n    return 1 +\n", r"mine\.py line 2: SyntaxError"),
        ("import nowhere_at_all\n", r"mine\.py line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def get_config(arg=None):\n    return {}[arg]\n", r"mine\.py line 2: KeyError: None"),
        (
            "from rlvr_jax.train import config as c\ndef get_config(arg=None):\n"
            "    return c.TrainConfig(task=c.TaskConfig(operator='+'))\n",
            r"mine\.py line 3: TypeError: .*'operator'; did you mean operators\?",
        ),
        (
            "from rlvr_jax.train import config as c\ndef get_config(arg=None):\n    return c.TrainConfig()\n"
            "def sweep(arg=None):\n    raise RuntimeError('no')\n",
            r"mine\.py line 5: RuntimeError: no",
        ),
    ],
)
def test_a_fault_in_a_config_file_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_points(["train", f"--config={tmp_path / 'mine.py'}"], flags.FlagValues())
