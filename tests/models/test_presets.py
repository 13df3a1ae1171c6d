"""Published sizes, against the number of parameters that the models' pages name."""

import pytest

from rlvr_jax.models.hf_config import FAMILIES, hf_model
from rlvr_jax.models.presets import PRESETS
from rlvr_jax.models.spec import parameter_count

# Worked by hand: table (twice where the head is another), then per layer attention, mlp, norms; the final norm.
COUNTS = {
    # 100352*2048 = 205,520,896 twice; 4*2048^2 + 3*2048*8192 + 4*2048 = 67,117,056, 16 times; 2048
    "olmo2-1b": 2 * 205_520_896 + 16 * 67_117_056 + 2_048,  # 1,484,916,736
    # 151936*896 = 136,134,656; q, o 2*896^2, k, v 2*896*128, biases 896+2*128, mlp 3*896*4864, norms 2*896
    # = 1,605,632 + 229,376 + 1,152 + 13,074,432 + 1,792 = 14,912,384, 24 times; 896
    "qwen2.5-0.5b": 136_134_656 + 24 * 14_912_384 + 896,  # 494,032,768
    # 151936*1536 = 233,373,696; 2*1536^2 + 2*1536*256 + 1536+2*256 + 3*1536*8960 + 2*1536
    # = 4,718,592 + 786,432 + 2,048 + 41,287,680 + 3,072 = 46,797,824, 28 times; 1536
    "qwen2.5-1.5b": 233_373_696 + 28 * 46_797_824 + 1_536,  # 1,543,714,304
    # 151936*1024 = 155,582,464; heads 16*128 = 2048 wide, keys 8*128 = 1024: 2*1024*2048 + 2*1024*1024 + 2*128
    # + 3*1024*3072 + 2*1024 = 4,194,304 + 2,097,152 + 256 + 9,437,184 + 2,048 = 15,730,944, 28 times; 1024
    "qwen3-0.6b": 155_582_464 + 28 * 15_730_944 + 1_024,  # 596,049,920
    # 151936*2048 = 311,164,928; 2*2048*2048 + 2*2048*1024 + 2*128 + 3*2048*6144 + 2*2048
    # = 8,388,608 + 4,194,304 + 256 + 37,748,736 + 4,096 = 50,336,000, 28 times; 2048
    "qwen3-1.7b": 311_164_928 + 28 * 50_336_000 + 2_048,  # 1,720,574,976
    # 128256*2048 = 262,668,288; 2*2048^2 + 2*2048*512 + 3*2048*8192 + 2*2048
    # = 8,388,608 + 2,097,152 + 50,331,648 + 4,096 = 60,821,504, 16 times; 2048
    "llama3.2-1b": 262_668_288 + 16 * 60_821_504 + 2_048,  # 1,235,814,400
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert parameter_count(hf_model(PRESETS[name].config).spec) == COUNTS[name]


def test_the_sums_by_hand_are_the_published_totals():
    assert list(COUNTS.values()) == [
        1_484_916_736, 494_032_768, 1_543_714_304, 596_049_920, 1_720_574_976, 1_235_814_400,
    ]  # fmt: skip


def test_every_family_has_a_preset():
    assert {preset.config["model_type"] for preset in PRESETS.values()} == set(FAMILIES)
    assert all(preset.hub_id.count("/") == 1 for preset in PRESETS.values())
