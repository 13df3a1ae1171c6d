"""Chunks of a large noise measurement against slow loops, and against each other."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from slow_noise import slow_scale, slow_split

from rlvr_jax.models.chunked_head import ALL_AT_ONCE
from rlvr_jax.tasks.arithmetic import DigitArithmetic
from rlvr_jax.train import config as c
from rlvr_jax.train import noise_chunk
from rlvr_jax.train.assemble import assemble, root_key
from rlvr_jax.train.batch import batch_without_advantages
from rlvr_jax.train.loss import build_rollout_logprobs, is_trained_token
from rlvr_jax.train.measure_noise import adam_metric
from rlvr_jax.train.noise_folder import NoiseFolder
from rlvr_jax.train.noise_pass import noise_loss
from rlvr_jax.train.noise_summary import Measured, noise_summary
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.programs import build_programs, policy_logprobs
from rlvr_jax.train.state import initial_state

R = 5
PROBLEMS_P = np.array([3, 0, 7, 21, 12, 5, 18, 9])
TASK = DigitArithmetic(operators="+", operand_min=0, operand_max=4)  # of the tiny config
N_KEPT_P = np.array([5, 5, 4, 3, 1, 0, 5, 5])  # of 5 rollouts each


@pytest.fixture(scope="module")
def build(module_config, tiny_params):
    """A ChunkMeasurement of the tiny policy; rollouts that `poison` marks have a gradient that is not a number."""

    def poisonable(*args, **options):
        logprobs = policy_logprobs(*args, **options)

        def rollout_logprobs(params, batch):
            logprob_PRT, entropy_PRT = logprobs(params, batch)
            return jnp.where(batch.behavior_logprob_PRT[..., :1] > 0.5, jnp.nan, 1.0) * logprob_PRT, entropy_PRT

        return rollout_logprobs

    def built(*, chunk_prompts, seed=0, config=module_config, state=None):
        parts = assemble(config)
        state = state or initial_state(tiny_params, build_programs(config, parts).optimizer)
        state, start = jax.device_put((state, tiny_params), replicated(parts.mesh))
        sizes = {"chunk_prompts": chunk_prompts, "n_rollouts": R}
        return noise_chunk.ChunkMeasurement(config, parts, state, start, **sizes, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_chunk, "policy_logprobs", poisonable)
        yield built


@pytest.fixture(scope="module")
def by_three(build):
    return build(chunk_prompts=3)


@pytest.fixture
def collections(monkeypatch):
    """Those that are measured from here on; a function in `changes` changes each of them before."""
    seen, original = [], noise_chunk.collected

    def collected(*args, **options):
        collection = original(*args, **options)
        for change in collected.changes:
            collection = change(collection)
        seen.append(collection)
        return collection

    collected.changes = []
    collected.seen = seen
    monkeypatch.setattr(noise_chunk, "collected", collected)
    return collected


def keep(n_kept_P, problem_P=PROBLEMS_P):
    """Keeps the first few rollouts of each prompt."""
    n_kept = {TASK.train_problem(int(i)).prompt: n for i, n in zip(problem_P, n_kept_P, strict=True)}

    def change(collection):
        kept_PR = np.stack([np.arange(R) < n_kept[problem.prompt] for problem in collection.problems])
        return dataclasses.replace(collection, is_kept_PR=collection.is_kept_PR & kept_PR)

    return change


def measured(measure, folder, *, size, problem_P=PROBLEMS_P):
    """noise.json of the prompts in chunks of `size`, and what is on disk."""
    folder.mkdir()
    disk = NoiseFolder(folder, {}, remarks={})
    for first in range(0, len(problem_P), size):
        disk.add(*measure(problem_P[first : first + size], first))
    of = Measured("toy", len(problem_P), R, n_problems=22, has_other_terms=False, costs=None)
    return noise_summary(of, disk.arrays(), disk.sums, measure.metric), disk


def numbers(tree, path=()):
    """{path: number} of a result."""
    if isinstance(tree, dict):
        return {k: v for name, leaf in tree.items() for k, v in numbers(leaf, (*path, name)).items()}
    if isinstance(tree, list):
        return {k: v for i, leaf in enumerate(tree) for k, v in numbers(leaf, (*path, i)).items()}
    return {path: tree} if isinstance(tree, (int, float)) else {}


def assert_same(got, expected):
    got, expected = numbers(got), numbers(expected)
    assert got.keys() == expected.keys()
    for path, value in expected.items():
        is_direct = path[-1] in ("trace_cov_group", "grad_sq")  # the others are differences and ratios of such
        assert got[path] == pytest.approx(value, rel=1e-5 if is_direct else 1e-3, abs=1e-7), path


def logprobs_of(config):
    parts = assemble(config)
    return build_rollout_logprobs(
        parts.spec, temperature=1.0, compute_dtype=jnp.float32, remat="none", head_plan=ALL_AT_ONCE
    )


@pytest.fixture(scope="module")
def scores(module_config, tiny_params):
    """f64[P, R, n] of a collection, by autodiff of one rollout's log-probability after the other."""
    logprobs = logprobs_of(module_config)

    @jax.jit
    def gradient(prompt, r):
        def logprob(params):
            return jnp.where(is_trained_token(prompt), logprobs(params, prompt)[0], 0.0)[0, r].sum()

        return jax.grad(logprob)(tiny_params)

    def score_PRn(collection) -> np.ndarray:
        batch = batch_without_advantages(collection)
        prompts = [jax.tree.map(lambda leaf, p=p: leaf[p : p + 1], batch) for p in range(len(collection.problems))]
        return np.stack([np.stack([flat(gradient(prompt, r)) for r in range(R)]) for prompt in prompts])

    return score_PRn


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def slow_groups(score_PRn, reward_PR, is_kept_PR):
    """f64[P, n], -1/R_x sum over the kept of (r_j - mean of the others) s_j."""
    out = np.zeros((len(reward_PR), score_PRn.shape[-1]))
    for p, is_kept_R in enumerate(is_kept_PR):
        kept = np.flatnonzero(is_kept_R)
        for j in kept[len(kept) == 1 :]:
            others = [float(reward_PR[p, k]) for k in kept if k != j]
            out[p] -= (float(reward_PR[p, j]) - np.mean(others)) / len(kept) * score_PRn[p, j]
    return out


