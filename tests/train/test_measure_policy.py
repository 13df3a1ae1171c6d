"""The measurement of a policy through a folder: going on, refusing, and what it finds of made-up gradients."""

import copy
import json
import math
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from noise_results import make_result, refused_result

from rlvr_jax.analysis.noise_figure import save_noise_figure
from rlvr_jax.analysis.noise_report import noise_table
from rlvr_jax.noise.offline import offline_noise
from rlvr_jax.train import measure_policy as module
from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.checkpoint import CheckpointError, Checkpoints
from rlvr_jax.train.config import ConfigError, TaskConfig
from rlvr_jax.train.learner import RewardError
from rlvr_jax.train.measure_policy import measure_policy
from rlvr_jax.train.noise_chunk import Chunk
from rlvr_jax.train.noise_folder import NoiseFolderError, reading_arrays
from rlvr_jax.train.noise_options import (
    Options,
    check_options,
    chunk_prompts,
    n_problems_drawn_from,
    problem_order,
)
from rlvr_jax.train.noise_pass import GradientSums, GroupReading, Reading
from rlvr_jax.train.programs import build_programs
from rlvr_jax.train.run_directory import RunDirectoryError
from rlvr_jax.train.state import initial_state
from rlvr_jax.train.stop import Stopped, StopRequest

PARTS = {"embedding": slice(0, 12), "mlp": slice(12, 40)}


class MadeUp:
    """In place of a ChunkMeasurement: scores and rewards drawn with a seed per prompt; `change` may alter them."""

    metric = None
    n_calls = 0
    change = staticmethod(lambda rewards_PR, is_kept_PR, is_finite_PR, first: None)

    def __init__(self, config, parts, state, starting_params, *, chunk_prompts, n_rollouts, seed):
        self.seed, self.n_rollouts, self.prompt = seed, n_rollouts, lambda i: parts.task.train_problem(i).prompt

    def __call__(self, problem_P, first_prompt):
        type(self).n_calls += 1
        P, R = len(problem_P), self.n_rollouts
        draws = [np.random.default_rng([self.seed, first_prompt + p, int(i)]) for p, i in enumerate(problem_P)]
        score_PRn = np.stack([rng.normal(size=(R, 40)) for rng in draws]).astype(np.float32)
        reward_PR = np.stack([rng.random(R) < 0.5 for rng in draws]).astype(np.float32)
        reward_PR = reward_PR + score_PRn[..., :5].sum(axis=2)  # something to learn
        is_kept_PR, is_finite_PR = np.ones((P, R), bool), np.ones((P, R), bool)
        self.change(reward_PR, is_kept_PR, is_finite_PR, first_prompt)
        is_kept_PR &= is_finite_PR.all(axis=1, keepdims=True)
        n_P1 = np.maximum(is_kept_PR.sum(axis=1, keepdims=True), 2)
        mean_P1 = np.where(is_kept_PR, reward_PR, 0).sum(axis=1, keepdims=True) / n_P1
        weight_PR = np.where(is_kept_PR, -(reward_PR - mean_P1) / (n_P1 - 1), 0).astype(np.float32)
        group_Pn = np.einsum("pr,prn->pn", weight_PR, score_PRn)
        sketch_Pn = {part: np.where(np.isin(np.arange(40), np.r_[of]), group_Pn, 0) for part, of in PARTS.items()}
        sq_norm_P = {part: np.square(leaf).sum(axis=1) for part, leaf in sketch_Pn.items()}
        gram_PRR = {part: np.einsum("pjn,pkn->pjk", *[score_PRn[..., of]] * 2) for part, of in PARTS.items()}
        reading = Reading(GroupReading(sq_norm_P, sketch_Pn), None, None, gram_PRR if R >= 4 else None, score_PRn)
        sums = {"embedding": group_Pn[:, :12].sum(axis=0), "layers": {"mlp": {"up": group_Pn[:, 12:].sum(axis=0)}}}
        arrays = {
            "prompt": np.array([self.prompt(int(i)) for i in problem_P]),
            "problem_P": problem_P,
            "reward_PR": reward_PR,
            "is_kept_PR": is_kept_PR,
            "is_finite_PR": is_finite_PR,
            "is_effective_P": np.ptp(reward_PR, axis=1) > 0,
            "completion_length_PR": np.full((P, R), 3),
            **reading_arrays(reading),
        }
        return Chunk(arrays, GradientSums(sums, None))


