"""Questions that show images, several media or nothing, all the way: file, variants, prompt, what the engine is given, what the learner packs, the dump."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlvid.actors.rollout import as_vllm_takes, shown_to_engine
from rlvid.actors.variant import VariantActor
from rlvid.config import load
from rlvid.data.prompts import chat_prompt, marks
from rlvid.data.questions import QuestionError, check, most_media, parse_line
from rlvid.families import FAMILIES
from rlvid.loop.dumped import DumpedStep
from rlvid.loop.session import with_room
from rlvid.observe.dumps import write_step
from rlvid.types import GenerateRequest, Group, Quarantined, Rollout, Score, VariantSpec
from rlvid.variants.build import rebuild_shown
from rlvid.variants.explore import KINDS
from rlvid.video.frames import VideoError
from rlvid.video.pictures import image
from rlvid.world.tiny_model import build_processor, build_tokenizer
from tests.unit.clips import make

CONFIG = Path(__file__).parents[2] / "configs/quickstart.yaml"
BASE = {"id": "q", "question": "What is it?", "task": "open", "answer": "red"}


def parse(**keys):
    return parse_line(json.dumps(BASE | keys), path="/data/train.jsonl", line=1)


def kinds(question):
    return [(medium.kind, medium.path.removeprefix("/data/")) for medium in question.shown]


# ---- question files


def test_what_a_question_shows():
    assert parse(video="v.mp4").media == () and kinds(parse(video="v.mp4")) == [("video", "v.mp4")]
    assert kinds(parse(image="a.png")) == [("image", "a.png")] and parse(image="a.png").video == ""
    assert kinds(parse(image=["a.png", "b.png"])) == [("image", "a.png"), ("image", "b.png")]
    media = [{"image": "a.png"}, {"video": "v.mp4"}, {"video": ["1.png", "2.png"], "fps": 3}]
    assert kinds(parse(media=media))[:2] == [("image", "a.png"), ("video", "v.mp4")] and parse(media=media).video == ""
    assert parse(media=media).media[2].path.endswith("#fps=3")
    assert parse(media=media[:2]).video == "/data/v.mp4", "the only video is what times are about"
    assert parse(media=[{"video": "v.mp4"}]) == parse(video="v.mp4"), "one video, however it is written"
    assert kinds(parse()) == kinds(parse(media=[])) == []


def test_marks_in_the_text_say_the_order():
    media = [{"image": "a.png"}, {"video": "v.mp4"}, {"image": "b.png"}]
    marked = parse(question="<video> and <image> or <image>?", media=media)
    assert kinds(marked) == [("video", "v.mp4"), ("image", "a.png"), ("image", "b.png")]
    assert kinds(parse(question="Is <image> in <video>?", video="v.mp4", image="a.png")) == [("image", "a.png"), ("video", "v.mp4")]
    choice = parse(task="multiple_choice", options=["<image> left", "<image> right"], answer="A", question="Which is in <video>?", media=media)
    assert kinds(choice) == [("video", "v.mp4"), ("image", "a.png"), ("image", "b.png")]
    assert parse(question="<video>What?", video="v.mp4").media == ()


WRONG = [
    ({"question": "<image><image> same?", "image": "a.png"}, "question: has 2 <image> mark(s) for 1 image(s)"),
    ({"question": "<image> what?"}, "question: has 1 <image> mark(s) for 0 image(s)"),
    ({"question": "<image> what?", "video": "v.mp4"}, "question: has 0 <video> mark(s) for 1 video(s)"),
    ({"question": "<video> what?", "media": [{"video": "v.mp4"}, {"image": "a.png"}]}, "question: has 0 <image> mark(s) for 1 image(s)"),
    ({"video": "v.mp4", "image": "a.png"}, "image: stands beside video, and nothing says which comes first"),
    ({"media": [{"image": "a.png"}], "image": "a.png"}, "media: stands beside image"),
    ({"media": [{"picture": "a.png"}]}, "media.picture: unknown key"),
    ({"media": [{"image": "a.png", "video": "v.mp4"}]}, "is not one medium"),
    ({"media": ["a.png"]}, "media: is a string"),
    ({"media": {"image": "a.png"}}, "media: is an object"),
    ({"image": []}, "image: lists no picture"),
    ({"image": ""}, "image: is empty"),
    ({"image": [3]}, "image: is a number"),
    ({"video": None}, "video: is null"),
    ({"image": "a.png", "fps": 3}, "fps: stands without video"),
    ({"image": "a.png", "task": "temporal_grounding", "spans": [[0, 1]]}, "video: is missing (a temporal_grounding question asks for times of one video)"),
    ({"media": [{"video": "a.mp4"}, {"video": "b.mp4"}], "clip": [0, 1]}, "video: has 2 videos (clip names times of one video)"),
]


@pytest.mark.parametrize(("keys", "what"), WRONG, ids=[what for _, what in WRONG])
def test_what_cannot_be_shown_as_written_is_refused(keys, what):
    with pytest.raises(QuestionError) as caught:
        parse(**keys)
    assert what in str(caught.value) and str(caught.value).startswith("/data/train.jsonl:1: ") and "\n" not in str(caught.value)


def test_the_check_counts_what_is_shown_and_names_what_is_missing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "empty.png").touch()
    lines = [{"image": "a.png"}, {"image": ["a.png", "a.png"]}, {}, {"image": "b.png"}, {"image": "empty.png"}, {"image": "."}]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(BASE | {"id": str(at)} | line) for at, line in enumerate(lines)))
    report = check(tmp_path / "q.jsonl")
    assert report.media == {"image": 1, "image + image": 1, "text alone": 1} and not report.refused
    assert set(report.problems) == {"image: missing file", "image: empty file"}
    assert "they show: image 1, image + image 1, text alone 1" in report.text() and "is a folder (name a picture)" in report.text()
    assert most_media(tmp_path / "q.jsonl") == {"video": 1, "image": 2}
    config = load(CONFIG, [f"data.train={tmp_path / 'q.jsonl'}", "data.eval=null"])
    assert (with_room(config).image.most, with_room(config).video.most) == (2, 1)
    told = load(CONFIG, ["image.most=7", "video.most=3"])
    assert with_room(told) == told


# ---- pictures


def test_an_image_is_read_as_it_is_meant(tmp_path):
    clear = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 3, 4))
    clear.save(tmp_path / "clear.png")
    pixels = image(str(tmp_path / "clear.png"))
    assert pixels.shape == (4, 6, 3) and pixels[0, 0].tolist() == [0, 0, 255] and pixels[0, 5].tolist() == [255, 255, 255]
    Image.new("L", (3, 2), 9).save(tmp_path / "grey.png")
    assert (image(str(tmp_path / "grey.png")) == 9).all()
    turned = Image.new("RGB", (6, 4), "white")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert image(str(tmp_path / "turned.jpg")).shape == (6, 4, 3)
    Image.new("CMYK", (5, 5)).save(tmp_path / "print.jpg")
    assert image(str(tmp_path / "print.jpg")).shape == (5, 5, 3)
    Image.new("P", (5, 5)).save(tmp_path / "still.gif")
    assert image(str(tmp_path / "still.gif")).shape == (5, 5, 3)


def bad_images(folder):
    """(name, what is said) of images that cannot be used."""
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").touch()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:6000])
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    Image.new("1", (20000, 20000)).save(folder / "huge.png")
    Image.new("RGB", (2000, 4)).save(folder / "thin.png")
    return [
        ("none.png", "no such file"),
        (".", "is a folder, not an image"),
        ("text.png", "is no image that can be read"),
        ("empty.png", "the file is empty"),
        ("cut.png", "is no image that can be read"),
        ("moving.gif", "is an animation of 3 pictures, not an image (write it under video)"),
        ("moving.webp", "is an animation of 3 pictures"),
        ("huge.png", "is 20000 x 20000 pixels, more than 179 million"),
        ("thin.png", "is too long and thin"),
    ]


def test_a_bad_image_is_quarantined_in_one_line(tmp_path):
    made = actor("qwen2_5_vl", ("uniform",))
    for name, what in bad_images(tmp_path):
        found, nothing = made.build(parse(image=str(tmp_path / name)), ("uniform",), 0)
        assert isinstance(found, Quarantined) and nothing is None, name
        assert what in found.reason and str(tmp_path / name) in found.reason and "\n" not in found.reason, found.reason
        if name != "thin.png":
            with pytest.raises(VideoError):
                image(str(tmp_path / name))


# ---- variants


def actor(family, wanted=tuple(KINDS), *settings):
    """The real actor with a real processor."""
    made = VariantActor(
        load(CONFIG, [f"variants.kinds=[{','.join(wanted)}]", "video.candidates=12", "video.frames=4", "relevance.scorer=motion", *settings]), 0
    )
    made.processor = build_processor(build_tokenizer(["red blue What is it ?"], family), family)
    made.factor, made.frames_per_token, made.family = 2 * FAMILIES[family].patch, 2, FAMILIES[family]
    made._check_image_size()
    from rlvid.variants.scorers import MotionScorer

    made.scorer = MotionScorer()
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    make(folder / "a.mp4", noise=True)
    make(folder / "b.mp4", noise=True, size=(96, 64))
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (300, 200)), ("b.png", (90, 120))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / name)
    return folder


def shows(files, *names, **keys):
    return parse(media=[{"image" if name.endswith("png") else "video": str(files / name)} for name in names], **keys)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_k_is_what_there_is(files, family):
    """Of an image only where and how large it is seen varies; of a text nothing; beside a video all that the video varies in."""
    made = actor(family)
    text, pixels, *rest = made.build(parse(), tuple(KINDS), 0)
    assert [spec.media for spec in text.specs] == [()] and pixels == () and not any(one is not None for one in rest) and text.specs[0].kind == "uniform"
    alone, *pixels = made.build(shows(files, "a.png"), tuple(KINDS), 0)
    assert [spec.kind for spec in alone.specs] == ["uniform", "multi_scale", "random_crop"], "motion says nothing of an image's parts"
    assert [one is not None for one in pixels] == [True] * 3 + [False] * 5
    assert len({(one.media[0].box, one.media[0].size) for one in alone.specs}) == 3
    mixed, *pixels = made.build(shows(files, "b.png", "a.mp4"), tuple(KINDS), 0)
    kinds_seen = [spec.kind for spec in mixed.specs]
    assert kinds_seen[0] == "uniform" and {"importance", "random_jitter", "random_crop"} <= set(kinds_seen)
    for spec, shown in zip(mixed.specs, pixels, strict=False):
        still, clip = shown
        assert still.shape == (*spec.media[0].size, 3) and clip.shape == (4, *spec.media[1].size, 3) and spec.times_s == spec.media[1].times_s
    again, *same = made.build(shows(files, "b.png", "a.mp4"), tuple(KINDS), 0)
    assert again.specs == mixed.specs and all(np.array_equal(a[1], b[1]) for a, b in zip(pixels, same, strict=False) if a is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_pixels_and_tokens_stand_in_one_order(files, family):
    """What is built, what the engine is given, what the learner packs: each medium in its own place, and as many tokens as were counted."""
    from rlvid.learner.packing import encode_prompts, media_of
    from rlvid.types import TrainingPrompt

    made = actor(family, ("uniform",))
    question = shows(files, "a.png", "a.mp4", "b.png", "b.mp4", question="First <image>, then <video>; <image> is not <video>?")
    prepared, shown = made.build(question, ("uniform",), 0)
    assert made.family.kinds_in(prepared.prompt) == ("image", "video", "image", "video") == marks(question.question)
    assert [one.ndim for one in shown] == [3, 4, 3, 4] and "<image>" not in prepared.prompt
    before, between = prepared.prompt.split(made.family.image_placeholder)[:2]
    assert before.endswith("First ") and between.startswith(", then ")
    assert [one is None for one in prepared.video_metadata[0]] == [True, False, True, False]
    request = GenerateRequest("q", 0, prepared.prompt, prepared.video_metadata[0], 1, 0)
    given = as_vllm_takes(shown_to_engine(request, shown, None))
    assert np.array_equal(np.asarray(given["image"][1]), shown[2]) and np.array_equal(given["video"][1][0], shown[3])
    assert given["video"][0][1] == prepared.video_metadata[0][1]
    shuffled = shown_to_engine(replace(request, shuffle_seed=3), shown, None)
    assert np.array_equal(shuffled[0][0], shown[0]) and not np.array_equal(shuffled[1][0], shown[1])
    assert np.array_equal(np.sort(shuffled[1][0], axis=0), np.sort(shown[1], axis=0))

    class Positions:
        model_type = family
        vision_config = type("V", (), {"spatial_merge_size": 2, "tokens_per_second": 2})

    for key, token in made.family.media_keys.items():
        setattr(Positions, key, made.processor.tokenizer.convert_tokens_to_ids(token))
    prompt = TrainingPrompt(prepared.prompt, "", 0, prepared.video_metadata[0], shown, ((5,),), ((0.0,),), (0.0,), (0.0,))
    ((ids, positions),), pixels = encode_prompts([prompt], made.processor, Positions, [media_of(prompt, lambda frames: frames)])
    seen = np.isin(ids, [Positions.image_token_id, Positions.video_token_id])
    visual = made._shown_tokens
    assert seen.sum() == sum(visual(one) for one in prepared.specs[0].media) == pixels["video_grid_thw"].prod(-1).sum() // 4
    assert pixels["video_grid_thw"][:, 0].tolist() == [1, 2, 1, 2] and positions.shape == (3, len(ids))
    assert len(ids) <= prepared.prompt_tokens


def test_one_video_is_asked_exactly_as_before(files):
    """The prompt's text, its one placeholder in front, metadata and frames."""
    made = actor("qwen2_5_vl", ("uniform",))
    prepared, shown = made.build(parse(video=str(files / "a.mp4")), ("uniform",), 0)
    assert prepared.prompt.count(made.family.placeholder + "What is it?") == 1 and isinstance(prepared.video_metadata[0], dict)
    assert shown.shape[0] == 4 and prepared.specs[0].media is None and "media" not in prepared.specs[0].to_json()
    assert chat_prompt(made.processor, "x") == chat_prompt(made.processor, "x", media=("video",)) == chat_prompt(made.processor, "<video>x")


