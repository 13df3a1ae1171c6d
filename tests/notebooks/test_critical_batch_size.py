import base64
import re
from pathlib import Path

import pytest

from rlvr_jax.analysis.compare_laws import compare_laws
from rlvr_jax.analysis.fit_targets import fit_targets
from rlvr_jax.analysis.law_text import law_text
from rlvr_jax.analysis.noise_series import study_noise
from rlvr_jax.analysis.predict import predict
from rlvr_jax.analysis.predicted_words import prediction_table
from rlvr_jax.analysis.study import read_study

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "critical_batch_size.ipynb"


@pytest.fixture(scope="module")
def study():
    return read_study([ROOT / "notebooks" / "small_study"])


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after every cell was run in a kernel of its own."""
    import nbclient
    import nbformat
    from jupyter_client import AsyncKernelManager

    folder = tmp_path_factory.mktemp("kernel")
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    kernel.connection_file = str(folder / "kernel.json")
    notebook = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=120, resources={"metadata": {"path": str(ROOT)}})
    return client.execute(env={"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "HOME": str(folder)})


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text(notebook):
    """What all cells printed or returned as text or markdown."""
    found = []
    for output in outputs(notebook):
        data = output.get("data", {})
        found.append(output.get("text", "") + data.get("text/markdown", ""))
    return "\n".join(found)


def test_every_cell_runs(executed):
    assert {output.output_type for output in outputs(executed)} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs(executed) if output.get("name") == "stderr"]
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")


def test_its_numbers_are_the_librarys(executed, study):
    shown = text(executed)
    assert law_text(fit_targets(study.observations), unit="update") in shown
    target = study.targets[-1]
    comparison = compare_laws([seen for seen in study.observations if seen.target == target])
    assert f"- {target:g}: {comparison.verdict}" in shown
    predictions = [one for one in predict(study_noise(study.records), study.observations) if one.metric == "gradient"]
    assert prediction_table(predictions[-1:]) in shown


def test_it_is_kept_with_the_outputs_it_has(executed):
    """Otherwise: jupyter execute --inplace notebooks/critical_batch_size.ipynb"""
    import nbformat

    kept = nbformat.read(NOTEBOOK, 4)
    kinds = [
        [[sorted(o.get("data", o)) for o in cell.get("outputs", [])] for cell in nb.cells] for nb in (kept, executed)
    ]
    assert kinds[0] == kinds[1]
    law, table = ([numbers_of_law(nb, i) for nb in (kept, executed)] for i in (0, -1))
    assert len(law[0]) > 10
    assert law[0] == pytest.approx(law[1], rel=0.02)  # other versions of scipy may turn a last digit
    assert table[0] == pytest.approx(table[1], rel=0.02)


def numbers_of_law(notebook, index):
    """Of the first (0) or last (-1) table that law_text printed."""
    printed = [output.text for output in outputs(notebook) if "B_noise, rollouts |" in output.get("text", "")][index]
    lines = [line for line in printed.splitlines() if re.match(r"\| (all|\d)", line)]
    return [float(number) for line in lines for number in re.findall(r"\d+\.?\d*", line)]


def test_the_kept_one_names_no_machine_and_is_small():
    source = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)\b", re.sub(r'"image/png": "[^"]*"', "", source))
    assert len(source) < 1_500_000
    import nbformat

    pictures = [
        output.data["image/png"]
        for output in outputs(nbformat.reads(source, 4))
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 5
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_the_shipped_study_is_small_and_whole(study):
    files = [file for file in (ROOT / "notebooks" / "small_study").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 1_500_000
    assert not [record.folder for record in study.records if not record.is_finished]
    assert len({(record.n_prompts, record.n_rollouts) for record in study.records}) >= 5
