"""The plan's numbers: by hand for a published model, against real tensors, files and arrays for a small one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.shapes import QWEN_7B as PUBLISHED
from rlvid.config import Config, ConfigError, load
from rlvid.families import FAMILIES, named
from rlvid.plan.advice import advice
from rlvid.plan.model_size import ModelSize, Tower, model_size
from rlvid.plan.rates import Rates, measured, step_time
from rlvid.plan.reckoning import (
    DEVICE_BYTES,
    GIB,
    Assumed,
    Tokens,
    activation_bytes,
    cache_bytes_per_token,
    checkpoint_bytes,
    count_tokens,
    frames_bytes,
    layer_bytes,
    learner_bytes,
    prompt_room,
    reckon,
    shared_row_bytes,
    start_bytes,
    state_bytes,
)
from rlvid.plan.report import run

QWEN_7B = ModelSize(
    family=named("qwen2_5_vl"),
    parameters=8_292_166_656,
    vision_parameters=676_550_144,
    vocabulary=152_064,
    text=Tower(layers=28, hidden=3584, attention=3584, key_value=512, inner=18944),
    vision=Tower(layers=32, hidden=1280, attention=1280, key_value=1280, inner=3420),
    key_value_heads=4,
    patch=14,
    merge=2,
    frames_per_token=2,
)
ROOT = Path(__file__).parents[2]


def strive(*overrides: str) -> Config:
    return load(ROOT / "configs/strive_qwen2_5_vl_7b.yaml", list(overrides))


def save_config(folder: Path, config: object) -> str:
    config.save_pretrained(folder)  # type: ignore[attr-defined]
    (folder / "model.safetensors").touch()
    return str(folder)


def qwen_7b_config() -> object:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(text_config=PUBLISHED["text_config"], vision_config=PUBLISHED["vision_config"])


# --- by hand


def test_the_published_size_comes_out(tmp_path: Path) -> None:
    """8,292,166,656 is what the released Qwen2.5-VL-7B has; the positions are transformers' own where a configuration does not say."""
    assert model_size(save_config(tmp_path, qwen_7b_config())) == replace(QWEN_7B, longest=32_768)


def test_tokens_by_hand() -> None:
    """32 frames are 16 pairs of 128 tokens; Q x K x M = 8 x 4 x 8."""
    tokens = count_tokens(strive(), QWEN_7B, Assumed(text_tokens=152))
    assert (tokens.visual, tokens.prompt, tokens.rollouts) == (2048, 2200, 256)
    assert tokens.sampled == 256 * 1024
    assert tokens.learned == 32 * 2200 + 256 * 1024
    assert tokens.learned_without_sharing == 256 * (2200 + 1024)
    assert (tokens.micro_batch, tokens.micro_batch_prompts, tokens.micro_batches) == (2200 + 8 * 1024, 1, 8)
    packed = count_tokens(strive("rollout.max_tokens=64"), QWEN_7B, Assumed(text_tokens=152))
    assert (packed.micro_batch_prompts, packed.micro_batches) == (6, 2), "16,384 // (2,200 + 512)"


def test_images_by_hand() -> None:
    """An image of 512 x 28 x 28 pixels is 512 tokens, a video here 2,048. The question that needs most counts."""
    assert count_tokens(strive("image.most=3"), QWEN_7B, Assumed()).visual == 2048 + 3 * 512, "both in one question, where nothing else is known"
    assert count_tokens(strive("image.most=3", "video.most=2"), QWEN_7B, Assumed()).visual == 2 * 2048 + 3 * 512
    mixed = Assumed(text_tokens=152, shows=((1, 0), (0, 1), (0, 5), (1, 1), (0, 0)))
    found = count_tokens(strive("image.most=5"), QWEN_7B, mixed)
    assert (found.visual, found.prompt) == (5 * 512, 5 * 512 + 152)
    assert count_tokens(strive("image.max_pixels=50176"), QWEN_7B, mixed).visual == 2048 + 64, "64 tokens an image: now the video with one"
    assert count_tokens(strive(), QWEN_7B, Assumed(text_tokens=152, shows=((0, 0),))).prompt == 152, "text alone"
    frames, stills = 32 * 128 * 28 * 28 * 3, 512 * 28 * 28 * 3
    assert frames_bytes(strive(), QWEN_7B, Assumed(shows=((1, 2),))) == 8 * 4 * (frames + 2 * stills)
    assert count_tokens(strive("video.max_tokens=3000"), QWEN_7B, Assumed(text_tokens=152, shows=((1, 2),))).prompt == 3000 + 152


