"""The replay benchmark: it replays as many different configurations as it was asked for, or none."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks import replay as benchmark
from cascade.errors import InputError
from cascade.load import load_config
from cascade.tuner import Recording
from tests.tuner_for_tests import CASCADE, Machine, judgments, recorded

MACHINE = Machine()
REGISTRY = MACHINE.registry()
WIDE = Path(benchmark.__file__).parent / "wide.yaml"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Of stages like those of wide.yaml, as deep as the README records them."""
    text = "\n".join(line for line in CASCADE.splitlines() if "name: slow" not in line)
    return recorded(tmp_path_factory.mktemp("replay"), MACHINE, text=text, queries=3, depth=200, passages=1200)


def test_the_stages_of_the_readme_allow_a_thousand_configurations(recording: Recording) -> None:
    wide = load_config(WIDE)
    assert [entry.settings.top_k for entry in wide.entries()] == [1000] * 4
    assert len(list(wide.entries())) == len(recording.header.units)
    space = benchmark.space_of(recording, 50.0, REGISTRY)
    every = list(space.points())
    points = benchmark.spread(every, 1000)
    assert len({point.key for point in points}) == 1000
    free = sum(point.limits.budget_ms is None for point in every)
    assert sum(point.limits.budget_ms is None for point in points) == min(500, free)
    assert {point.limits.budget_ms for point in points} == {None, 25.0, 50.0, 100.0, 200.0}
    assert {point.depths[0] for point in points if point.depths} >= {5, 200}
    assert {point.first.fusion for point in points} == {0, 1}
    for point in points[::100]:
        space.config(point)


def test_fewer_configurations_than_asked_for_are_refused(recording: Recording) -> None:
    points = list(benchmark.space_of(recording, 50.0, REGISTRY).points())
    with pytest.raises(InputError, match=f"--configurations: expected at most {len(points)}, .* got {len(points) + 1}"):
        benchmark.spread(points, len(points) + 1)
    assert {point.key for point in benchmark.spread(points, len(points))} == {point.key for point in points}


def test_where_few_have_a_budget_the_others_make_up_for_them(recording: Recording) -> None:
    points = list(benchmark.space_of(recording, 50.0, REGISTRY).points())
    free = [point for point in points if point.limits.budget_ms is None]
    limited = [point for point in points if point.limits.budget_ms is not None][:3]
    assert len({point.key for point in benchmark.spread([*free, *limited], 20)}) == 20
    assert len({point.key for point in benchmark.spread([*limited, *free[:3]], 5)}) == 5


def arguments(recording: Recording, folder: Path, *options: str) -> list[str]:
    qrels = folder / "qrels.tsv"
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, qrel)) for qrel in judgments(recording))]
    qrels.write_text("\n".join(lines) + "\n")
    given = ["--recording", recording.source, "--qrels", str(qrels), "--out", str(folder / "found.json")]
    return ["replay", *given, "--processes", "1", *options]


def test_the_figures_are_of_what_was_asked_for(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "space_of", partial(benchmark.space_of, registry=REGISTRY))
    monkeypatch.setattr(sys, "argv", arguments(recording, tmp_path, "--configurations", "20"))
    assert benchmark.main() == 0
    report = json.loads((tmp_path / "found.json").read_text())
    assert (report["configurations"], report["queries"]) == (20, 3)
    assert report["replays_per_second"] == pytest.approx(60 / report["seconds"])
    assert report["candidates_mean"] == len(recording.rows.values) / 3


def test_nothing_is_measured_where_the_recording_allows_too_few(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", arguments(recording, tmp_path, "--configurations", "1000000"))
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
    assert "record more stages, or with a larger --depth" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "found.json").exists()
