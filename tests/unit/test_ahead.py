"""Which batches may be under way, and what happens to them when the loop ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from rlvid.loop.ahead import Ahead, last_to_begin


def settings(staleness=1, save_every=0, steps=10):
    return SimpleNamespace(rollout=SimpleNamespace(max_staleness=staleness), run=SimpleNamespace(save_every=save_every, steps=steps))


@pytest.mark.parametrize(
    ("staleness", "save_every", "step", "last"),
    [(0, 0, 3, 3), (1, 0, 3, 4), (3, 0, 3, 6), (1, 0, 10, 10), (3, 0, 9, 10), (2, 5, 4, 5), (2, 5, 5, 5), (2, 5, 6, 8), (2, 1, 4, 4)],
)
def test_no_batch_is_begun_across_a_checkpoint_or_the_end(staleness, save_every, step, last):
    assert last_to_begin(settings(staleness, save_every), step) == last


class FakeFeed:
    def __init__(self):
        self.sampled, self.prefetched = [], []

    def sample(self, step):
        self.sampled.append(step)
        return [step]

    def prefetch(self, step):
        self.prefetched.append(step)

    def metrics(self):
        return {"of": float(self.sampled[-1])}


def test_batches_come_in_order_each_with_its_own_metrics():
    feed = FakeFeed()
    with Ahead(settings(staleness=2), SimpleNamespace(cancel_waits=lambda: None), feed) as ahead:
        for step in range(1, 11):
            groups, metrics = ahead.take(step)
            assert groups == [step] and metrics["of"] == step and metrics["time/wait_s"] >= 0
    assert feed.sampled == list(range(1, 11)) and feed.prefetched == list(range(2, 12))


def test_an_error_in_a_batch_is_raised_when_it_is_taken_and_ends_what_waits():
    cancelled = threading.Event()

    class Stuck(FakeFeed):
        def sample(self, step):
            self.sampled.append(step)
            if step == 1:
                return [1]
            assert cancelled.wait(20)
            raise RuntimeError("cancelled")

    with pytest.raises(KeyError, match="stop"), Ahead(settings(), SimpleNamespace(cancel_waits=cancelled.set), Stuck()) as ahead:
        assert ahead.take(1)[0] == [1]
        raise KeyError("stop")
    with pytest.raises(RuntimeError, match="cancelled"), Ahead(settings(), SimpleNamespace(cancel_waits=cancelled.set), Stuck()) as ahead:
        ahead.take(1)
        ahead.take(2)
