from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml

from cascade.cli.training import rates_of, read_settings
from cascade.errors import ConfigError
from stages.training import DistillSettings, TrainSettings
from stages.training.settings import CONTRASTS

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml"))
FLAGS = {"kind": "colbert", "data": [{"path": Path("corpus")}], "out": Path("out")}
YAML = """\
kind: listwise
out: made
data:
  - {path: first, weight: 2}
  - {path: second, max_queries: 10}
base: models/mine
"""


def test_paths_of_a_file_start_from_its_folder_and_those_of_flags_do_not(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(YAML)
    read = read_settings(TrainSettings, {"out": Path("here"), "base": None}, file, ["negatives=3"])
    assert read.out == Path("here")
    assert read.data[0].path == tmp_path / "first"
    assert read.base == str(tmp_path / "models/mine")
    assert (read.negatives, read.data[0].weight, read.data[1].max_queries) == (3, 2, 10)
    assert read.bi_encoder == "bundled:bi-encoder"


def test_collections_of_a_file_may_lie_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(YAML)
    read = read_settings(TrainSettings, {}, file, [], Path("beir"))
    assert [one.path for one in read.data] == [Path("beir/first"), Path("beir/second")]
    assert read.out == tmp_path / "made"
    for flags, config in ((FLAGS, None), ({"data": FLAGS["data"]}, file)):
        with pytest.raises(typer.BadParameter, match="expected a --config whose collections lie there"):
            read_settings(TrainSettings, flags, config, [], Path("beir"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_settings_that_lack_only_where_things_are(recipe: Path, tmp_path: Path) -> None:
    model = DistillSettings if "teachers" in yaml.safe_load(recipe.read_text()) else TrainSettings
    read = read_settings(model, {"out": tmp_path / "out"}, recipe, [], tmp_path)
    assert recipe.stem in (read.kind, f"{read.kind}-contrasts")
    own = {one.path for one in read.data if one.path.name != "contrasts"}
    assert {path.parent for path in own} == {tmp_path}
    assert all((path / "queries.jsonl").is_file() for path in {one.path for one in read.data} - own)


def test_only_a_collection_may_lie_in_the_package() -> None:
    read = read_settings(TrainSettings, {**FLAGS, "out": Path(CONTRASTS), "cache": Path(CONTRASTS)}, None, [])
    assert (read.out, read.cache) == (Path(CONTRASTS), Path(CONTRASTS))


def test_there_is_a_recipe_for_each_bundled_kind_of_model() -> None:
    kinds = {"cross-encoder", "colbert", "listwise", "distilbert"}
    assert {path.stem for path in RECIPES} == {*kinds, "cross-encoder-contrasts"}


def test_every_problem_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(YAML + "negativs: 3\nsteps: 0\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(TrainSettings, {}, file, [])
    assert str(caught.value).splitlines() == [
        f"{file}:7: negativs: unknown key; did you mean 'negatives'?",
        f"{file}:8: steps: expected an integer >= 1 or null, got 0",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "gpt"}, "kind: expected one of colbert, cross-encoder, listwise, bi-encoder, got 'gpt'"),
        ({"layers": 2, "keep_layers": [0]}, "keep_layers and layers exclude each other"),
        ({"keep_layers": [1, 0]}, "keep_layers: expected different numbers in ascending order"),
        ({"lookalikes": 1.5}, r"lookalikes: expected a number >= 0 and <= 1 or null, got 1\.5"),
        ({"anchor": -1}, "anchor: expected a number >= 0 and <= 100, got -1"),
        ({"train_embeddings": True, "frozen_layers": 2}, "train_embeddings needs frozen_layers: 0"),
    ],
)
def test_wrong_settings_are_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(TrainSettings, {**FLAGS, **more}, None, [])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pool": 7}, "pool: expected more than negatives = 7, got 7"),
        ({"target_ms": 5, "layers": 2, "kind": "distilbert"}, "target_ms chooses the layers; leave"),
        (
            {"hints": 1, "teachers": ["colbert=t"]},
            "hints: expected a student distilbert and a teacher colbert=..., got colbert",
        ),
        ({"hints": 1, "kind": "distilbert"}, "hints: expected .*, got distilbert and t$"),
        ({"target_ms": 5}, "target_ms is for students that read question and passage together, not for colbert$"),
    ],
)
def test_wrong_settings_of_distillation_are_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(DistillSettings, {**FLAGS, "teachers": ["t"], **more}, None, [])


def test_learning_rates_are_of_a_part_or_of_the_layers() -> None:
    assert rates_of(["1e-5", "head=2e-3"]) == {"layers": "1e-5", "head": "2e-3"}
    assert rates_of(None) is None
    rates = read_settings(TrainSettings, {**FLAGS, "learning_rates": {"layers": "1e-5"}}, None, []).learning_rates
    assert rates == {"layers": 1e-5}
