import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cascade.evaluation import GapReport, StagedRun, StageRun, gap_report, report_page
from cascade.evaluation.html import _decades, _steps
from cascade.types import Qrel

QUERIES = [f"q{i}" for i in range(12)]
QRELS = [Qrel(query_id, "good", 1) for query_id in QUERIES]
HOSTILE = "</text><script>alert(1)</script><img src=x onerror='alert(2)'>\" & \x1b[31m\ud800"
VOID = {"meta", "circle", "line"}


class Page(HTMLParser):
    """Checks that every element is closed in its turn, and keeps what it saw."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def stage(name: str, order: list[str], ms: float, *inputs: str) -> StageRun:
    ranked = dict.fromkeys(QUERIES, order)
    return StageRun(name, ranked, ranked, dict.fromkeys(QUERIES, ms / 1000), dict.fromkeys(QUERIES, len(order)), inputs)


def report(first: str = "bm25", second: str = "reranker") -> GapReport:
    stages = (stage(first, ["x", "y", "good"], 2.0), stage(second, ["good", "x", "y"], 30.0, first))
    run = StagedRun(stages, dict.fromkeys(QUERIES, 0.033), 0.02, {"name": "demo", "source": f"{second}.yaml"})
    return gap_report(run, [*QRELS, Qrel("elsewhere", "d", 1)])


def test_page_shows_every_verdict_number_and_remark() -> None:
    page = Page(report_page(report()))
    assert page.texts["li"] == [stage.sentence for stage in report().stages]
    cells = page.texts["td"]
    for name, value in report().stages[1].measures.items():
        assert name in page.texts["th"]
        assert f"{value:.3f}" in cells
    assert "100.0%" in cells
    assert any("33.00 ms (p50)" in text and "100.0% of queries over budget" in text for text in page.texts["p"])
    assert any("1 judged query has no results" in text for text in page.texts["p"])
    assert '"source": "reranker.yaml"' in page.texts["pre"][0]
    assert page.tags.count("circle") == 2
    assert {"bm25", "reranker", "10", "100"} <= set(page.texts["text"])


def test_chart_has_time_to_the_right_and_quality_upwards() -> None:
    html = report_page(report())
    circles = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', html)]
    (x0, y0), (x1, y1) = circles
    assert x0 < x1
    assert y0 > y1
    assert f'<line class="way" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>' in html
    # 2 ms and 32 ms between 1 and 100: the logarithms of the times divide the axis.
    left, right = (float(x) for x in re.findall(r'<line class="grid" x1="([\d.]+)" y1="20"', html)[:3:2])
    assert (x0 - left) / (right - left) == pytest.approx(0.1505, abs=1e-3)
    assert (x1 - left) / (right - left) == pytest.approx(0.7526, abs=1e-3)


def test_page_needs_no_network_and_no_script() -> None:
    page = Page(report_page(report()))
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"href", "src", "style", "xlink:href"}
    assert "url(" not in report_page(report())
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_hostile_names_are_shown_and_change_nothing() -> None:
    hostile = report("bm25" + HOSTILE, HOSTILE)
    hostile = replace(hostile, missing=(HOSTILE,), config={"name": HOSTILE, HOSTILE: [HOSTILE]})
    html = report_page(hostile)
    page, harmless = Page(html), Page(report_page(replace(report(), config={"name": "demo", "a": ["b"]})))
    assert page.tags == harmless.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in harmless.attributes]
    assert any("<script>alert(1)</script>" in text for text in page.texts["td"])
    assert "\x1b" not in html
    html.encode()


def test_stages_of_no_cost_and_no_quality_can_be_drawn() -> None:
    run = StagedRun((stage("bm25", ["x"], 0.0),), dict.fromkeys(QUERIES, 0.0))
    assert Page(report_page(gap_report(run, QRELS))).tags.count("circle") == 1


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0.6, 53.0, [0.1, 1, 10, 100]), (1.0, 1.0, [1, 10]), (10.0, 100.0, [10, 100])]
)
def test_times_stand_between_powers_of_ten(low: float, high: float, ticks: list[float]) -> None:
    assert _decades(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.52, 0.61, [0.5, 0.55, 0.6, 0.65]), (0.0, 0.0, [0.0, 0.05]), (0.1, 0.9, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])],
)
def test_quality_stands_between_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert _steps(low, high) == pytest.approx(ticks)
