"""The quickstart's world: real clips, true evidence, the same bytes twice, a cache that knows its recipe, two models that load."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rlvid.algo import rewards
from rlvid.data.questions import check, iter_questions
from rlvid.families import FAMILIES, named
from rlvid.video.clip import read_candidates
from rlvid.world import scenes, tiny_model, warm_start
from rlvid.world.scenes import COLOURS, KINDS, World, build_world

TRAIN, HELD_OUT = 24, 6
KEYS = {"id", "video", "question", "task", "options", "answer", "spans", "evidence", "source"}
"""What a question of the world may say; it says no more than it has."""


def small(folder: Path, **other) -> World:
    """25 clips, 30 questions, an untrained model."""
    sizes = {"train_questions": TRAIN, "eval_questions": HELD_OUT, "warm_start": False, "progress": False}
    return build_world(folder, **(sizes | other))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def clip_of(path: str | Path):
    return read_candidates(str(path), candidates=1000, clip=None, size_for=lambda *size: size)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return small(tmp_path_factory.mktemp("quickstart") / "world")


@pytest.fixture(scope="module")
def processor(world):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(world.model)


def test_the_questions_are_whole_balanced_and_held_out_on_other_clips(world):
    train, held_out = rows_of(world.train), rows_of(world.eval)
    assert all(set(row) <= KEYS and set(row) >= {"id", "video", "question", "task", "source", "evidence"} for row in train + held_out)
    assert check(world.train).ok and check(world.eval).ok
    assert Counter(row["source"] for row in train) == dict.fromkeys(KINDS, TRAIN // len(KINDS))
    for kind in ("colour", "direction", "first", "count", "grounded_qa"):
        asked = [row for row in train if row["source"] == kind]
        assert {row["answer"] for row in asked} == set(asked[0]["options"])
    assert not {row["video"] for row in train} & {row["video"] for row in held_out}


def test_the_clips_decode_at_their_rate_and_size(world):
    for row in rows_of(world.train):
        clip = clip_of(world.train.parent / row["video"])
        assert clip.frames_NHWC.shape == (scenes.DURATION_S * scenes.FPS, *world.frame_size, 3)
        assert clip.fps == scenes.FPS and clip.times_s_N[1] == 1 / scenes.FPS


def colourful(frame_HWC: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels that look like one of the things' colours rather than the backdrop."""
    distance = np.abs(frame_HWC[:, :, None].astype(int) - np.array(list(COLOURS.values()))).max(-1)
    return distance.min(-1) < 40


def test_the_spans_are_when_the_things_are_seen(world):
    for question in iter_questions(world.train):
        clip = clip_of(question.video)
        seen = np.array([colourful(frame).sum() > 20 for frame in clip.frames_NHWC])
        spans = question.evidence.spans
        assert seen.tolist() == [any(start <= time_s < end for start, end in spans) for time_s in clip.times_s_N], question.id
        if question.task != "multiple_choice":
            assert question.spans == spans[:1]


def test_the_boxes_hold_the_colour_that_is_asked_for(world):
    for question in iter_questions(world.train):
        clip = clip_of(question.video)
        regions = question.evidence.regions
        if question.source == "first":  # of its two things the first answers
            regions = tuple(region for region in regions if region.time_s < question.evidence.spans[0][1])
        assert regions
        for region in regions:
            frame = clip.frames_NHWC[round(region.time_s * scenes.FPS)]
            x1, y1, x2, y2 = np.multiply(region.box, 84)
            middle = frame[round((y1 + y2) / 2), round((x1 + x2) / 2)]
            assert colourful(middle[None, None]).all(), (question.id, region)
            if question.answer in COLOURS:
                assert np.abs(middle - np.array(COLOURS[question.answer])).max() < 40, (question.id, region)


def test_a_mover_moves_the_way_that_is_its_answer(world):
    for question in iter_questions(world.train):
        if question.source == "direction":
            first, last = (np.array(region.box) for region in (question.evidence.regions[0], question.evidence.regions[-1]))
            dx, dy = scenes.DIRECTIONS[question.answer]
            assert (np.sign((last - first).round(3)) == (dx, dy, dx, dy)).all()