def test_an_image_gets_its_own_budget(files):
    made = actor("qwen2_5_vl", ("uniform",), f"image.max_pixels={56 * 56}", f"video.max_pixels={28 * 28}")
    prepared, shown = made.build(shows(files, "a.png", "a.mp4"), ("uniform",), 0)
    still, clip = prepared.specs[0].media
    assert 28 * 28 < still.size[0] * still.size[1] <= 56 * 56 and clip.size == (28, 28) and shown[0].shape[:2] == still.size
    tight = actor("qwen2_5_vl", ("uniform",), "video.max_tokens=16", "image.max_pixels=401408")
    found, _ = tight.build(shows(files, "a.png", "a.mp4"), ("uniform",), 0)
    assert isinstance(found, Quarantined) and "visual tokens, video.max_tokens is 16" in found.reason and "image.max_pixels" in found.reason


def test_what_the_processor_would_shrink_is_refused_where_there_are_images():
    from rlvid.config import ConfigError

    actor("qwen2_5_vl", ("uniform",), "image.max_pixels=4000000")
    with pytest.raises(ConfigError, match=r"lower image.max_pixels \(4000000\)"):
        actor("qwen2_5_vl", ("uniform",), "image.max_pixels=4000000", "image.most=1")


# ---- dumps


def test_a_dumped_step_is_made_again_with_all_its_media(files, tmp_path):
    made = actor("qwen3_vl", ("uniform", "random_crop"))
    groups = []
    for at, question in enumerate([shows(files, "a.png", "b.mp4"), parse(), shows(files, "b.png"), parse(video=str(files / "a.mp4"))]):
        question = replace(question, id=f"q{at}")
        prepared, *frames = made.build(question, ("uniform", "random_crop"), 0)
        frames = tuple(frames[: len(prepared.specs)])
        rows = tuple((Rollout(question.id, k, 0, 9, (5,), (-0.5,), "red", 0, 1),) for k in range(len(frames)))
        numbers = tuple((1.0,) for _ in frames)
        groups.append(Group(prepared, frames, rows, tuple((Score({"accuracy": 1.0}),) for _ in frames), numbers, numbers, tuple("d" for _ in frames)))
    arrays = [np.array(group.rewards_KM) for group in groups]
    write_step(tmp_path / "rollouts", 1, groups, arrays, arrays)
    again = DumpedStep(tmp_path, 1).groups()
    for before, after in zip(groups, again, strict=True):
        assert after.prepared.specs == before.prepared.specs and after.prepared.video_metadata == before.prepared.video_metadata
        assert after.question.shown == before.question.shown and after.prepared.prompt == before.prepared.prompt
        for pixels, same in zip(before.frames, after.frames, strict=True):
            pairs = zip(pixels, same, strict=True) if isinstance(pixels, tuple) else [(pixels, same)]
            assert all(np.array_equal(one, other) for one, other in pairs)
    for group in groups:
        for spec, pixels in zip(group.prepared.specs, group.frames, strict=True):
            rebuilt = rebuild_shown(group.question, spec)
            assert type(rebuilt) is type(pixels) and len(rebuilt) == len(pixels)
            assert VariantSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