def test_images_are_counted_in_the_question_files(tmp_path: Path) -> None:
    base = {"question": "?", "task": "open", "answer": "x"}
    media = [{"video": "a.mp4"}, {"image": ["a.png"] * 6}, {}, {"media": [{"video": "a.mp4"}, {"image": "a.png"}]}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"id": str(at), **base, **shown}) + "\n" for at, shown in enumerate(media)) + "no json\n")
    model = save_config(tmp_path, qwen_7b_config())
    settings = [f"model.path={model}", f"data.train={tmp_path / 'q.jsonl'}", "data.eval=null", "rollout.num_gpus=0", "learner.num_gpus=0"]
    report = run(strive(*settings), Assumed())
    assert report["shown"] == {"videos": 0, "images": 6} and report["plan"]["tokens"]["visual"] == 6 * 512
    assert report["assumed"]["shows"] == ((0, 0), (0, 6), (1, 0), (1, 1))
    few = run(strive(*settings, "video.max_tokens=2500"), Assumed())
    assert any("a question of 0 video(s) and 6 image(s)" in line and "it would be quarantined" in line for line in few["advice"])


def test_states_by_stage() -> None:
    """2 + 2 + 12 bytes a parameter, divided by the 4 ranks from stage 1 (optimizer), 2 (gradients), 3 (weights) on; sums in float32 add theirs to gradients."""
    parameters = QWEN_7B.parameters
    expected = {1: (2, 2, 12 / 4), 2: (2, 2 / 4, 12 / 4), 3: (2 / 4, 2 / 4, 12 / 4)}
    for stage, per_parameter in expected.items():
        found = state_bytes(strive(f"learner.zero_stage={stage}"), QWEN_7B)
        assert found["gradients"] == pytest.approx({1: 2 + 4, 2: 4 / 4, 3: 4 / 4}[stage] * parameters)
        found = state_bytes(strive(f"learner.zero_stage={stage}", "learner.accumulate=bfloat16"), QWEN_7B)
        for part, bytes_ in zip(("weights", "gradients", "optimizer"), per_parameter, strict=True):
            assert found[part] == pytest.approx(bytes_ * parameters), (stage, part)
    frozen = state_bytes(strive("model.freeze_vision=true"), QWEN_7B)
    assert frozen["optimizer"] == 12 * (parameters - QWEN_7B.vision_parameters) // 4
    assert state_bytes(strive("learner.offload_optimizer=true"), QWEN_7B)["optimizer"] == 0


