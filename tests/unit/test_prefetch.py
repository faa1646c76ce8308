"""What is built ahead serves whichever step asks for it: refills find their variants ready, and little is built for nothing."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from rlvid.actors.sampler import Sampler
from rlvid.config import load
from rlvid.loop.feed import Feed
from rlvid.types import GenerateResult, Prepared, Rollout, VariantSpec

QUESTIONS, STEPS, A_STEP = 400, 60, 8
KINDS = ("uniform", "random_jitter")


@pytest.fixture
def config(tmp_path):
    rest = '"question": "What?", "task": "multiple_choice", "options": ["red", "blue"], "answer": "red"'
    lines = (f'{{"id": "q{n}", "video": "{n}.mp4", {rest}}}' for n in range(QUESTIONS))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "c.yaml").write_text(f"run: {{name: r, steps: {STEPS}}}\nmodel: {{path: m}}\ndata: {{train: {tmp_path / 'train.jsonl'}}}\n")
    settings = [f"data.questions_per_step={A_STEP}", f"variants.kinds=[{', '.join(KINDS)}]", "rollout.answers=2", "advantage.drop_zero_signal=true"]
    return load(tmp_path / "c.yaml", settings)


class Videos:
    """The variant actors: a build is done as soon as the loop gets to it."""

    def __init__(self):
        self.built = []

    async def call(self, method, question, kinds, seed, num_returns):
        assert method == "build" and num_returns == len(kinds) + 1
        self.built.append((question.id, question.epoch, seed))
        specs = tuple(VariantSpec(kind, (0.0,), None, (28, 28), seed) for kind in kinds)
        return Prepared(question, "prompt", specs, ({},) * len(kinds), 1.0), [None] * len(kinds)


class Engines:
    """Every other question, by its number, is answered half right; the others teach nothing. An answer takes a while."""

    async def call(self, method, request, frames):
        assert method == "generate"
        for _ in range(50):
            await asyncio.sleep(0)
        words = ("red", "blue") if int(request.question_id[1:]) % 2 else ("red", "red")
        said = [f"<answer>{word}</answer>" for word in words]
        answers = tuple(Rollout(request.question_id, request.variant, sample, 1, (1,), (0.0,), text, 0, request.seed) for sample, text in enumerate(said))
        return GenerateResult(answers, "digest")


class Running:
    """A session's event loop in a thread of its own, with the real sampler."""

    def __init__(self, config):
        self.loop = asyncio.new_event_loop()
        self.videos = Videos()
        self.sampler = Sampler(config, self.videos, Engines())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def wait(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def idle(self):
        """Everything that can be built is built: the learner took its time."""

        async def settled():
            for _ in range(200):
                await asyncio.sleep(0)

        self.wait(settled())


def run(config, feed, session, first, last):
    """[(question, epoch, its specs' seeds, its answers' seeds)] of the groups of each step."""
    steps = []
    for step in range(first, last + 1):
        groups = feed.sample(step)
        feed.prefetch(step + 1)
        session.idle()
        steps.append([(g.question.id, g.question.epoch, [s.seed for s in g.prepared.specs], [r.seed for row in g.rollouts_KM for r in row]) for g in groups])
    return steps


def test_half_of_the_groups_are_silent_and_hardly_any_question_waits_or_is_built_for_nothing(config):
    session = Running(config)
    feed = Feed(config, session)
    late = thrown_away = asked = 0.0
    for step in range(1, STEPS + 1):
        feed.sample(step)
        metrics = feed.metrics()
        taken = metrics["group/kept"] + metrics["group/dropped"]
        asked += taken
        late += metrics["variants/late_share"] * taken if step > 1 else 0  # before the first, nothing could be built
        thrown_away += metrics["variants/thrown_away"]
        feed.prefetch(step + 1)
        session.idle()
    assert metrics["group/dropped"] > 0 and asked > 1.3 * A_STEP * STEPS
    built = len(session.videos.built)
    assert late <= 0.03 * asked, (late, asked)
    assert thrown_away <= 0.05 * built and built - asked <= 0.05 * built, (thrown_away, built, asked)
    assert len({(id, epoch) for id, epoch, _ in session.videos.built}) == built  # nothing is built twice


@pytest.mark.parametrize("stop", [1, 7, 20])
def test_a_resumed_run_draws_the_same_variants_and_answers(config, stop):
    """With another history of what was built ahead: the resumed run begins with nothing."""
    whole = Running(config)
    straight = run(config, Feed(config, whole), whole, 1, 30)
    first, second = Running(config), Running(config)
    feed = Feed(config, first)
    before = run(config, feed, first, 1, stop)
    resumed = Feed(config, second)
    resumed.restore(feed.state())
    assert before + run(config, resumed, second, stop + 1, 30) == straight


def test_variants_are_drawn_anew_in_every_epoch(config):
    session = Running(config)
    run(config, Feed(config, session), session, 1, STEPS)
    assert {epoch for _, epoch, _ in session.videos.built} >= {0, 1}
    assert len({seed for _, _, seed in session.videos.built}) == len({epoch for _, epoch, _ in session.videos.built})


def test_what_is_built_for_training_is_not_shown_in_evaluation(config):
    """The same question of another epoch, file or kind of view has variants of its own."""
    session = Running(config)
    feed = Feed(config, session)
    feed.prefetch(1)
    session.idle()
    built = len(session.videos.built)
    question = SimpleNamespace(**vars(feed.stream.take(1)[0]))
    held_out = type(feed.stream.take(1)[0])(**{**vars(question), "video": "other.mp4"})
    session.wait(session.sampler.collect([held_out], 0, kinds=KINDS, answers=2, greedy=True))
    session.wait(session.sampler.collect([held_out], 0, kinds=("uniform",), answers=2, greedy=True))
    assert len(session.videos.built) == built + 2
