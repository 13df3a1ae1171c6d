"""One evaluation on the held-out set: greedy, and samples of each problem."""

from collections.abc import Callable

from rlvr_jax.models.spec import Params
from rlvr_jax.sampling.rollout import Sampler
from rlvr_jax.tasks.problem import Grades
from rlvr_jax.train.assemble import Parts, root_key
from rlvr_jax.train.config import EvalConfig, SamplingConfig
from rlvr_jax.train.draw_rollouts import build_policy_sampler, draw_rollouts
from rlvr_jax.train.evaluation_metrics import evaluation_metrics
from rlvr_jax.train.placement import replicated
from rlvr_jax.train.processes import on_host, placed
from rlvr_jax.train.shared_grading import graded

Evaluator = Callable[[Params], dict[str, float]]


def build_evaluator(config: EvalConfig, parts: Parts, sampling: SamplingConfig) -> Evaluator:
    """Returns `evaluate(params) -> {"eval/<task>/greedy": ..., "eval/<task>/pass@1": ..., "..._se": ...}`.

    The first `n_problems` held-out problems, always the same ones with the same draws, so that two
    evaluations differ by the policy alone.
    """
    problems = [parts.task.heldout_problem(i) for i in range(config.n_problems or parts.task.n_heldout)]
    key = placed(root_key(config.seed, "evaluation"), replicated(parts.mesh))

    def sampler(n_rollouts: int, temperature: float) -> Sampler:
        return build_policy_sampler(parts, sampling, n_rollouts=n_rollouts, temperature=temperature)

    greedy_sampler, sampled_sampler = sampler(1, 0.0), sampler(config.n_samples, config.temperature)

    def grades(params: Params, one_sampler: Sampler, *, n_rollouts: int) -> Grades:
        counters = range(len(problems))
        rollouts = draw_rollouts(one_sampler, params, problems, counters, key, parts, sampling, n_rollouts=n_rollouts)
        return graded(parts.task, problems, on_host(rollouts), parts.tokenizer)[1]

    def evaluate(params: Params) -> dict[str, float]:
        prefix = f"eval/{parts.task.name}/"
        greedy_grades = grades(params, greedy_sampler, n_rollouts=1)
        sampled_grades = grades(params, sampled_sampler, n_rollouts=config.n_samples)
        metrics = evaluation_metrics(problems, greedy_grades, sampled_grades, k=config.k)
        return {prefix + name: value for name, value in metrics.items()}

    return evaluate
