"""Writes tests/models/golden: a small random checkpoint of each architecture and what transformers computes with it.

    python tests/models/make_golden.py        (needs the extra `parity`)

Seeds are tried until the two best tokens of every greedy step are far enough apart for any order of summation.
"""

import json
import shutil
from pathlib import Path

from hf_cases import CONFIGS, random_tokens, random_torch_model, read_in_float32, torch_answers
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden"
DTYPES = {"llama": "bfloat16", "qwen2": "float32", "qwen3": "float16", "olmo2": "bfloat16"}
IN_SHARDS = "llama"
SMALLEST_GAP = 3e-3


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, config in CONFIGS.items():
        for seed in range(100):
            model = random_torch_model(config, seed=seed, dtype=DTYPES[name])
            folder = GOLDEN / name
            model.save_pretrained(folder, max_shard_size="8KB" if name == IN_SHARDS else "1GB")
            # its fields as the test spells them: transformers writes the newer spelling of rotary settings only
            (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": DTYPES[name]}, indent=1) + "\n")
            # read again: a model that was turned to half precision has its rotary frequencies rounded too
            answers = torch_answers(read_in_float32(folder), random_tokens(seed))
            if answers["smallest_gap"][0] > SMALLEST_GAP:
                break
            shutil.rmtree(folder)
        else:
            raise RuntimeError(f"{name}: no seed has a gap above {SMALLEST_GAP}")
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file(answers, folder / "answers.safetensors")
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: seed {seed}, smallest gap {answers['smallest_gap'][0]:.4f}, {size} bytes, {answers['greedy']}")


if __name__ == "__main__":
    main()