def test_two_builds_are_the_same_and_another_seed_is_not(world, tmp_path):
    again, other = small(tmp_path / "again"), small(tmp_path / "other", seed=1)
    for mine, same, different in ((world.train, again.train, other.train), (world.eval, again.eval, other.eval)):
        assert mine.read_bytes() == same.read_bytes() != different.read_bytes()
    for row in rows_of(world.train):
        frames = [clip_of(where.train.parent / row["video"]).frames_NHWC for where in (world, again)]
        assert (frames[0] == frames[1]).all()
    assert (world.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


def test_the_same_frames_give_the_same_file_every_time(tmp_path):
    for scene in scenes.plan_scenes("train", 120, 1):
        frames = scenes.render(scene, (84, 84))
        files = set()
        for _ in range(3):
            scenes.write_clip(tmp_path / "clip.mp4", frames)
            files.add((tmp_path / "clip.mp4").read_bytes())
            frames = frames.copy()
        assert len(files) == 1, scene.name


def test_the_same_recipe_is_reused_and_another_is_built_anew(tmp_path, monkeypatch):
    sizes = {"train_questions": 6, "eval_questions": 6}
    world = small(tmp_path / "w", **sizes)
    before = world.train.stat().st_mtime_ns
    assert small(tmp_path / "w", **sizes) == world and world.train.stat().st_mtime_ns == before
    small(tmp_path / "w", **sizes, seed=1)
    assert world.train.stat().st_mtime_ns != before
    monkeypatch.setattr(scenes, "_code_digest", lambda: "changed")
    before = world.train.stat().st_mtime_ns
    small(tmp_path / "w", **sizes, seed=1)
    assert world.train.stat().st_mtime_ns != before
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_an_interrupted_build_leaves_the_old_world_and_nothing_else(tmp_path, monkeypatch):
    sizes = {"train_questions": 6, "eval_questions": 6}
    world = small(tmp_path / "w", **sizes)
    before = world.train.read_bytes()
    monkeypatch.setattr(tiny_model, "build_tiny_model", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "w", **sizes, seed=1)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "new", **sizes)
    assert world.train.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="empty folder"):
        small(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_answers_and_tags_are_short_and_survive_decoding(world, processor):
    tokenizer = processor.tokenizer
    for tag in tiny_model.TAGS:
        assert len(tokenizer(tag)["input_ids"]) == 1
    for question in iter_questions(world.train):
        said = warm_start.reply(question)
        ids = tokenizer(said)["input_ids"]
        assert len(ids) <= 15 and tokenizer.decode(ids, skip_special_tokens=True) == said
        assert all(value == 1 for value in rewards.score(question, said).parts.values())
        assert tokenizer.convert_tokens_to_ids("<answer>") == ids[warm_start.ANSWER_TOKEN - 2]


def test_the_careless_annotator_is_right_about_half_of_the_time(world):
    rng = np.random.default_rng(0)
    for question in iter_questions(world.train):
        said = [warm_start.careless(question, rng) for _ in range(200)]
        scores = [rewards.score(question, warm_start.reply(one)).parts for one in said]
        assert all(score["format"] == 1 for score in scores)
        if question.answer:
            right = np.mean([score["accuracy"] for score in scores])
            assert abs(right - (warm_start.RIGHT_IF_MIXED_UP if question.answer in warm_start.MIXED_UP else warm_start.RIGHT)) < 0.15
        if question.spans:
            assert 0.3 < np.mean([score["temporal_iou"] for score in scores]) < 0.9


def test_the_chat_template_takes_every_role_and_medium(processor):
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "U"}]},
        {"role": "assistant", "content": "A"},
    ]
    image, video = ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>")
    closed = f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n{image}{video}U<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert processor.apply_chat_template(turns, tokenize=False) == closed
    assert processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == closed + "<|im_start|>assistant\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_both_models_load_and_answer(world, tmp_path, family):
    """No frame is resized, images and videos are normalised alike, and prompts stay short."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    questions = list(iter_questions(world.train))
    folder = tiny_model.build_tiny_model(tmp_path / "model", warm_start.tokenizer_corpus(questions, family=family), family=family)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    image, video = processor.image_processor, processor.video_processor
    assert (list(image.image_mean), list(image.image_std)) == (list(video.image_mean), list(video.image_std))
    height, width = named(family).tiny_frame
    frames = np.zeros((warm_start.FRAMES, height, width, 3), np.uint8)
    views = [(frames, warm_start.uniform(32))] * 6
    batch = warm_start.make_batch(processor, model.config, questions[:6], views, 4.0, 32, [""] * 6)
    assert batch.grids.tolist() == [[4, 6, 6]] * 6 and batch.input_ids.shape[1] < 140
    replies = warm_start.generate(model, batch, end=processor.tokenizer.eos_token_id)
    assert replies.shape == (6, warm_start.MOST_REPLY_TOKENS)


@pytest.mark.parametrize("course", [warm_start.Course(4, 2), warm_start.Course(4, 2, 2, 2)], ids=["plain", "evidence"])
def test_a_few_steps_of_warm_start_learn_and_report(world, tmp_path, course):
    import shutil

    questions = list(iter_questions(world.train))[:12]
    reports, weights = [], []
    for name in ("a", "b"):
        shutil.copytree(world.model, tmp_path / name / "model")
        reports.append(warm_start.warm_start(tmp_path / name / "model", questions, questions[:6], course=course, seed=3, progress=False))
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
        assert json.loads((tmp_path / name / "warm_start.json").read_text()) == reports[-1]
    assert weights[0] == weights[1] != (world.model / "model.safetensors").read_bytes()
    assert reports[0]["held_out"] == reports[1]["held_out"]
    assert ("held_out_with_evidence" in reports[0]) == course.pointed


def test_what_is_written_of_a_question_is_read_as_it_was(tmp_path):
    from dataclasses import replace

    from rlvid.data.questions import parse_line
    from rlvid.world.scenes import _line, ask, plan_scenes

    for scene in plan_scenes("eval", 12, 0):
        for question in ask(scene):
            again = parse_line(json.dumps(_line(question)), path=tmp_path / "q.jsonl", line=1)
            assert replace(again, video=question.video) == question
