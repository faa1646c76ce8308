"""Teacher and repair in the configuration: every mistake is one line that names the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvid.config import ConfigError, load

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
CHAT = ("teacher.kind=chat", "teacher.model=m", "teacher.base_url=http://host:8000/v1")


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(QUICKSTART, overrides)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_defaults_are_the_methods():
    config = load(QUICKSTART)
    repair = config.repair
    assert (repair.enabled, repair.kappa, repair.alpha, repair.choice) == (False, 0.3, 0.2, "always")
    assert repair.trigger == {"multiple_choice": 1.0, "open": 0.5, "numeric": 1.0, "regression": 0.5, "math": 1.0, "grounded_qa": 1.0}
    assert (repair.visual_evidence, repair.max_evidence_frames, repair.blind_test, repair.max_per_group) == (True, 4, False, None)
    assert config.teacher.kind == "none" and config.teacher.with_ground_truth


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["repair.enabled=true"], ["repair.enabled needs a teacher", "teacher.kind"]),
        (["repair.alpha=0.31"], ["repair.alpha (0.31)", "repair.kappa (0.3)", "lower alpha"]),
        (["repair.kappa=0.1"], ["repair.alpha (0.2)", "repair.kappa (0.1)"]),
        (["repair.kappa=.nan"], ["repair.kappa"]),
        (["repair.kappa=-1", "repair.alpha=-2"], ["repair.kappa"]),
        (["repair.choice=best"], ["repair.choice"]),
        (["repair.max_per_group=0"], ["repair.max_per_group"]),
        (["repair.trigger=0"], ["repair.trigger"]),
        (["repair.trigger=2"], ["repair.trigger"]),
        (["repair.trigger={open: 0.5, numerc: 1}"], ["repair.trigger", "'numerc'", "numeric"]),
        (["repair.trigger={open: 1.5}"], ["repair.trigger"]),
        (["teacher.kind=gpt"], ["teacher.kind"]),
        (["teacher.kind=chat"], ["teacher.model"]),
        (["teacher.kind=engine"], ["teacher.model"]),
        (["teacher.kind=chat", "teacher.model=m"], ["teacher.base_url", "http://"]),
        ([*CHAT, "teacher.base_url=host:8000"], ["teacher.base_url"]),
        ([*CHAT, "teacher.base_url=https://user:pass@host/v1"], ["teacher.base_url", "without user or password"]),
        ([*CHAT, "teacher.api_key_env=sk-0123"], ["teacher.api_key_env", "name of an environment variable"]),
        ([*CHAT, "teacher.overview_frames=30"], ["teacher.overview_frames (30)", "teacher.max_frames (24)"]),
        ([*CHAT, "teacher.max_turns=0"], ["teacher.must_look", "teacher.max_turns"]),
        (["teacher.kind=engine", "teacher.model=m", "teacher.num_gpus=2"], ["teacher.num_gpus (2)", "teacher.tensor_parallel (1)"]),
        (["teacher.kind=engine", "teacher.model=m", "teacher.max_tokens=20000"], ["teacher.max_tokens", "teacher.max_model_len"]),
        (["teacher.colour=red"], ["unknown key teacher.colour"]),
    ],
)
def test_refusals(overrides, words):
    message = refusal(*overrides)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("overrides", [["repair.enabled=true", "teacher.kind=annotation"], ["repair.enabled=true", *CHAT], ["repair.alpha=0.3"]])
def test_what_goes_together(overrides):
    load(QUICKSTART, overrides)


def test_a_trigger_is_a_number_or_one_per_task():
    one, some = (load(QUICKSTART, [f"repair.trigger={value}"]).repair for value in ("0.7", "{regression: 0.9, temporal_grounding: 0.3}"))
    assert one.trigger == 0.7 and [one.trigger_of(task, options=False) for task in ("open", "temporal_grounding")] == [0.7, 0.5]
    assert [some.trigger_of(task, options=False) for task in ("regression", "temporal_grounding", "open", "grounded_qa")] == [0.9, 0.3, 0.5, 0.5]
    assert some.trigger_of("grounded_qa", options=True) == 1.0


def test_shipped_files_hold_the_known_settings():
    ffr = load(ROOT / "configs" / "ffr_qwen2_5_vl_7b.yaml")
    assert (ffr.rollout.answers, ffr.rollout.temperature, ffr.rollout.top_p, ffr.video.frames, ffr.video.max_pixels) == (8, 1.0, 0.95, 16, 128 * 28 * 28)
    assert (ffr.learner.lr, ffr.loss.kl_coef, ffr.repair.kappa, ffr.repair.enabled) == (5e-6, 0.04, 0.3, True)
    both = load(ROOT / "configs" / "strive_ffr_qwen2_5_vl_7b.yaml")
    assert both.variants_per_question == 4 and both.repair.enabled and both.repair.max_per_group == 8 and both.advantage.group == "joint"