def test_a_rank_reads_the_whole_model_first() -> None:
    piece = 2 * QWEN_7B.vocabulary * QWEN_7B.text.hidden
    for kl, copies in ((0, 1), (0.04, 2)):
        peak = start_bytes(strive(f"loss.kl_coef={kl}", "learner.zero_stage=3", "learner.ranks=4"), QWEN_7B)
        assert peak["host"] == 2 * piece, "one piece at a time, as stored and in the model's dtype"
        assert peak["gpu"] == copies * (2 * QWEN_7B.parameters // 4) + piece


def test_parts_that_a_setting_adds() -> None:
    tokens = count_tokens(strive(), QWEN_7B, Assumed())
    plain, with_kl = learner_bytes(strive(), QWEN_7B, tokens), learner_bytes(strive("loss.kl_coef=0.01"), QWEN_7B, tokens)
    assert plain["reference policy"] == 0 and with_kl["reference policy"] == 2 * QWEN_7B.parameters // 4, "divided among the ranks of ZeRO 3"
    assert plain["device"] == DEVICE_BYTES
    assert sum(learner_bytes(strive("learner.gradient_checkpointing=false"), QWEN_7B, tokens).values()) > 2 * sum(plain.values())


def test_cache_by_hand() -> None:
    """2 x 28 layers x 4 heads x 128 x 2 bytes; two GPUs share the heads, eight cannot cut one."""
    assert cache_bytes_per_token(strive(), QWEN_7B) == 57_344
    assert cache_bytes_per_token(strive("rollout.tensor_parallel=2", "rollout.num_gpus=2"), QWEN_7B) == 57_344 // 2
    assert cache_bytes_per_token(strive("rollout.tensor_parallel=8", "rollout.num_gpus=8"), QWEN_7B) == 57_344 // 4
    found = reckon(strive(), QWEN_7B, Assumed(gpu_memory_gib=80))
    assert sum(found.engine.values()) == int(0.85 * 80 * GIB)
    assert found.cache_tokens == found.engine["key-value cache"] // 57_344
    assert found.cache_tokens_wanted == 8 * (2048 + 200) + 64 * 1024


def test_sequence_parallel_divides_what_a_micro_batch_takes() -> None:
    """Two ranks to a row: half of the activations and logits, but for keys and values of one layer; bytes between them by hand."""
    settings = ["learner.ranks=8", "learner.micro_batch_tokens=1"]
    alone, shared = strive(*settings), strive(*settings, "learner.sequence_parallel=2")
    tokens, halves = (count_tokens(config, QWEN_7B, Assumed()) for config in (alone, shared))
    assert halves.micro_batch == tokens.micro_batch and halves.micro_batches == 2 * tokens.micro_batches
    gathered = 2 * 512 * halves.micro_batch * (2 * 2 + 8)
    assert activation_bytes(shared, QWEN_7B, halves) - gathered == pytest.approx(activation_bytes(alone, QWEN_7B, tokens) / 2, rel=1e-3)
    answers = 8 * 1024 * 2 * (2 * 2 * 3584 + 4)
    assert shared_row_bytes(shared, QWEN_7B, halves) == (28 * 2 * 512 * halves.micro_batch * (3 * 2 + 4) + answers) // 2


def test_sequence_parallel_is_advised_where_nothing_else_helps() -> None:
    """It fits then, by the plan's own reckoning."""
    settings = ["learner.ranks=8", "video.frames=1024", "video.candidates=1024", "video.max_tokens=80000", "rollout.max_model_len=90000"]
    limit, config = Assumed(gpu_memory_gib=32), strive(*settings)
    lines = list(advice(config, QWEN_7B, limit, reckon(config, QWEN_7B, limit)))
    (line,) = (line for line in lines if "learner.sequence_parallel=" in line)
    told = strive(*settings, *(word for word in line.split() if word.startswith("learner.")))
    assert sum(reckon(told, QWEN_7B, limit).learner.values()) <= 0.9 * 32 * GIB
    assert not any("no setting helps" in line for line in lines)


def test_qwen3_writes_timestamps(tmp_path: Path) -> None:
    from transformers import Qwen3VLConfig

    size = model_size(save_config(tmp_path, Qwen3VLConfig()))
    assert size.factor == 32 and size.text.query_key_norm and not size.vision.gated
    assert count_tokens(strive(), size, Assumed(text_tokens=100)).prompt == 16 * 98 + 16 * 16 + 100


# --- against the real thing


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_that_a_forward_keeps(tmp_path: Path, family: str, dtype: str) -> None:
    import torch

    model, size = small_model(tmp_path, family, dtype)
    visual, text, answers, length = 36, 500, 5, 64
    tokens = Tokens(0, visual, 0, 0, 0, 0, 0, micro_batch=visual + text, micro_batch_prompts=1, micro_batches=1)
    for checkpointing in (False, True):
        settings = {"gradient_checkpointing": checkpointing}
        rollout = {"answers": answers, "max_tokens": length}
        parts = {"run": {"name": "r"}, "model": {"path": "m", "dtype": dtype}, "data": {"train": "t"}}
        config = Config.model_validate(parts | {"learner": settings, "rollout": rollout})
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        kept = kept_bytes(model, size, tokens, getattr(torch, dtype), [length] * answers)
        reckoned = activation_bytes(config, size, tokens)
        if checkpointing:  # the layer that is computed again is not there yet
            reckoned -= max(each for _, each in layer_bytes(config, size, tokens))
        assert reckoned == pytest.approx(kept, rel=0.15), (checkpointing, reckoned / kept)


def small_model(folder: Path, family: str, dtype: str) -> tuple[object, ModelSize]:
    import torch
    from transformers import AutoModelForImageTextToText

    text = {"hidden_size": 256, "intermediate_size": 700, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 500}
    text["rope_parameters"] = {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [4, 6, 6]}
    vision = {"depth": 4, "hidden_size": 128, "intermediate_size": 300, "num_heads": 4, "out_hidden_size": 256}
    vision |= {"patch_size": named(family).patch, "temporal_patch_size": 2, "spatial_merge_size": 2}
    config = named(family).tiny_config(text, vision, {key: 3 + number for number, key in enumerate(named(family).media_keys)})
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.train(), model_size(save_config(folder, config))


def kept_bytes(model: object, size: ModelSize, tokens: Tokens, dtype: object, answers: list[int]) -> int:
    """Storage of all tensors that autograd keeps in one forward pass over a packed row, parameters apart."""
    import torch

    from rlvid.learner.attention import attention_arguments, set_attention

    length, visual = tokens.micro_batch, tokens.visual
    ids = torch.cat([torch.full((visual,), getattr(model.config, size.family.frame_key)), torch.randint(10, 400, (length - visual,))])[None]
    inputs = {
        "input_ids": ids,
        "position_ids": torch.arange(length).expand(3, 1, length).contiguous(),
        **attention_arguments([[length - sum(answers), *answers]], "sdpa", torch.device("cpu"), dtype),  # type: ignore[arg-type]
        "pixel_values_videos": torch.randn(visual * 4, 3 * size.frames_per_token * size.patch**2).to(dtype),  # type: ignore[call-overload]
        "video_grid_thw": torch.tensor([[4, 6, 6]]),
    }
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}  # type: ignore[attr-defined]
    kept: dict[int, object] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    set_attention(model, "sdpa")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(**inputs, use_cache=False)  # type: ignore[attr-defined]
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())  # type: ignore[attr-defined]


