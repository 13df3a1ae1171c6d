"""The pictures of a study, and what each shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlvr_jax.analysis.conclusions import Conclusions
from rlvr_jax.analysis.figures import gns_comparison, runs_comparison
from rlvr_jax.analysis.iso_batch_figure import iso_batch_figure, split_sizes
from rlvr_jax.analysis.law_figure import law_figure
from rlvr_jax.analysis.noise_check import check_noise
from rlvr_jax.analysis.noise_over_training import B_NOISE_FILE, PARTS, noise_part_figure, noise_scale_figure
from rlvr_jax.analysis.noise_series import study_noise
from rlvr_jax.analysis.pass_at_k_figure import measured_ks, pass_at_k_at_the_end, pass_at_k_over_training
from rlvr_jax.analysis.predict_figure import noise_check_figure, predicted_figure
from rlvr_jax.analysis.study import Study

CURVES_FILE, NOISE_FILE = "runs_comparison.png", "gns_comparison.png"


@dataclass(frozen=True)
class StudyFigure:
    """One PNG."""

    path: Path
    title: str
    caption: str  # what is drawn, and the runs behind it
    is_wide: bool = False  # two panels beside each other


def study_figures(study: Study, conclusions: Conclusions, folder: Path) -> list[StudyFigure]:
    """Writes every picture that the study has the data for into `folder`, and lists them in reading order.

    Raises ModuleNotFoundError without matplotlib.
    """
    import matplotlib  # noqa: F401  # said once, before anything is written

    figures = [
        *_laws(conclusions, folder),
        *_splits(study, folder),
        *_predicted(study, conclusions, folder),
        *_curves(study, folder),
        *_noise(study, folder),
    ]
    for figure in figures:
        _store_by_palette(figure.path)
    return figures


def _store_by_palette(path: Path) -> None:
    """A PNG of at most 256 colours in a third of the bytes: a page holds a dozen of them."""
    from PIL import Image  # comes with matplotlib

    with Image.open(path) as image:
        few = image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, format="PNG", optimize=True)


def _laws(conclusions: Conclusions, folder: Path) -> Iterator[StudyFigure]:
    fits = [fit for fit in conclusions.fits if fit.fit.points]
    for i, group in enumerate(dict.fromkeys(fit.group for fit in fits)):
        of_group = [fit for fit in fits if fit.group == group]
        path = folder / f"law_{conclusions.unit}{f'_{i + 1}' if i else ''}.png"
        law_figure(of_group, path, unit=conclusions.unit)
        runs = {point.observation.run for fit in of_group for point in fit.fit.points}
        yield StudyFigure(
            path,
            "The law" + (f", {group}" if group else ""),
            f"{'Updates' if conclusions.unit == 'update' else 'Steps'} (left) and examples (right) to each target over "
            f"the batch size; {len(runs)} runs; learning rate: {conclusions.learning_rate or 'not recorded'}.",
            is_wide=True,
        )


def _splits(study: Study, folder: Path) -> Iterator[StudyFigure]:
    for i, group in enumerate(study.groups):
        sizes = split_sizes([o for o in study.observations if o.group == group])
        if not sizes:
            continue
        path = folder / f"iso_batch{f'_{i + 1}' if i else ''}.png"
        iso_batch_figure(sizes, path, unit=study.unit)
        n_runs = len({o.run for of_size in sizes.values() for o in of_size})
        yield StudyFigure(
            path,
            "One batch size, split in different ways" + (f", {group}" if group else ""),
            f"{'Updates' if study.unit == 'update' else 'Steps'} to each target; a dot is a run, lines join geometric "
            f"means, an open triangle is a run that ended there without reaching the target; {n_runs} runs.",
            is_wide=len(sizes) > 2,
        )


def _predicted(study: Study, conclusions: Conclusions, folder: Path) -> Iterator[StudyFigure]:
    path = folder / "predicted_critical_batch.png"
    if conclusions.predicted_rows and predicted_figure(conclusions.predicted_rows, path, steps=conclusions.steps_rows):
        yield StudyFigure(
            path,
            "Critical batch, predicted and fitted",
            f"From gradient noise on the way to each target, and from the {conclusions.unit}s it took; bars: "
            f"{conclusions.confidence:.0%} intervals; crosses at the foot: unresolved.",
        )
    check = check_noise(
        study_noise(study.records), study.observations, unit=study.unit, confidence=conclusions.confidence
    )
    path = folder / "predicted_noise.png"
    if check is not None and noise_check_figure(check, path):
        runs = {run for point in check.points for run in point.runs}
        yield StudyFigure(
            path,
            "Noise of other splits, predicted and measured",
            f"From {len(check.source_runs)} run(s) of {check.source_prompts} x {check.source_rollouts}, for the splits "
            f"of {len(runs)} other runs, over the same stretches of accuracy; "
            f"bars: {conclusions.confidence:.0%} intervals.",
        )


def _curves(study: Study, folder: Path) -> Iterator[StudyFigure]:
    points, who = study.points, _who(study)
    if not points:
        return
    runs_comparison(points, folder / CURVES_FILE)
    yield StudyFigure(
        folder / CURVES_FILE,
        "Accuracy over training",
        f"Mean over seeds, band from the lowest to the highest; {who}.",
    )
    ks = measured_ks(points)
    metric = points[0].runs[0].record.config["eval.target_metric"]
    for k in ks:
        if f"pass@{k}" != metric:  # which is the figure above
            path = folder / f"pass_at_{k}.png"
            pass_at_k_over_training(points, path, k=k)
            yield StudyFigure(
                path, f"pass@{k} over training", f"Mean over seeds, band from the lowest to the highest; {who}."
            )
    if len(ks) > 1:
        path = folder / "pass_at_k.png"
        pass_at_k_at_the_end(points, path, ks=ks)
        yield StudyFigure(
            path,
            "pass@k at the end",
            f"Unbiased pass@k of the last evaluation, mean and range over seeds; dashed: before training; {who}.",
        )


def _noise(study: Study, folder: Path) -> Iterator[StudyFigure]:
    points, who = study.points, _who(study)
    if not points:
        return
    gns_comparison(points, folder / NOISE_FILE)
    yield StudyFigure(
        folder / NOISE_FILE,
        "Noise-to-signal of every point",
        "S / (|G|² n_prompts), a ratio of averages over training; above 1 the batch gradient is mostly noise. "
        f"Bars: 95% jackknife interval; {who}.",
    )
    path = folder / B_NOISE_FILE
    lacking = noise_scale_figure(points, path)
    if len(lacking) < len(points):
        yield StudyFigure(
            path,
            "Noise scale over training",
            "Ratios of averages over windows of training, all seeds of a point together, with 95% intervals; crosses "
            f"at the foot: unresolved there. {_without(lacking, 'not measured')}{who}.",
        )
    for field, name, title, axis in PARTS:
        path = folder / name
        lacking = noise_part_figure(points, path, field=field, title=title, axis=axis)
        if len(lacking) < len(points):
            why = "not told apart (it takes 4 rollouts per prompt)" if field != "grad_sq" else "not measured"
            yield StudyFigure(
                path,
                title[0].upper() + title[1:],
                f"{axis}: averages over windows of training, all seeds of a point together, with 95% intervals; "
                f"crosses at the foot: not above 0 there. {_without(lacking, why)}{who}.",
            )


def _who(study: Study) -> str:
    """ "33 runs: 11 points, 3 seeds each"."""
    seeds = sorted({len(point.runs) for point in study.points}) or [0]
    each = f"{seeds[0]} seed(s) each" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds each"
    return f"{sum(len(point.runs) for point in study.points)} runs: {len(study.points)} points, {each}"


def _without(names: list[str], why: str) -> str:
    return f"{why[0].upper()}{why[1:]}: {', '.join(names)}. " if names else ""
