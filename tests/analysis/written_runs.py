"""Run directories written by hand, as small as readers allow."""

import json


def write_run(
    root, *, point, split=(8, 4), seed=0, accuracies=(0.2, 0.4, 0.8), noise=(), status="finished", study="study",
    updates_per_step=2, more=None, **config,
):  # fmt: skip
    """A run evaluated every 2 updates; one metrics row per evaluation but the first. Returns its folder.

    Args:
        accuracies: pass@1 from update 0 on; None leaves that number out.
        noise: columns of the first rows of metrics.
        more: of run.json.
        config: fields in place of the usual ones; one that is None is left out.
    """
    n_prompts, n_rollouts = split
    folder = root / point
    folder.mkdir(parents=True)
    config = {
        "study": study, "point": "", "seed": seed, "batch.n_prompts": n_prompts, "batch.n_rollouts": n_rollouts,
        "batch.minibatch_prompts": n_prompts // updates_per_step, "batch.epochs_per_buffer": 1,
        "task.name": "digits", "eval.target_metric": "pass@1", "eval.targets": [0.6], "eval.k": [1, 4],
        "eval.n_problems": 64, "eval.every_updates": 2, "n_updates": 4, "optimizer.peak_lr": 1e-3,
    } | config  # fmt: skip
    config = {name: value for name, value in config.items() if value is not None}
    plan = {"rollouts_per_step": n_prompts * n_rollouts, "updates_per_step": updates_per_step}
    run = {"status": status, "study": study, "point": point, "config": config, "plan": plan} | (more or {})
    (folder / "run.json").write_text(json.dumps(run))

    def counters(update):
        rollouts = update // updates_per_step * n_prompts * n_rollouts
        return {"update": update, "rollouts": rollouts, "seconds": 1.5 * update}

    name = f"eval/{config['task.name']}"
    evals = []
    for i, accuracy in enumerate(accuracies):
        row = counters(2 * i)
        if accuracy is not None:
            row |= {f"{name}/greedy": accuracy + 0.05, f"{name}/pass@1": accuracy, f"{name}/pass@4": accuracy + 0.1}
        evals.append(row)
    noise = [*noise, *[{}] * len(accuracies)]
    metrics = [counters(2 * i) | {"loss/total": 0.5 * i} | noise[i - 1] for i in range(1, len(accuracies))]
    write_rows(folder / "evals.jsonl", evals)
    write_rows(folder / "metrics.jsonl", metrics)
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