def test_parameters_are_those_of_the_tiny_model(tmp_path: Path) -> None:
    model, size = small_model(tmp_path, "qwen2_5_vl", "float32")
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())  # type: ignore[attr-defined]
    assert size.vision_parameters == sum(parameter.numel() for parameter in model.model.visual.parameters())  # type: ignore[attr-defined]


def test_a_checkpoint_takes_what_a_real_one_did() -> None:
    """DeepSpeed's two shards of a model of 665,792 parameters, float32, ZeRO 1, one rank: 2,682,265 and 7,998,227 bytes."""
    config = Config.model_validate({"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t"}})
    size = ModelSize(**{**vars(QWEN_7B), "parameters": 665_792})
    assert checkpoint_bytes(config, size) == pytest.approx(2_682_265 + 7_998_227, rel=0.01)


def test_frames_are_as_big_as_those_that_are_cut(tmp_path: Path) -> None:
    from rlvid.variants.build import cut
    from rlvid.variants.explore import explore
    from rlvid.video.clip import read_candidates, shown_size
    from tests.unit.clips import make

    overrides = ["video.frames=8", "video.candidates=16", "video.max_pixels=7056", "data.questions_per_step=1"]
    config = strive(*overrides, "variants.kinds=[uniform, random_jitter, random_crop]")
    path = str(tmp_path / "clip.mp4")
    make(path, size=(168, 168))

    def size_for(height: int, width: int) -> tuple[int, int]:
        return shown_size(height, width, max_pixels=config.video.max_pixels, factor=28)

    clip = read_candidates(path, candidates=16, clip=None, size_for=size_for)
    kinds = config.variants.kinds
    specs = explore(kinds, times_s_N=clip.times_s_N, frames=8, size=size_for(clip.height, clip.width), question_id="q", seed=0, min_crop_area=0.9)
    frames: list[np.ndarray] = [cut(clip, spec) for spec in specs]
    assert frames_bytes(config, QWEN_7B) == sum(array.nbytes for array in frames)