def test_groups_of_unequal_size_over_chunks_equal_slow_loops(by_three, collections, scores, tmp_path):
    collections.changes.append(keep(N_KEPT_P))
    result, disk = measured(by_three, tmp_path / "m", size=3)
    seen = collections.seen
    is_kept_PR = np.concatenate([collection.is_kept_PR for collection in seen])
    reward_PR = np.concatenate([collection.reward_PR for collection in seen])
    score_PRn = np.concatenate([scores(collection) for collection in seen])
    assert 0.2 < reward_PR.mean() < 0.9  # else there is nothing to see
    np.testing.assert_array_equal(is_kept_PR.sum(axis=1), N_KEPT_P)
    # one kept rollout has no others to be compared with
    S, grad_sq = slow_scale(slow_groups(score_PRn, reward_PR, is_kept_PR), N_KEPT_P >= 2)
    assert result["total"]["trace_cov_group"] == pytest.approx(S, rel=1e-5)
    assert result["total"]["trace_cov"] == pytest.approx(S / 8, rel=1e-5)
    assert result["total"]["grad_sq"] == pytest.approx(grad_sq, rel=1e-4)
    (v_prompt, zeta1, zeta2), n_split = slow_split(score_PRn, reward_PR, is_kept_PR, grad_sq)
    assert result["decompose"]["n_split_prompts"] == n_split == 5
    for name, value in (("v_prompt", v_prompt), ("zeta1", zeta1), ("zeta2", zeta2)):
        assert result["decompose"][name]["value"] == pytest.approx(value, rel=1e-4), name
    arrays = disk.arrays()
    assert arrays["prompt"].tolist() == [problem.prompt for collection in seen for problem in collection.problems]
    np.testing.assert_array_equal(arrays["problem_P"], PROBLEMS_P)
    np.testing.assert_array_equal(arrays["is_kept_PR"], is_kept_PR)
    np.testing.assert_array_equal(arrays["reward_PR"], reward_PR)