# ---- who looks on


def test_strips_and_the_report_show_every_medium(files):
    """In the prompt's order, each labelled; and a judge's words beside the answer."""
    import base64
    import io

    from rlvid.observe.report.films import panels
    from rlvid.observe.strips import filmstrip, labels

    made = actor("qwen2_5_vl", ("uniform", "random_crop"))
    prepared, first, _ = made.build(shows(files, "a.png", "b.mp4", "b.png"), ("uniform", "random_crop"), 0)
    told = labels(prepared.specs[0], 0.0)
    assert [one.split(":")[0] for one in told] == ["1", "2", "2", "2", "2", "3"] and told[0] == "1: image" and told[1].endswith(" s")
    strip = Image.open(io.BytesIO(filmstrip(first, told)))
    assert strip.width > 6 * 70 and np.asarray(strip).std() > 20
    assert Image.open(io.BytesIO(filmstrip((), []))).width == 1, "nothing is shown of a text"
    media = [{medium.kind: medium.path} for medium in prepared.question.shown]
    specs = {str(n): json.loads(json.dumps(spec.to_json())) for n, spec in enumerate(prepared.specs)}
    found = panels(media, specs, 96, 10**6)["panels"]
    assert next(label for label, _ in found["0"]) == "1: image" and len(found["0"]) == 6 and len(found) == 2
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["0"][0][1]))))
    assert abs(seen.mean() - first[0].mean()) < 6, "the image in its place"
    small = panels(media, specs, 96, 9000)["panels"]
    assert sum(len(jpeg) for one in small.values() for _, jpeg in one) < sum(len(jpeg) for one in found.values() for _, jpeg in one)