# --- time


def test_time_by_hand() -> None:
    tokens = Tokens(100, 80, 10, 8, sampled=8000, learned=6000, learned_without_sharing=0, micro_batch=1, micro_batch_prompts=1, micro_batches=1)
    time = step_time(strive(), tokens, Rates(engine_tokens_per_s=1000, learner_tokens_per_s=500, sync_s=0.5))
    assert (time.rollout_s, time.learn_s, time.step_s, time.overlapped_s) == (2.0, 3.0, 5.5, 3.5)
    assert time.bottleneck == "learner"
    assert step_time(strive("loss.passes=2"), tokens, Rates(1000, 500)).learn_s == 6.0


def test_rates_of_a_run_give_its_own_time_back(tmp_path: Path) -> None:
    _, size = small_model(tmp_path / "model", "qwen2_5_vl", "float32")
    tree = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text()) | {"model": {"path": str(tmp_path / "model")}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    row = {"time/learn_s": 2.0, "time/rollout_s": 1.0, "time/sync_s": 0.25, "rollout/answer_tokens": 2560.0, "rollout/answer_tokens_mean": 10.0}
    rows = [{"step": 0}, *({"step": step} | row for step in range(1, 6))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rates, answer = measured(tmp_path, 15)
    assert answer == 10 and rates.engine_tokens_per_s == 2560
    config = load(tmp_path / "config.yaml")
    time = step_time(config, count_tokens(config, size, Assumed(text_tokens=15, answer_tokens=10)), rates)
    assert time.step_s == pytest.approx(3.25)
    assert run(config, Assumed(text_tokens=15), measured_run=tmp_path)["time"]["step_s"] == pytest.approx(3.25)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "time/learn_s": 2.0}) + "\n" for step in range(5)))
    with pytest.raises(ConfigError, match="steps without rollout/answer_tokens_mean"):
        measured(tmp_path, 15)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="too few to measure"):
        measured(tmp_path, 15)


# --- advice


@pytest.mark.parametrize(
    ("overrides", "memory", "words"),
    [
        (["learner.zero_stage=1", "learner.gradient_checkpointing=false"], 80, "set learner.gradient_checkpointing=true"),
        (["learner.zero_stage=1"], 48, "set learner.zero_stage=3"),
        ([], 32, "set learner.offload_optimizer=true"),
        ([], 8, "no setting helps: add learner.ranks"),
        ([], 16, "raise rollout.tensor_parallel"),
        (["rollout.max_sequences=2048"], 80, "pushed back and computed again"),
        (["rollout.max_model_len=65536"], 36, "it would not start; raise rollout.tensor_parallel"),
        (["rollout.max_sequences=8", "rollout.engines=2"], 80, "K x M = 32 answers of one question do not fit the 16 places"),
        (["rollout.max_sequences=256"], 80, "half of them stay empty"),
        (["data.questions_per_step=1", "rollout.engines=8"], 80, "8 engines share 4 variants"),
        (["video.max_pixels=200704"], 80, "lower video.max_pixels to 125440 or raise video.max_tokens"),
        (["rollout.max_model_len=3600"], 80, "too_long"),
        (["learner.micro_batch_tokens=4096"], 80, "more than learner.micro_batch_tokens (4,096)"),
        (["cluster.object_store_gib=0.5"], 80, "cluster.object_store_gib is 0.5: raise it"),
        ([], 80, "fits with learner.zero_stage=2"),
    ],
)
def test_advice_names_the_setting(overrides: list[str], memory: float, words: str) -> None:
    if words == "too_long":
        words = "do not fit rollout.max_model_len (3,600)"
        assumed = Assumed(memory, text_tokens=600)
    else:
        assumed = Assumed(memory)
    config = strive(*overrides)
    lines = list(advice(config, QWEN_7B, assumed, reckon(config, QWEN_7B, assumed)))
    assert any(words in line for line in lines), lines


