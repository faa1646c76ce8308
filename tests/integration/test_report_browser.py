"""The report in a real browser, driven over Chromium's own debugging protocol: it opens fast, stays silent and alone, and its filters filter."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvid.config import ReportConfig
from rlvid.observe.report.page import write_report
from tests.conftest import BROWSERS
from tests.unit.clips import make
from tests.unit.test_report import HOSTILE, group, make_run, question, slot

CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.browser
REGION = {"time_s": 1.0, "box": [0.1, 0.1, 0.6, 0.6]}
PATCH = {"error_class": "temporal", "hint": "Look at the end.", "spans": [[0.9, 1.4]], "frames_s": [], "regions": [REGION]}


class Browser:
    """One page of one headless Chromium. `said`: console messages and errors; `asked`: addresses of all requests but data."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.said: list[str] = []
        self.asked: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(params)[:500])
        if message.get("method") == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.asked.append(params["request"]["url"])

    def run(self, code: str) -> Any:
        result = self.send("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, address: str, width: int = 1440) -> None:
        """Open and wait until the page has drawn itself."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.send("Page.navigate", url="about:blank")
        self.said.clear(), self.asked.clear()
        started = time.monotonic()
        self.send("Page.navigate", url=address)
        while self.run("document.documentElement?.dataset.ready") != "yes":
            assert time.monotonic() - started < 60, self.said
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """A real click of the mouse on the middle of the element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def select(self, name: str, value: str) -> None:
        self.run(f"(() => {{ const e = document.getElementById('{name}'); e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change')); }})()")

    def count(self) -> str:
        return self.run("document.getElementById('count').textContent")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from websockets.sync.client import connect

    profile = tmp_path_factory.mktemp("chromium")
    assert CHROMIUM
    process = subprocess.Popen(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    port = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while not (port.exists() and port.read_text().strip()):
        assert process.poll() is None and time.monotonic() < deadline, "Chromium does not start"
        time.sleep(0.1)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json") as answer:
            address = next(page for page in json.load(answer) if page["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two steps, three questions each, one of them repaired and one hostile."""
    folder = tmp_path_factory.mktemp("runs")
    clip = make(folder / 'a "clip" of <mine>.mp4', size=(96, 128), noise=True)
    repaired = slot("choice", 1, 0, repaired=True, first_text="<answer>blue</answer>", first_parts={"accuracy": 0.0}, patch=PATCH, alignment=1.0)
    choice = [slot("choice", 0, 0), slot("choice", 0, 1), repaired, slot("choice", 1, 1)]
    questions = [question("choice", video=clip), question("when", task="temporal_grounding", answer=None, spans=[[0.9, 1.4]], video=clip)]
    questions.append(question("bad/id?#&", question=HOSTILE, options=[HOSTILE, "متى"], answer=HOSTILE))
    when = [slot("when", variant, sample, parts={"temporal_iou": 1.0}, advantage=0.0) for variant in range(2) for sample in range(2)]
    hostile = group("bad/id?#&", text=HOSTILE + "z" * 100_000, parts={"accuracy": 0.0}, reason=HOSTILE)
    run = make_run(folder / "run", {1: (questions, choice + when + hostile), 4: (questions, group("choice") + when + hostile)})
    return write_report(run, settings=ReportConfig(questions=3)).as_uri()


def test_it_opens_alone_and_without_a_word(browser: Browser, page: str) -> None:
    for width in (1440, 390):
        browser.open(page, width)
        assert browser.run("document.documentElement.scrollWidth") <= width, "wider than the screen"
        assert browser.run("document.getElementById('theme').getBoundingClientRect().height") < 50, "squeezed"
    assert browser.said == [] and browser.asked == [page]
    assert browser.run("[...document.querySelectorAll('#story img')].every((i) => i.complete && i.naturalWidth > 0)")
    assert browser.run("document.querySelectorAll('#story img').length") >= 8
    assert browser.run("document.querySelectorAll('.chart svg path').length") >= 2


def test_nothing_can_be_fetched(browser: Browser, page: str) -> None:
    browser.open(page)
    script = "fetch('http://127.0.0.1:9/').then(() => 'sent', (e) => 'refused')"
    result = browser.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
    assert result["result"]["value"] == "refused"
    assert any("Content Security Policy" in line for line in browser.said)


def test_every_filter_filters(browser: Browser, page: str) -> None:
    browser.open(page)
    assert browser.count() == "6 questions, 24 answers"
    for name, value, left in (
        ("task", "temporal_grounding", 2),
        ("step", "4", 3),
        ("outcome", "mixed", 2),
        ("outcome", "all wrong", 2),
        ("outcome", "with repairs", 1),
    ):
        browser.select(name, value)
        assert browser.count().startswith(f"{left} question"), (name, value)
        browser.select(name, "")
    browser.click("#pictures")
    assert browser.count() == "3 questions, 12 answers"
    browser.click("#filters button")
    time.sleep(0.1)
    assert browser.count() == "6 questions, 24 answers"
    browser.click(".item:nth-child(2)")
    assert browser.run("document.querySelectorAll('.item')[1].getAttribute('aria-selected')") == "true"
    browser.select("order", "step")
    assert browser.run("[...document.querySelectorAll('.item .m')].map((m) => /step (\\d)/.exec(m.textContent)[1]).join('')") == "111444"


def test_a_link_leads_to_one_answer(browser: Browser, page: str) -> None:
    browser.open(page + "#4/bad%2Fid%3F%23%26/1/0")
    assert browser.run("document.querySelector('.answer.target').id") == "answer-1-0"
    assert browser.run("document.querySelector('.ask').textContent") == HOSTILE
    browser.click("#story .matrix tbody tr:first-child td:last-child a")
    assert browser.run("location.hash") == "#4/bad%2Fid%3F%23%26/0/1"
    assert browser.run("document.querySelector('.answer.target').id") == "answer-0-1"


def test_hostile_texts_are_text(browser: Browser, page: str) -> None:
    browser.open(page + "#1/bad%2Fid%3F%23%26")
    assert "owned" not in browser.run("document.title") and browser.said == []
    assert browser.run("document.querySelector('.said').textContent.startsWith(document.querySelector('.ask').textContent)")
    assert browser.run("document.querySelector('.said').textContent.length") < 2000
    browser.click(".answer .more")
    assert browser.run("document.querySelector('.said').textContent.length") > 100_000


def test_a_repair_is_told_in_three_steps(browser: Browser, page: str) -> None:
    browser.open(page + "#1/choice")
    told = browser.run("[...document.querySelectorAll('.flow > div')].map((step) => step.textContent)")
    assert len(told) == 3 and "failed" in told[0] and "blue" in told[0] and "Look at the end." in told[1] and "red" in told[2]
    assert browser.run("document.querySelectorAll('.flow .region').length") == 1
    assert browser.run("document.querySelectorAll('.timeline .curve').length") == 1


def test_of_ten_thousand_answers_only_those_in_view_are_drawn(browser: Browser, tmp_path: Path) -> None:
    steps = {step: ([question(f"q{n}") for n in range(25)], [row for n in range(25) for row in group(f"q{n}")]) for step in range(1, 101)}
    run = make_run(tmp_path / "run", steps, data={"train": "none.jsonl", "questions_per_step": 25})
    browser.open(write_report(run).as_uri())
    assert browser.count() == "2,500 questions, 10,000 answers"
    assert browser.run("document.querySelectorAll('.item').length") < 40
    browser.run("document.getElementById('list').scrollTop = 1e9")
    time.sleep(0.2)
    assert browser.run("[...document.querySelectorAll('.item')].at(-1).getAttribute('aria-posinset')") == "2500"
