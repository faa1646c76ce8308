"""The online filter: which questions rest and when, through stream and feed, and exactly so after a checkpoint."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml

from rlvid.actors.sampler import Collected
from rlvid.algo.selection import answers_of
from rlvid.config import load
from rlvid.data.stream import QuestionStream
from rlvid.loop.feed import Feed, TooManyBadVideos
from rlvid.loop.variance_filter import VarianceFilter
from rlvid.types import Group, LeftOut, Prepared, Quarantined, Question, Repair, Score

COUNT = 8


def test_a_question_rests_after_so_many_silent_groups_and_for_so_many_epochs():
    resting = VarianceFilter(after=2, epochs=3)
    resting.seen("q", 0, signal=False)
    assert not resting.rests("q", 1)
    resting.seen("q", 1, signal=False)
    assert [resting.rests("q", epoch) for epoch in range(1, 7)] == [True, True, True, True, False, False]
    resting.seen("q", 5, signal=False)  # the one more chance, missed
    assert [resting.rests("q", epoch) for epoch in range(6, 10)] == [True, True, True, False]
    resting.seen("q", 9, signal=True)
    resting.seen("q", 10, signal=False)
    assert not resting.rests("q", 11), "a group with a signal starts the count anew"
    assert not resting.rests("other", 0)


def test_the_state_is_json_and_forgets_questions_that_teach():
    resting = VarianceFilter(after=1, epochs=2)
    for number in range(5):
        resting.seen(f"q{number}", 0, signal=number > 1)
    state = json.loads(json.dumps(resting.state()))
    assert set(state) == {"q0", "q1"}
    again = VarianceFilter(after=1, epochs=2)
    again.restore(state)
    assert again.state() == resting.state() and again.rests("q0", 2) and not again.rests("q0", 3)


@pytest.fixture
def path(tmp_path):
    line = {"video": "v.mp4", "question": "?", "task": "multiple_choice", "options": ["red", "blue"], "answer": "red"}
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"id": f"q{n}"} | line) + "\n" for n in range(COUNT)))
    return path


def test_the_stream_leaves_out_and_counts(path):
    plain, stream = QuestionStream(path, seed=0), QuestionStream(path, seed=0)
    order = [question.id for question in plain.take(COUNT)]
    gone = {order[0], order[3]}
    taken = stream.take(COUNT - 2, rests=lambda id, epoch: id in gone)
    assert [question.id for question in taken] == [id for id in order if id not in gone] and stream.left_out == 2
    assert stream.state() == plain.state()
    stream.take(1)
    assert stream.left_out == 0 and stream.epoch == 1


def test_the_stream_knows_the_epoch_of_each_question(path):
    stream = QuestionStream(path, seed=0)
    taken = stream.take(COUNT, rests=lambda id, epoch: epoch == 0)
    assert sorted(question.id for question in taken) == sorted(f"q{n}" for n in range(COUNT)) and stream.epoch == 1 and stream.left_out == COUNT


def test_a_stream_in_which_everything_rests_does_not_stand_still(path):
    stream = QuestionStream(path, seed=0)
    assert len(stream.take(3, rests=lambda id, epoch: True)) == 3


class FakeSession:
    """Questions with an even number are answered half right, the others never; those that are `bad` have no usable video."""

    def __init__(self):
        self.sampler = self
        self.asked = []
        self.bad = set()
        self.left_out = set()

    def wait(self, work):
        return asyncio.run(work)

    async def collect(self, questions, step, *, kinds, answers, training):
        self.asked += [question.id for question in questions]
        return Collected([self._result(question) for question in questions])

    def _result(self, question):
        if question.id in self.bad:
            return Quarantined(question.id, "bad")
        return LeftOut(question.id, "hidden") if question.id in self.left_out else self._group(question)

    def _group(self, question):
        rights = (1.0, 0.0) if int(question.id[1:]) % 2 == 0 else (0.0, 0.0)
        scores = (tuple(Score({"accuracy": right, "format": 1.0}) for right in rights),)
        return Group(Prepared(question, "", (), (), 1.0), (), (), scores, (rights,), (rights,), ())

    def prefetch(self, loop, wanted, kinds):
        self.ahead = [question.id for _, question in wanted]

    loop = None


@pytest.fixture
def feed(path, tmp_path):
    def make(**data):
        tree = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": str(path), "questions_per_step": 4} | data}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
        session = FakeSession()
        return Feed(load(tmp_path / "c.yaml"), session), session

    return make


def asked(session, number):
    ids, session.asked = session.asked[:number], session.asked[number:]
    return sorted(ids)


def test_training_rests_what_taught_nothing(feed):
    everything, without_odd = sorted(f"q{n}" for n in range(COUNT)), sorted(f"q{n}" for n in range(0, COUNT, 2))
    filtered, session = feed(filter="variance", filter_after=2, filter_epochs=2)
    left_out = []
    for step in range(1, 7):
        filtered.sample(step)
        left_out.append(filtered.metrics()["data/filtered"])
    assert asked(session, 8) == everything and asked(session, 8) == everything  # epochs 0 and 1
    assert asked(session, 4) == without_odd and asked(session, 4) == without_odd  # epochs 2 and 3: the odd ones rest
    assert left_out[:4] == [0, 0, 0, 0] and sum(left_out[4:]) > 0
    filtered.sample(7)
    filtered.sample(8)
    assert asked(session, 8) == everything  # epoch 4: one more chance


def test_what_a_setting_leaves_out_is_counted_replaced_and_no_bad_video(feed):
    """variants.hidden: skip. More of them in a row than bad videos may be."""
    plain, session = feed(max_bad_in_a_row=2)
    session.left_out = {f"q{n}" for n in range(5)}
    assert sorted(group.question.id for group in plain.sample(1)) == ["q5", "q6", "q7"]
    assert (plain.metrics()["data/truth_hidden"], plain.quarantined, plain.bad_in_a_row) == (5.0, 0, 0)
    session.left_out = {f"q{n}" for n in range(COUNT)}
    with pytest.raises(TooManyBadVideos, match=r"8 of them show no frame of their truth \(variants.hidden\)"):
        plain.sample(2)


def test_off_leaves_nothing_out(feed):
    plain, session = feed()
    assert plain.config.data.filter == "off"
    for step in range(1, 7):
        plain.sample(step)
        assert plain.metrics()["data/filtered"] == 0
    assert asked(session, 8) == asked(session, 8) == asked(session, 8)


def test_a_bare_off_in_yaml_means_off(feed):
    assert feed(filter=False)[0].config.data.filter == "off"


def test_what_is_prefetched_is_what_is_asked_next(feed):
    filtered, session = feed(filter="variance", filter_after=1, filter_epochs=1)
    for step in range(1, 9):
        filtered.sample(step)
        before = len(session.asked)
        filtered.prefetch(step + 1)
        filtered.sample(step + 1)
        assert session.asked[before:][:4] == session.ahead[:4]


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 8])
def test_a_restored_feed_leaves_out_the_same(feed, stop):
    whole, session = feed(filter="variance", filter_after=1, filter_epochs=2)
    for step in range(1, 13):
        whole.sample(step)
    cut, first = feed(filter="variance", filter_after=1, filter_epochs=2)
    for step in range(1, stop + 1):
        cut.sample(step)
    again, second = feed(filter="variance", filter_after=1, filter_epochs=2)
    again.restore(json.loads(json.dumps(cut.state())))
    for step in range(stop + 1, 13):
        again.sample(step)
    assert first.asked + second.asked == session.asked and again.state() == whole.state()


def test_a_checkpoint_from_before_the_filter_is_read(feed):
    plain, _ = feed()
    plain.sample(1)
    filtered, _ = feed(filter="variance")
    filtered.restore({key: value for key, value in plain.state().items() if key != "filter"})
    assert filtered.filter.state() == {}


def test_no_question_comes_twice_in_a_step_even_where_epochs_meet(feed):
    """It would be sampled with the same seeds twice. Steps of 5 in epochs of 8 meet within a step again and again."""
    plain, session = feed(questions_per_step=5)
    plain.prefetch(1)
    for step in range(1, 30):
        session.asked, ahead = [], session.ahead
        plain.sample(step)
        assert len(set(session.asked)) == 5 and session.asked == ahead
        plain.prefetch(step + 1)


def test_no_question_is_asked_twice_in_a_step(feed):
    """Also where the file has fewer than a step wants, or fewer usable ones: the step is smaller then."""
    short, session = feed(questions_per_step=12)
    for step in (1, 2):
        assert len(short.sample(step)) == COUNT
        assert asked(session, COUNT) == sorted(f"q{n}" for n in range(COUNT)) and not session.asked
    session.bad = {"q1", "q2", "q3"}
    assert len(short.sample(3)) == COUNT - 3 and asked(session, COUNT) == sorted(f"q{n}" for n in range(COUNT))
    session.bad = {f"q{n}" for n in range(COUNT)}
    with pytest.raises(TooManyBadVideos, match=r"none of the 8 questions of .*train.jsonl can be used"):
        short.sample(4)


def group(task, correct, ious, *repairs, formats=(1.0, 1.0), rewards=None):
    """`rewards`: the sum of all parts, if not given."""
    parts = [{"accuracy": right} if task != "temporal_grounding" else {} for right in correct]
    scores = (tuple(Score(part | ({"temporal_iou": iou} if iou is not None else {})) for part, iou in zip(parts, ious, strict=True)),)
    question = Question("q", "v.mp4", "?", task, ("a", "b"), "a")
    earned = tuple(right * (task != "temporal_grounding") + (iou or 0.0) + form for right, iou, form in zip(correct, ious, formats, strict=True))
    return Group(Prepared(question, "", (), (), 1.0), (), (), scores, (rewards or earned,), (correct,), (), repairs)


def test_what_teaches_nothing(feed):
    _teaches_nothing, no = feed()[0]._teaches_nothing, (None, None)
    assert _teaches_nothing(group("open", (1.0, 1.0), no)) and _teaches_nothing(group("open", (0.0, 0.0), no))
    assert not _teaches_nothing(group("open", (1.0, 0.0), no))
    assert _teaches_nothing(group("temporal_grounding", (0.0, 0.0), (0.25, 0.25)))
    assert not _teaches_nothing(group("temporal_grounding", (0.0, 0.0), (0.25, 0.5))), "the reward is continuous, and differs"
    assert not _teaches_nothing(group("grounded_qa", (1.0, 1.0), (0.0, 0.5)))
    assert not _teaches_nothing(group("open", (0.0, 0.0), no, formats=(0.0, 1.0))), "a base model learns the tags from such groups"


def repair(sample, first):
    empty = dict.fromkeys(("patch", "first", "rollout", "prompt", "prompt_digest"))
    return Repair(variant=0, sample=sample, first_score=Score(first), score=Score({}), correct=1.0, blind=0.0, alignment=0.0, reward=1.7, chosen=True, **empty)


def test_spans_that_earn_nothing_teach_nothing(feed):
    assert feed()[0]._teaches_nothing(group("grounded_qa", (1.0, 1.0), (0.0, 0.5), rewards=(1.0, 1.0)))


def test_selection_looks_at_unaided_answers(feed):
    repaired = group("open", (1.0, 1.0), (None, None), repair(1, {"accuracy": 0.0}))
    assert answers_of(repaired).accuracies == (1.0, 0.0)
    assert not feed()[0]._teaches_nothing(repaired)


def test_rest_is_booked_in_the_epoch_that_a_question_was_taken_from(feed):
    """Three a step of eight: the third step takes two questions of epoch 0 and one of epoch 1."""
    filtered, session = feed(filter="variance", filter_after=1, filter_epochs=1, questions_per_step=3)
    for step in (1, 2, 3):
        filtered.sample(step)
    epochs = {id: 0 if at < COUNT else 1 for at, id in enumerate(session.asked)}
    until = {id: entry[1] for id, entry in filtered.state()["filter"].items()}
    assert set(epochs.values()) == {0, 1}
    assert until and all(until[id] == epochs[id] + 1 for id in until)
    assert any(id in until for id in session.asked[6:8]), "one of those at the border had no signal"