def test_following_the_advice_quiets_it() -> None:
    config = strive("learner.zero_stage=3", "learner.gradient_checkpointing=true", "learner.offload_optimizer=true")
    assumed = Assumed(32)
    assert not [line for line in advice(config, QWEN_7B, assumed, reckon(config, QWEN_7B, assumed)) if "learner rank" in line]


def test_the_longest_prompt_of_an_engine_by_hand() -> None:
    """Qwen2.5-VL: 16 pairs of up to 128 tokens and no times; Qwen3-VL: a pair of 24 tokens and 16 of its time."""
    assert prompt_room(strive("rollout.max_model_len=8192", "rollout.max_tokens=1024"), QWEN_7B, Assumed()) == {"tokens": 7168, "visual": 6912, "frames": 108}
    long = load(ROOT / "configs/strive_long_qwen3_vl_8b.yaml", ["rollout.max_model_len=32768", "rollout.max_tokens=1024"])
    size = ModelSize(**{**vars(QWEN_7B), "family": named("qwen3_vl"), "patch": 16})
    pairs = (32768 - 1024 - 200) // (24 + named("qwen3_vl").timestamp_tokens)
    assert prompt_room(long, size, Assumed()) == {"tokens": 31744, "visual": 24 * pairs, "frames": 2 * pairs} and 2 * pairs >= 1024


# --- wrong input


def test_a_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"config\.json of nobody/nothing is not in the local Hugging Face cache \(fetch it with"):
        model_size("nobody/nothing")


def test_half_a_rate_is_wrong_input(tmp_path: Path) -> None:
    path = save_config(tmp_path, qwen_7b_config())
    with pytest.raises(ConfigError, match="give both"):
        run(strive(f"model.path={path}"), Assumed(), stated=(100.0, None))
    assert run(strive(f"model.path={path}"), Assumed())["time"] is None


@pytest.mark.parametrize("rates", [(-5.0, 10.0), (5.0, float("nan")), (0.0, 1.0), (float("inf"), 1.0)])
def test_rates_that_are_none(tmp_path: Path, rates: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        run(strive(f"model.path={save_config(tmp_path, qwen_7b_config())}"), Assumed(), stated=rates)


def test_a_config_without_weights_is_enough(tmp_path: Path) -> None:
    path = save_config(tmp_path, qwen_7b_config())
    (tmp_path / "model.safetensors").unlink()
    assert model_size(path).parameters == QWEN_7B.parameters
    with pytest.raises(ConfigError, match="must be a number of GiB"):
        run(strive(f"model.path={path}"), Assumed(gpu_memory_gib=float("inf")))


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"hidden_size": "big"}, {"num_hidden_layers": -1}, {"vocab_size": None}])
def test_numbers_that_make_no_model(tmp_path: Path, change: dict[str, object]) -> None:
    path = save_config(tmp_path, qwen_7b_config())
    tree = json.loads((tmp_path / "config.json").read_text())
    tree["text_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"model\.path: "):
        model_size(path)