def test_chunks_and_devices_change_nothing(by_three, build, module_config, tmp_path):
    expected, disk = measured(by_three, tmp_path / "three", size=3)
    config = copy.deepcopy(module_config)
    config.placement.data = 8
    result, other = measured(build(chunk_prompts=8, config=config), tmp_path / "devices", size=8)
    assert_same(result, expected)
    for got, wanted in zip(jax.tree.leaves(other.sums), jax.tree.leaves(disk.sums), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    for parts in zip(*[q_of(one["decompose"], one["total"]) for one in (result, expected)], strict=True):
        assert parts[0] == pytest.approx(parts[1], rel=1e-5)


def q_of(parts, total):
    """(q0, q1, q2) of a decomposition."""
    q0 = parts["v_prompt"]["value"] + total["grad_sq"]
    return q0, q0 + parts["zeta1"]["value"], q0 + parts["zeta2"]["value"]


def test_everything_that_offline_evaluation_needs_is_in_a_chunk(by_three, collections, scores):
    arrays, _ = by_three(PROBLEMS_P[:2], 0)
    W = arrays["sketch_PRW"].shape[2]
    assert arrays["sketch_PRW"].shape == (2, R, W)
    assert arrays["completion_length_PR"].shape == (2, R)
    gram_PRR = sum(leaf for name, leaf in arrays.items() if name.startswith("gram/"))
    score_PRn = scores(collections.seen[0])
    np.testing.assert_allclose(gram_PRR, score_PRn @ score_PRn.transpose(0, 2, 1), rtol=1e-4, atol=1e-4)
    group_PW = sum(leaf for name, leaf in arrays.items() if name.startswith("loss/sketch/"))
    weight_PR = collections.seen[0].reward_PR - collections.seen[0].reward_PR.mean(axis=1, keepdims=True)
    expected_PW = -np.einsum("pr,prw->pw", weight_PR / (R - 1), arrays["sketch_PRW"])
    np.testing.assert_allclose(group_PW, expected_PW, atol=1e-5 * np.abs(expected_PW).max())
    assert all(len(leaf) == 2 for leaf in arrays.values())


def tokens(collections):
    return np.concatenate([collection.rollouts.completion_PRT for collection in collections.seen])


def test_rollouts_depend_on_the_seed_and_the_place_in_the_measurement_alone(
    by_three, build, collections, module_config
):
    by_three(PROBLEMS_P[:3], 0)
    by_three(PROBLEMS_P[3:5], 3)
    expected_PRT = tokens(collections)
    for measure, is_same in ((by_three, True), (build(chunk_prompts=3, seed=1), False)):
        collections.seen.clear()
        measure(PROBLEMS_P[:2], 0)
        measure(PROBLEMS_P[2:5], 2)
        assert np.array_equal(tokens(collections), expected_PRT) == is_same
    own = jax.random.fold_in(root_key(module_config.seed, "noise"), 0)  # a run's own draws would be no second look
    np.testing.assert_array_equal(jax.random.key_data(by_three._key), jax.random.key_data(own))


def poison(*places):
    """Marks rollouts by a place that the noise does not look at: a log-probability above 0 of the sampler."""
    marked = [(TASK.train_problem(int(PROBLEMS_P[p])).prompt, r) for p, r in places]

    def change(collection):
        behavior_PRT = np.array(collection.rollouts.behavior_logprob_PRT)
        for p, problem in enumerate(collection.problems):
            for r in range(R):
                if (problem.prompt, r) in marked:
                    behavior_PRT[p, r, 0] = 1.0
        return dataclasses.replace(collection, rollouts=collection.rollouts.replace(behavior_logprob_PRT=behavior_PRT))

    return change


@pytest.mark.parametrize(
    "places",
    [[(4, 2)], [(6, 0), (6, 3)], [(0, 1), (2, 1)], [(3, 0), (4, 0), (5, 0)]],
    ids=["one", "the one that fills the last chunk up", "two groups", "a whole chunk"],
)
def test_a_group_with_a_gradient_that_is_not_finite_is_left_out_and_named(by_three, collections, places, tmp_path):
    collections.changes.append(poison(*places))
    result, disk = measured(by_three, tmp_path / "poisoned", size=3)
    bad = sorted({p for p, _ in places})
    n_kept_P = np.where(np.isin(np.arange(8), bad), 0, R)
    collections.changes[:] = [keep(n_kept_P)]
    expected, without = measured(by_three, tmp_path / "without", size=3)
    arrays = disk.arrays()
    np.testing.assert_array_equal(np.argwhere(~arrays["is_finite_PR"]), sorted(places))
    np.testing.assert_array_equal(arrays["is_kept_PR"].sum(axis=1), n_kept_P)
    assert all(np.isfinite(leaf).all() for leaf in arrays.values() if leaf.dtype.kind == "f")
    for got, wanted in zip(jax.tree.leaves(disk.sums), jax.tree.leaves(without.sums), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    assert result["total"]["n_nonfinite_rollouts"] == len(places)
    assert result["total"]["n_nonfinite_prompts"] == len(bad)
    assert [found["problem"] for found in result["nonfinite"]] == [PROBLEMS_P[p] for p in bad]
    assert [found["rollouts"] for found in result["nonfinite"]] == [[r for p, r in places if p == b] for b in bad]
    for one in (result, expected):
        one.pop("nonfinite")
        for name in ("n_nonfinite_rollouts", "n_nonfinite_prompts"):
            one["total"].pop(name)
    assert_same(result, expected)


def test_a_rollout_that_is_not_kept_may_not_poison_the_others_either(by_three, collections):
    collections.changes += [poison((0, 4)), keep([4, 5, 5], PROBLEMS_P[:3])]
    arrays, sums = by_three(PROBLEMS_P[:3], 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sums))
    assert not arrays["is_kept_PR"][0].any()
    np.testing.assert_array_equal(arrays["is_finite_PR"].sum(axis=1), [4, 5, 5])


def test_prompts_that_cannot_be_graded_are_left_out_and_said(by_three, collections, caplog, tmp_path):
    def fail(collection):
        prompts = [problem.prompt for problem in collection.problems]
        is_bad_P = np.array([prompt in bad for prompt in prompts])
        reward_PR = np.where(is_bad_P[:, None], np.float32(np.nan), collection.grades.reward_PR)
        failures = tuple(
            f"reward mine on prompt {p}: no" for p, is_bad in zip(prompts, is_bad_P, strict=True) if is_bad
        )
        return dataclasses.replace(
            collection,
            grades=dataclasses.replace(collection.grades, reward_PR=reward_PR, failures=failures),
            is_kept_PR=np.isfinite(reward_PR),
        )

    bad = {TASK.train_problem(int(i)).prompt for i in PROBLEMS_P[6:]}  # all of the last chunk
    collections.changes.append(fail)
    result, _ = measured(by_three, tmp_path / "failing", size=3)
    assert "2 of 2 prompts could not be graded and are left out: reward mine on prompt" in caplog.text
    assert (result["total"]["n_ungraded_prompts"], result["total"]["n_kept_rollouts"]) == (2, 6 * R)
    collections.changes[:] = [keep(np.where(np.arange(8) < 6, R, 0))]
    expected, _ = measured(by_three, tmp_path / "without", size=3)
    result["total"].pop("n_ungraded_prompts")
    expected["total"].pop("n_ungraded_prompts")
    assert_same(result, expected)


def test_a_kl_penalty_is_to_the_starting_policy_and_adams_metric_of_the_checkpoint(
    build, collections, module_config, tiny_params, tmp_path
):
    config = copy.deepcopy(module_config)
    config.algo, config.noise.optimizer_metric = c.AlgoConfig(kl_coef=0.5), True
    state = moved_state(config, tiny_params)
    measure = build(chunk_prompts=3, config=config, state=state)
    collections.changes.append(keep(N_KEPT_P))
    result, disk = measured(measure, tmp_path / "kl", size=3)
    logprobs, groups = jax.jit(logprobs_of(config)), []
    gradient = jax.jit(jax.grad(lambda params, batch: noise_loss(logprobs, config.algo)(params, batch)[0]))
    for collection in collections.seen:
        batch = batch_without_advantages(collection)
        n_P1 = np.maximum(collection.is_kept_PR.sum(axis=1, keepdims=True), 2)
        mean_P1 = np.where(collection.is_kept_PR, collection.reward_PR, 0).sum(axis=1, keepdims=True) / n_P1
        advantage_PR = (collection.reward_PR - mean_P1) * n_P1 / (n_P1 - 1)
        batch = batch.replace(
            reference_logprob_PRT=logprobs(tiny_params, batch)[0],
            loo_advantage_PR=np.where(collection.is_kept_PR, advantage_PR, 0).astype(np.float32),
        )
        for p in range(len(collection.problems)):
            groups.append(flat(gradient(state.params, jax.tree.map(lambda leaf, p=p: leaf[p : p + 1], batch))))
    metric_n = flat(adam_metric(state, b2=config.optimizer.b2, eps=config.optimizer.eps))
    for found, group_Pn in ((result["total"], np.stack(groups)), (result["adam"], metric_n * np.stack(groups))):
        S, grad_sq = slow_scale(group_Pn, N_KEPT_P >= 2)  # a KL penalty alone is no group's gradient
        assert found["trace_cov_group"] == pytest.approx(S, rel=1e-4)
        assert found["grad_sq"] == pytest.approx(grad_sq, rel=1e-3)
    assert disk.sums.policy is not None
    assert any(name.startswith("policy/sq_norm/") for name in disk.arrays())


def moved_state(config, params):
    """A state some updates later, in which no parameter is as before."""
    optimizer = build_programs(config, assemble(config)).optimizer
    state = initial_state(params, optimizer)

    @jax.jit
    def update(state):
        grads = jax.tree.map(lambda x: jnp.sin(x.size + jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params_after = optax.apply_updates(state.params, jax.tree.map(lambda u: 100 * u, updates))
        return state.replace(n_updates=state.n_updates + 1, params=params_after, opt_state=opt_state)

    return update(update(state))