# ---- the driver's part


class Here:
    """A pool whose one actor is in this process."""

    def __init__(self, **methods):
        self.methods, self.asked = methods, []

    async def call(self, method, *args, num_returns=1, patience_s=0):
        self.asked.append((method, args))
        found = self.methods[method](*args)
        found = await found if asyncio.iscoroutine(found) else found
        return (found[0], list(found[1:])) if num_returns > 1 else found


def test_the_sampler_makes_groups_of_all_kinds_that_the_learner_packs(files, tmp_path):
    """The real variant actor and packing; the engine's place is taken by the processor, which counts the same tokens."""
    from rlvid.actors.rewarder import RewardActor
    from rlvid.actors.sampler import Sampler
    from rlvid.learner.packing import encode_prompts, media_of, pack
    from rlvid.learner.prompts import group_prompts
    from rlvid.observe.step_row import group_metrics
    from rlvid.sync.tokens import token_digest
    from rlvid.types import GenerateResult, TrainingPrompt

    kinds = ("uniform", "random_jitter", "random_crop")
    made = actor("qwen3_vl", kinds, "reward.custom=tests.unit.test_media:takes_time", "reward.weights={open: {accuracy: 1, slow: 1}}", "rollout.answers=2")
    config = made.config

    class Config3:
        model_type = "qwen3_vl"
        vision_config = type("V", (), {"spatial_merge_size": 2})

    for key, token in made.family.media_keys.items():
        setattr(Config3, key, made.processor.tokenizer.convert_tokens_to_ids(token))

    def generate(request, frames):
        prompt = TrainingPrompt(request.prompt, "", 0, request.video_metadata, frames, ((5,),), ((0.0,),), (0.0,), (0.0,))
        ((ids, _),), _ = encode_prompts([prompt], made.processor, Config3, [media_of(prompt, lambda one: one)])
        said = [Rollout("q", request.variant, m, len(ids), (5, 6), (-0.5, -0.5), "<answer>red</answer>", 1, 0) for m in range(request.answers)]
        return GenerateResult(tuple(said), token_digest(ids.tolist()))

    async def run():
        rewards = RewardActor(config, 0)
        await rewards.start()
        pools = Here(build=made.build, rebuild=made.rebuild), Here(generate=generate), None, Here(rewards=rewards.rewards)
        sampler = Sampler(config, *pools)
        asked = [shows(files, "a.png"), shows(files, "a.mp4", "b.mp4"), shows(files, "b.png", "b.mp4"), parse(), parse(video=str(files / "a.mp4"))]
        asked.append(parse(image=str(files / "none.png")))
        asked = [replace(one, id=f"q{at}") for at, one in enumerate(asked)]
        collected = await sampler.collect(asked, 1, kinds=kinds, answers=2, training=True)
        again = await sampler.with_new_frames(collected.groups)
        sampler.repairer = Repairs()
        repaired = await sampler.collect(asked[:5], 1, kinds=kinds, answers=2, training=True)
        assert sampler.repairer.seen == ["q4"], "teachers look at one video"
        assert group_metrics(repaired.groups, [np.array(group.rewards_KM) for group in repaired.groups], 1)["teacher/not_one_video"] == 4
        return collected, again

    collected, again = asyncio.run(run())
    groups = collected.groups
    assert [len(group.frames) for group in groups] == [2, 3, 3, 1, 3] and ["no such file" in one.reason for one in collected.quarantined] == [True]
    assert [len(group.rollouts_KM) for group in groups] == [2, 3, 3, 1, 3] and collected.rewards_s > 0
    assert {score.parts["slow"] for group in groups for row in group.scores_KM for score in row} == {0.25}
    row = group_metrics(groups, [np.array(group.rewards_KM) for group in groups], 1)
    assert row["reward_calls/custom"] == row["reward_calls/rule"] == 24 and row["reward_seconds/custom"] > 24 * 0.04 and row["reward/slow"] == 0.25
    prompts = [one for group in groups for one in group_prompts(group, np.ones(np.shape(group.rewards_KM)), np.ones(np.shape(group.rewards_KM)))]
    batch = pack(prompts, made.processor, Config3)
    assert len(prompts) == 12 and len(batch.targets_A) == 48
    for before, after in zip(groups, again, strict=True):
        for one, other in zip(before.frames, after.frames, strict=True):
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all(np.array_equal(a, b) for a, b in pairs)


