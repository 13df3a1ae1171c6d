"""Studies for tests of the page: run directories written by hand, with all the text that a page must survive."""

import gzip
import json

from written_runs import write_run

STUDY_NAME = 'a <b>bold</b> & "quoted" study'
SCRIPT = "<script>window.ran = true; console.error('ran')</script>"
HOSTILE = [  # completions
    SCRIPT,
    '"><img src=http://leak.example/x.png onerror="window.ran = true">',
    "</pre></td></table><h1 id=escaped>out of its cell</h1>",
    "{{ 7 * 7 }} {% for x in y %} ${7*7}",
    "bell \x07 escape \x1b[31m zero \x00 backspace \x08",
    "half a character \ud83d here",
    "override \u202egnp.exe\u202c and שלום \u200f mark",
    "<style>body { display: none }</style><link rel=stylesheet href=http://leak.example/a.css>",
    "x" * 1_000_000,
    "unbroken" * 60,
]


def write_completions(folder, completions, *, update=4, more=()):
    """rollouts.jsonl.gz with two rollouts of each prompt; the second one must not be shown. `more`: rows before."""
    rows = list(more)
    for i, completion in enumerate(completions):
        row = {"table": "completions", "update": update, "prompt": f"prompt {i} <i>", "answer": "4 & 5"}
        rows.append(row | {"completion": completion, "reward": 0.5 * (i % 3), "is_truncated": i % 2 == 1})
        rows.append(row | {"completion": "a second rollout", "reward": 0.0, "is_truncated": False})
    rows.append({"table": "prompts", "update": update, "prompt": "p", "n_groups": 1})
    with gzip.open(folder / "rollouts.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def write_hostile_study(root):
    """Four points of one seed, at 3 batch sizes of which one is split in two ways; noise measured; hostile text."""
    noise = [{"gns/trace_cov": 16.0 + i, "gns/grad_sq": 1.0, "gns/prompt_var": 2.0, "gns/zeta1": 1.0, "gns/zeta2": 8.0}
             for i in range(4)]  # fmt: skip
    ends = {
        (8, 4): (0.2, 0.35, 0.5, 0.65, 0.7),
        (16, 4): (0.2, 0.4, 0.62, 0.7, 0.8),
        (8, 8): (0.2, 0.5, 0.65, 0.7, 0.8),
    }
    ends |= {(32, 4): (0.2, 0.55, 0.7, 0.8, 0.85)}
    for i, ((n_prompts, n_rollouts), accuracies) in enumerate(ends.items()):
        folder = write_run(
            root, point=f"np{n_prompts}_nr{n_rollouts} <i>&", split=(n_prompts, n_rollouts), accuracies=accuracies,
            noise=noise, study=STUDY_NAME, n_updates=8, updates_per_step=1,
            more={"git_revision": "<u>0123abc</u>", "versions": {"python": "3.11"}},
        )  # fmt: skip
        write_completions(folder, HOSTILE[3 * i : 3 * i + 3])
    return root