@pytest.fixture
def made_up(monkeypatch, tiny_params):
    """A class of its own for a test to alter, used in place of the policy's gradients."""
    kind = type("MadeUpHere", (MadeUp,), {"n_calls": 0})
    monkeypatch.setattr(module, "ChunkMeasurement", kind)
    monkeypatch.setattr(module, "starting_params", lambda *_, **__: tiny_params)
    monkeypatch.setattr(module, "save_noise_figure", lambda result, path: None)  # half of a test's time
    return kind


def options(**change) -> Options:
    given = {
        "checkpoint": None, "n_prompts": 12, "n_rollouts": 6, "prompts_per_chunk": 5, "seed": 0, "runs": Path("runs"),
        "out": None, "cost_per_prompt": None, "cost_per_rollout": None,
    }  # fmt: skip
    return Options(**given | change)


class StopAfter(StopRequest):
    """Due when asked for the n-th time."""

    def __init__(self, n):
        super().__init__()
        self.n_left = n

    def is_due(self, *, next_s):
        self.n_left -= 1
        if self.n_left == 0:
            self.ask(143)
        return super().is_due(next_s=next_s)


def measure(config, folder, *, stop=None, said=None, **change):
    say = said.append if said is not None else lambda _: None
    result, out = measure_policy(config, options(out=folder, **change), stop=stop or StopRequest(), say=say)
    assert out == folder
    strict = json.loads((folder / "noise.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == json.loads(json.dumps(result))
    return result


def without_folder(result):
    return {name: value for name, value in result.items() if name != "folder"}


def files(folder):
    """name -> every array of a .npz file."""
    return {path.name: {name: leaf.tobytes() for name, leaf in np.load(path).items()} for path in folder.glob("*.npz")}


def test_stopped_at_any_chunk_it_goes_on_to_the_same_result(made_up, module_config, tmp_path):
    expected = measure(module_config, tmp_path / "whole")
    assert made_up.n_calls == 3
    for n in (1, 2):
        said, folder = [], tmp_path / f"stopped{n}"
        with pytest.raises(Stopped, match=f"{n} of 3 chunks are saved in {folder}") as stopped:
            measure(module_config, folder, stop=StopAfter(n))
        assert stopped.value.exit_code == 143
        made_up.n_calls = 0
        assert without_folder(measure(module_config, folder, said=said)) == without_folder(expected)
        assert made_up.n_calls == 3 - n
        assert f"going on after chunk {n} of 3" in said[1]
        assert files(folder) == files(tmp_path / "whole")


def test_a_chunk_that_the_sums_do_not_hold_is_measured_again(made_up, module_config, tmp_path):
    expected = measure(module_config, tmp_path / "whole")
    with pytest.raises(Stopped):
        measure(module_config, tmp_path / "killed", stop=StopAfter(1))
    shutil.copy(tmp_path / "whole" / "chunk_00001.npz", tmp_path / "killed")  # killed before sums.npz was written
    (tmp_path / "killed" / "sums.npz.partial").write_bytes(b"half")
    assert without_folder(measure(module_config, tmp_path / "killed")) == without_folder(expected)


def test_a_stop_in_the_last_chunk_is_no_stop(made_up, module_config, tmp_path):
    stop = StopRequest()
    stop.ask(143)
    measure(module_config, tmp_path / "m", stop=stop, prompts_per_chunk=12)


def test_a_finished_measurement_is_only_reported(made_up, module_config, tmp_path, monkeypatch):
    said, folder = [], tmp_path / "m"
    expected = measure(module_config, folder)
    monkeypatch.setattr(module, "save_noise_figure", save_noise_figure)
    made_up.n_calls = 0
    assert measure(module_config, folder, said=said) == expected
    assert (made_up.n_calls, said[1]) == (0, f"{folder}: already measured")
    assert (folder / "noise.png").read_bytes().startswith(b"\x89PNG")
    costs = measure(module_config, folder, cost_per_prompt=1.0, cost_per_rollout=0.5)
    assert costs["decompose"]["best_rollouts_by_cost"]["cost_per_prompt"] == 1.0
    assert made_up.n_calls == 0


def test_without_matplotlib_everything_but_the_figure_is_written(made_up, module_config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "save_noise_figure", save_noise_figure)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said, folder = [], tmp_path / "m"
    measure(module_config, folder, said=said)
    assert "no noise.png" in said[-1]
    assert "pip install matplotlib" in said[-1]
    assert not (folder / "noise.png").exists()


def test_chunks_of_any_size_come_to_the_same(made_up, module_config, tmp_path):
    results = [measure(module_config, tmp_path / str(n), prompts_per_chunk=n) for n in (12, 5, 1)]
    for result in results[1:]:
        for name in ("trace_cov_group", "grad_sq", "b_noise_prompts"):
            assert result["total"][name] == pytest.approx(results[0]["total"][name], rel=1e-5)
        for name in ("v_prompt", "zeta1", "zeta2"):
            expected = results[0]["decompose"][name]
            assert result["decompose"][name]["value"] == pytest.approx(expected["value"], rel=1e-5)
            assert result["decompose"][name]["ci"] == pytest.approx(expected["ci"], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"seed": 1}, None, "seed was 0 .* is 1 now"),
        ({"n_rollouts": 7}, None, "n_rollouts was 6 .* is 7 now"),
        ({"n_prompts": 13}, None, "n_prompts was 12"),
        ({"prompts_per_chunk": 4}, None, "prompts_per_chunk was 5"),
        ({}, ("sampling", "temperature", 0.5), "config.sampling.temperature was 1.0"),
        ({}, ("algo", "kl_coef", 0.1), "reference_weights was None"),
        ({}, ("noise", "sketch_width", 32), "config.noise.sketch_width was 64"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused_by_name(made_up, tiny_config, tmp_path, change, field, words):
    with pytest.raises(Stopped):
        measure(tiny_config, tmp_path / "m", stop=StopAfter(1))
    before = files(tmp_path / "m")
    if field:
        setattr(getattr(tiny_config, field[0]), *field[1:])
    with pytest.raises(NoiseFolderError, match=f"(?s){words}.*choose another --out=DIR"):
        measure(tiny_config, tmp_path / "m", **change)
    assert files(tmp_path / "m") == before


def test_another_policy_or_package_is_refused_by_name(made_up, module_config, tmp_path, monkeypatch, tiny_params):
    measure(module_config, tmp_path / "m")
    with monkeypatch.context() as patch:
        patch.setattr(
            module, "starting_params", lambda *_, **__: tiny_params | {"final_norm": 2 * tiny_params["final_norm"]}
        )
        with pytest.raises(NoiseFolderError, match=r"weights was '[0-9a-f]{16}' when"):
            measure(module_config, tmp_path / "m")
    monkeypatch.setattr(module, "package_versions", lambda: {"jax": "0.0.1"})
    with pytest.raises(NoiseFolderError, match=r"versions\.jax was '.*' when .* is '0\.0\.1' now"):
        measure(module_config, tmp_path / "m")


def test_a_chunk_too_large_for_the_memory_may_be_made_smaller(made_up, module_config, tmp_path):
    def too_large(reward_PR, *_):
        if len(reward_PR) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes\nand much more")

    made_up.change = staticmethod(too_large)
    with pytest.raises(ConfigError, match=r"memory does not hold 5 prompts .*3 bytes\); use a smaller --prompts_per_c"):
        measure(module_config, tmp_path / "m")
    measure(module_config, tmp_path / "m", prompts_per_chunk=4)  # nothing was measured with 5


def test_what_the_numbers_do_not_depend_on_may_change(made_up, tiny_config, tmp_path):
    with pytest.raises(Stopped):
        measure(tiny_config, tmp_path / "m", stop=StopAfter(1))
    tiny_config.n_updates, tiny_config.eval.n_problems, tiny_config.noise.every_updates = 8, 2, 0
    tiny_config.batch.n_rollouts = 2  # another automatic size of chunks: that of the folder is kept
    measure(tiny_config, tmp_path / "m", prompts_per_chunk=0)


def test_two_seeds_share_neither_prompts_nor_rollouts(module_config):
    parts = assemble(module_config)
    orders = [problem_order(module_config, options(seed=seed), parts).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert len({*orders[0]}) == 12
    other = copy.deepcopy(module_config)
    other.seed = 1
    assert problem_order(other, options(), parts).tolist() not in orders
    longer = problem_order(module_config, options(n_prompts=22), parts).tolist()
    assert longer[:12] == orders[0]
    assert sorted(longer) == list(range(22))


def test_of_a_task_with_stages_the_last_one_is_measured_in_its_proportions(tiny_config):
    tiny_config.task = TaskConfig(
        name="mixture", mixture=("digits", "comparison"), mixture_weights=(3.0, 1.0), operators="+", operand_max=9,
        stages=("operand_min=5", "operand_max=7"), stage_prompts=(8,),
    )  # fmt: skip
    parts = assemble(tiny_config)
    prompts = [parts.task.train_problem(i).prompt for i in problem_order(tiny_config, options(n_prompts=40), parts)]
    assert len(set(prompts)) == 40
    assert not any(digit in prompt for prompt in prompts for digit in "89")
    assert sum(prompt.startswith("Is") for prompt in prompts) == 10
    all_prompts = [parts.task.train_problem(i).prompt for i in range(parts.task.n_train)]
    n_of_stage = sum("8" not in prompt and "9" not in prompt for prompt in all_prompts)
    assert n_problems_drawn_from(parts) == n_of_stage
    with pytest.raises(ConfigError, match="that can be drawn in the proportions of its last stage"):
        check_options(options(n_prompts=n_of_stage), tiny_config, parts)


def test_a_default_folder_names_policy_size_and_seed(made_up, module_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, folder = measure_policy(module_config, options(seed=3), stop=StopRequest(), say=lambda _: None)
    assert str(folder) == "runs/tiny/noise/start_np12_nr6_s3"


def test_the_result_has_the_fields_that_the_table_and_the_figure_read(made_up, module_config, tmp_path):
    def fields(result, example):
        for name, value in example.items():
            assert name in result, name
            if isinstance(value, dict) and name not in ("per_group", "predicted") and result[name] is not None:
                fields(result[name], value)

    result = measure(module_config, tmp_path / "m", cost_per_prompt=1.0, cost_per_rollout=0.25)
    example = make_result()
    for group in example["per_group"].values():
        for name in ("effective_prompts", "n_nonfinite_rollouts", "n_nonfinite_prompts", "n_ungraded_prompts"):
            group.pop(name)
    fields(result, example)
    fields(result["per_group"]["mlp"], example["per_group"]["mlp"])
    fields(result["predicted"][0], example["predicted"][0])
    fields(measure(module_config, tmp_path / "two", n_rollouts=2), refused_result())


def test_the_grid_holds_powers_of_two_and_what_was_measured(made_up, module_config, tmp_path):
    result = measure(module_config, tmp_path / "m")
    splits = {(point["n_prompts"], point["n_rollouts"]): point for point in result["predicted"]}
    assert {p for p, _ in splits} == {1, 2, 4, 8, 12, 16}  # of 22 problems
    assert {r for _, r in splits} == {2, 4, 6, 8, 16, 32, 64}
    parts = {name: result["decompose"][name]["value"] for name in ("v_prompt", "zeta1", "zeta2")}
    v_rollout = 4 * 6 / (8 * 7) * parts["zeta1"] + 2 / (8 * 7) * parts["zeta2"]
    point = splits[4, 8]
    assert point["trace_cov"] == pytest.approx(((22 - 4) / 21 * parts["v_prompt"] + v_rollout) / 4, rel=1e-5)
    assert point["lo"] < point["trace_cov"] < point["hi"]
    # S is V_prompt + V_rollout(R), whatever the prompts
    here = parts["v_prompt"] + 4 * 4 / (6 * 5) * parts["zeta1"] + 2 / (6 * 5) * parts["zeta2"]
    assert result["total"]["trace_cov_group"] == pytest.approx(here, rel=1e-4)
    assert result["total"]["trace_cov"] == pytest.approx(here / 12, rel=1e-4)


def test_the_saved_sketches_tell_the_same_offline(made_up, module_config, tmp_path):
    result = measure(module_config, tmp_path / "m", n_prompts=20)
    chunks = [np.load(path) for path in sorted((tmp_path / "m").glob("chunk_*.npz"))]
    assert len(chunks) == 4
    sketch, reward, is_kept = (
        np.concatenate([chunk[name] for chunk in chunks]) for name in ("sketch_PRW", "reward_PR", "is_kept_PR")
    )
    found = offline_noise(
        sketch, reward, is_kept, advantages=lambda r, _: (r - r.mean(axis=1, keepdims=True)) * 6 / 5,
        n_rollouts=6, n_draws=1, seed=0,
    )  # fmt: skip
    assert found.trace_cov.value == pytest.approx(result["total"]["trace_cov_group"], rel=1e-4)
    assert found.grad_sq.value == pytest.approx(result["total"]["grad_sq"], rel=1e-4)


def no_numbers_but(tree, allowed=()):
    return [path for path, value in flat(tree) if value is not None and value != 0 and path[-1] not in allowed]


def flat(tree, path=()):
    if isinstance(tree, dict):
        return [found for name, leaf in tree.items() for found in flat(leaf, (*path, name))]
    if isinstance(tree, list):
        return [found for leaf in tree for found in flat(leaf, path)]
    return [(path, tree)]


def test_equal_rewards_are_no_gradient_and_unresolved(made_up, module_config, tmp_path):
    def equal(reward_PR, *_):
        reward_PR[:] = 1.0

    made_up.change = staticmethod(equal)
    result = measure(module_config, tmp_path / "m")
    assert result["total"]["resolved"] is False
    assert result["total"]["trace_cov_group"] == result["total"]["grad_sq"] == 0.0
    assert result["total"]["b_noise_prompts"] is None
    assert result["total"]["effective_prompts"] == 0
    assert result["decompose"]["r_star"] == {"value": None, "ci": None}
    assert no_numbers_but(result["decompose"], ("n_split_prompts",)) == []
    assert "unresolved" in noise_table(result)


@pytest.mark.parametrize("n_rollouts", [2, 3])
def test_too_few_rollouts_for_a_decomposition_still_have_a_total(made_up, module_config, tmp_path, n_rollouts):
    result = measure(module_config, tmp_path / "m", n_rollouts=n_rollouts)
    assert result["total"]["trace_cov_group"] > 0
    assert (result["decompose"], result["predicted"]) == (None, [])
    assert "--n_rollouts=4 or more" in result["decompose_refused"]
    assert "--n_rollouts=4 or more" in " ".join(noise_table(result).split())


def test_one_prompt_has_no_noise_between_prompts(made_up, module_config, tmp_path):
    result = measure(module_config, tmp_path / "m", n_prompts=1)
    assert result["total"]["trace_cov_group"] is None
    assert result["total"]["resolved"] is False
    assert (result["decompose"], result["predicted"]) == (None, [])
    assert "--n_prompts" in result["decompose_refused"]
    assert "unresolved" in noise_table(result)


def test_prompts_that_kept_too_little_for_a_decomposition_say_so(made_up, module_config, tmp_path):
    def three_left(reward_PR, is_kept_PR, *_):
        is_kept_PR[:, 3:] = False

    made_up.change = staticmethod(three_left)
    result = measure(module_config, tmp_path / "m")
    assert result["total"]["trace_cov_group"] > 0
    assert "not one prompt has 4 rollouts that were kept" in result["decompose_refused"]


def test_rollouts_that_are_not_finite_are_named(made_up, module_config, tmp_path, caplog):
    def spoil(reward_PR, is_kept_PR, is_finite_PR, first):
        if first == 5:
            is_finite_PR[1, [0, 3]] = False

    made_up.change = staticmethod(spoil)
    result = measure(module_config, tmp_path / "m")
    prompt = (
        assemble(module_config)
        .task.train_problem(int(problem_order(module_config, options(), assemble(module_config))[6]))
        .prompt
    )
    said = (
        f"the gradient of rollout(s) 0, 3 of prompt {prompt!r} is not finite; all 6 rollouts of the prompt are left out"
    )
    assert said in caplog.text
    assert result["nonfinite"] == [{"prompt": prompt, "problem": result["nonfinite"][0]["problem"], "rollouts": [0, 3]}]
    assert "1 prompts left out" in " ".join(noise_table(result).split())


def test_nothing_finite_at_all_is_an_error(made_up, module_config, tmp_path):
    def spoil(reward_PR, is_kept_PR, is_finite_PR, first):
        is_finite_PR[:, 0] = False

    made_up.change = staticmethod(spoil)
    with pytest.raises(FloatingPointError, match=r"12 of 12 are not.*the starting policy of tiny"):
        measure(module_config, tmp_path / "m")
    assert not (tmp_path / "m" / "noise.json").exists()


def fail_from(start, stop=10**6):
    def fail(reward_PR, is_kept_PR, is_finite_PR, first):
        is_bad = (np.arange(len(reward_PR)) + first >= start) & (np.arange(len(reward_PR)) + first < stop)
        reward_PR[is_bad], is_kept_PR[is_bad] = np.nan, False

    return staticmethod(fail)


def test_a_reward_that_fails_on_prompt_after_prompt_ends_it(made_up, module_config, tmp_path):
    made_up.change = fail_from(5)
    with pytest.raises(RewardError, match=r"10 prompts in a row could not be graded; 2 of 4 chunks are saved"):
        measure(module_config, tmp_path / "m", n_prompts=20)
    del made_up.change  # mended
    assert measure(module_config, tmp_path / "m", n_prompts=20)["total"]["n_ungraded_prompts"] == 5
    made_up.change = fail_from(0)
    with pytest.raises(RewardError, match="2 prompts in a row"):
        measure(module_config, tmp_path / "few", n_prompts=2)


def test_prompts_here_and_there_may_fail(made_up, module_config, tmp_path):
    made_up.change = fail_from(3, 10)
    result = measure(module_config, tmp_path / "m", prompts_per_chunk=1)
    assert (result["total"]["n_ungraded_prompts"], result["decompose"]["n_split_prompts"]) == (7, 5)
    assert "7 prompts left out: they could not be graded" in " ".join(noise_table(result).split())


@pytest.mark.parametrize("name", ["chunk_00001.npz", "sums.npz", "measurement.json"])
def test_a_file_that_cannot_be_read_is_named(made_up, module_config, tmp_path, name):
    measure(module_config, tmp_path / "m")
    path = tmp_path / "m" / name
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], bytes(len(whole))):
        path.write_bytes(damaged)
        with pytest.raises(NoiseFolderError, match=f"{path} cannot be read .*--out=DIR"):
            measure(module_config, tmp_path / "m")
    path.unlink()
    if name.startswith("chunk"):
        with pytest.raises(NoiseFolderError, match=rf"lacks {name} of its \d chunks"):
            measure(module_config, tmp_path / "m")
    if name == "measurement.json":
        with pytest.raises(NoiseFolderError, match=r"holds sums.npz but no measurement.json"):
            measure(module_config, tmp_path / "m")


def test_a_full_disk_loses_nothing(made_up, module_config, tmp_path, monkeypatch):
    expected = measure(module_config, tmp_path / "whole")
    from rlvr_jax.train import noise_folder

    original, written = noise_folder.save_arrays, []

    def full(path, arrays):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        original(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(noise_folder, "save_arrays", full)
        with pytest.raises(NoiseFolderError, match=r"writing .*m failed \(No space left on device\).*go on"):
            measure(module_config, tmp_path / "m")
    assert without_folder(measure(module_config, tmp_path / "m")) == without_folder(expected)


def test_a_folder_that_cannot_be_written_says_which_option_moves_it(made_up, module_config):
    with pytest.raises(
        RunDirectoryError, match=r"cannot write the folder /proc/nowhere .*choose another place with --out=DIR"
    ):
        measure(module_config, Path("/proc/nowhere"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"n_prompts": 23},
            "--n_prompts=23 is more than the 22 training problems of task 'digits'.*use --n_prompts=22",
        ),
        ({"n_prompts": 0}, "--n_prompts=0 must be at least 1"),
        ({"n_rollouts": 1}, "--n_rollouts=1 leaves a rollout without others.*use 2 or more, and 4 or more"),
        ({"seed": -1}, "--seed=-1 must lie in"),
        ({"seed": 2**32}, "--seed=4294967296 must lie in"),
        ({"prompts_per_chunk": -8}, "--prompts_per_chunk=-8 must be at least 1, or 0"),
        (
            {"prompts_per_chunk": 9},
            r"--prompts_per_chunk=9 cannot be shared by 8 device\(s\); use --prompts_per_chunk=16",
        ),
        ({"cost_per_prompt": 1.0}, "go together"),
        ({"cost_per_rollout": 1.0}, "go together"),
        ({"cost_per_prompt": 1.0, "cost_per_rollout": 0.0}, "--cost_per_rollout=0.0 above 0"),
        ({"cost_per_prompt": -1.0, "cost_per_rollout": 1.0}, "--cost_per_prompt=-1.0 must be 0 or more"),
        ({"cost_per_prompt": math.inf, "cost_per_rollout": 1.0}, "--cost_per_prompt=inf"),
    ],
)
def test_options_that_cannot_work_are_refused_with_the_fix(tiny_config, change, message):
    tiny_config.placement.data = 8
    parts = assemble(tiny_config)
    check_options(options(prompts_per_chunk=0), tiny_config, parts)
    with pytest.raises(ConfigError, match=message):
        check_options(options(**{"prompts_per_chunk": 0} | change), tiny_config, parts)


def test_adams_metric_needs_a_checkpoint(tiny_config):
    tiny_config.noise.optimizer_metric = True
    parts = assemble(tiny_config)
    with pytest.raises(ConfigError, match="Adam's second moment, and the starting policy has made no update yet"):
        check_options(options(), tiny_config, parts)
    check_options(options(checkpoint=Path("run")), tiny_config, parts)


@pytest.mark.parametrize(
    ("n_prompts", "n_rollouts", "n_devices", "expected"),
    [
        (256, 32, 1, 1),  # 8 x 4 rollouts in a backward pass of the config
        (12, 4, 1, 6),  # 8 would leave 4 for the second
        (20, 2, 1, 10),
        (20, 2, 8, 16),
        (3, 4, 8, 8),
        (256, 64, 1, 1),  # more than the config's pass has
    ],
)
def test_a_chunk_has_the_rollouts_of_a_backward_pass(module_config, n_prompts, n_rollouts, n_devices, expected):
    asked = options(n_prompts=n_prompts, n_rollouts=n_rollouts)
    assert chunk_prompts(module_config, asked, microbatch_prompts=8, n_devices=n_devices) == expected


def test_a_checkpoint_is_measured_in_its_run_directory(made_up, tiny_config, tiny_params, tmp_path):
    run = tmp_path / "run"
    state = initial_state(tiny_params, build_programs(tiny_config, assemble(tiny_config)).optimizer)
    checkpoints = Checkpoints(run / "checkpoints", keep_newest=3, keep_best=0)
    for n in (0, 2, 4):
        state = state.replace(n_updates=jnp.int32(n))
        checkpoints.save(state, {"update": n}, update=n, accuracy=None)
    checkpoints.close()
    tiny_config.noise.optimizer_metric = True
    seen = []
    made_up.__init__ = lambda self, config, parts, state, start, **rest: (
        seen.append(state),
        MadeUp.__init__(self, config, parts, state, start, **rest),
    )[1]
    for checkpoint, update in ((run, 4), (run / "checkpoints" / "2", 2)):
        result, folder = measure_policy(
            tiny_config, options(checkpoint=checkpoint), stop=StopRequest(), say=lambda _: None
        )
        assert folder == run / "noise" / f"np12_nr6_u{update}_s0"
        assert (result["policy"], result["update"]) == (f"{checkpoint}, update {update}", update)
        assert int(seen[-1].n_updates) == update
    with pytest.raises(CheckpointError, match="neither a run directory nor a folder of its checkpoints/"):
        measure_policy(tiny_config, options(checkpoint=tmp_path), stop=StopRequest(), say=lambda _: None)
    with pytest.raises(CheckpointError, match="has no complete checkpoint of update 3; it has"):
        measure_policy(
            tiny_config, options(checkpoint=run / "checkpoints" / "3"), stop=StopRequest(), say=lambda _: None
        )
    with pytest.raises(ConfigError, match="checkpoints/0 has made no update yet"):
        measure_policy(
            tiny_config, options(checkpoint=run / "checkpoints" / "0"), stop=StopRequest(), say=lambda _: None
        )