class Repairs:
    def __init__(self):
        self.seen = []

    async def repair(self, group, step):
        self.seen.append(group.question.id)
        return group


async def takes_time(question, text):
    await asyncio.sleep(0.05)
    return {"slow": 0.25}


@pytest.mark.parametrize(
    "keys",
    [
        {"image": ["a.png", "sub/b.png"]},
        {"media": [{"image": "a.png"}, {"video": "v.mp4"}]},
        {"video": "v.mp4", "image": "a.png", "question": "<image> in <video>?"},
        {"media": [{"video": "v.mp4"}]},
        {"media": [{"video": ["1.png", "2.png"], "fps": 2}, {"image": "/abs/a.png"}]},
        {"image": "/abs/a.png"},
        {},
    ],
)
def test_a_kept_question_shows_the_same_from_another_folder(tmp_path, keys):
    """As rlvid select writes it: relative paths stay relative, and the order of all media is the prompt's."""
    from rlvid.asking.selected import moved_line

    raw = json.dumps(BASE | keys)
    before = parse_line(raw, path=tmp_path / "in/q.jsonl", line=1)
    (tmp_path / "out/deep").mkdir(parents=True)
    line = moved_line(raw.encode(), before, tmp_path / "out/deep")
    after = parse_line(line, path=tmp_path / "out/deep/q.jsonl", line=1)

    def true(question):
        return [(medium.kind, medium.path.replace(str(tmp_path / "out/deep/../../"), str(tmp_path))) for medium in question.shown]

    assert true(after) == true(before) and after.question == before.question
    assert (str(tmp_path) in line) == False and ("/abs/" in line) == ("/abs/" in raw)  # noqa: E712
