import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ModelError
from cascade.optimizing import JudgedQuestion, optimizer
from cascade.stage import Batch, Context, Reranker
from cascade.types import Query
from stages import colbert, dense, listwise
from stages.cross_encoder import KIND, CrossEncoderSettings
from stages.models.catalogue import bundled
from stages.runtimes.compiled import CompiledRuntime, chunks, padded, shapes
from stages.runtimes.engines import ENGINES, ONNX, OPENVINO, Engine
from stages.runtimes.forms import cache_folder, form_folder, load_form
from stages.runtimes.onnx import ONNXRuntime
from stages.runtimes.openvino import OpenVINORuntime
from stages.runtimes.parity import Parity, Refused
from tests.models_for_tests import TEXTS, joint_encoder, passages, tiny_bert_classifier

QUESTIONS = [
    JudgedQuestion("where did the cat sit?", (TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[4]), (1, 0, 0, 0)),
    JudgedQuestion("what finds candidates?", (TEXTS[4], TEXTS[1], TEXTS[6], TEXTS[0]), (2, 0, 0, 1)),
    JudgedQuestion("what is a deadline?", (TEXTS[0], TEXTS[2], TEXTS[1], TEXTS[5]), (0, 1, 0, 0)),
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield cache_folder()


@pytest.fixture(scope="module", params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    if not request.param.installed:
        pytest.skip(f"{request.param.package} is not installed")
    return request.param


def make(folder: Path, precision: str | None, engine: Engine):
    return optimizer(engine.name)(str(folder), precision, QUESTIONS, lambda step, done, total: None)


def opened(folder: Path, **changes) -> Reranker:
    settings = CrossEncoderSettings(
        name="ce",
        kind="cross_encoder",
        top_k=10,
        model=str(folder),
        max_passage_tokens=40,
        max_query_tokens=24,
        **changes,
    )
    return KIND.load(settings, Context(Path())).open(passages(), None)


def scores(reranker: Reranker, rows: list[int] | None = None) -> np.ndarray:
    chosen = np.array(range(len(TEXTS)) if rows is None else rows, np.int32)
    return reranker.score(Batch.single(reranker.encode_query(Query("q", "the cat and the mat")), chosen))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, cache: Path, engine: Engine) -> Path:
    folder = tiny_bert_classifier(tmp_path_factory.mktemp("bert"))
    make(folder, "float32", engine)
    return folder


def test_without_a_form_auto_takes_torch_and_the_others_say_what_to_run(tmp_path: Path, engine: Engine) -> None:
    folder = tiny_bert_classifier(tmp_path, labels=2)
    assert not isinstance(opened(folder).runtime, CompiledRuntime)
    with pytest.raises(ModelError, match=r"found none; run `cascade models optimize [^`]*`"):
        opened(folder, runtime=engine.name)
    with pytest.raises(ModelError, match=r"found none; run `cascade models optimize .* --precision int8`"):
        opened(folder, dtype="int8")
    with pytest.raises(ModelError) as error:
        opened(folder, runtime="onnx")
    assert "--runtime onnx" in str(error.value)


def test_a_precision_that_an_engine_lacks_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ONNX Runtime runs int8, float32, not bfloat16; take another --precision"):
        make(tmp_path / "never read", "bfloat16", ONNX)


def test_a_form_is_found_and_scores_as_torch_does_at_any_size(bert: Path, engine: Engine) -> None:
    plain, fast = opened(bert, runtime="torch"), opened(bert, runtime=engine.name, dtype="float32")
    assert type(fast.runtime).__module__ == f"stages.runtimes.{engine.name}"
    expected = scores(plain)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(scores(fast), expected, atol=1e-4)
    many = [row % len(TEXTS) for row in range(37)]
    np.testing.assert_allclose(scores(fast, many), expected[many], atol=1e-4)
    assert scores(fast, [3]).shape == (1,)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_every_call_has_a_shape_that_was_met_before(lengths: list[int]) -> None:
    known, falling = set(shapes(300, 8)), sorted(lengths, reverse=True)
    parts = [falling[part] for part in chunks(len(lengths))]
    assert [length for part in parts for length in part] == falling
    assert {(len(part), padded(part[0])) for part in parts} <= known
    assert len(known) < 100


def test_preparing_again_does_not_run_shapes_twice(bert: Path) -> None:
    runtime = load_form(bert, [OPENVINO])
    if runtime is None:
        make(bert, "float32", OPENVINO)
        runtime = load_form(bert, [OPENVINO])
    assert isinstance(runtime, OpenVINORuntime)
    ran: list[tuple[int, ...]] = []
    infer = runtime.infer
    runtime.infer = lambda parts: (ran.append(parts[0].shape), infer(parts))[1]  # type: ignore[method-assign]
    runtime.prepare(1, longest=20, most=2)
    runtime.prepare(1, longest=30, most=2)
    assert ran == [(1, 8), (1, 16), (1, 24), (2, 8), (2, 16), (2, 24), (1, 32), (2, 32)]
    runtime.prepare(2, longest=8)
    assert ran[8:] == [(1, 8)]


@pytest.mark.parametrize("width", [1, 33, 64, 65, 72, 90])
def test_whatever_the_width_only_shapes_that_were_met_are_run(bert: Path, engine: Engine, width: int) -> None:
    runtime = load_form(bert, [engine], "float32")
    assert runtime is not None
    runtime.prepare(1)
    ran: set[tuple[int, ...]] = set()
    infer = runtime.infer
    runtime.infer = lambda parts: (ran.update(part.shape for part in parts), infer(parts))[1]  # type: ignore[method-assign]
    ids, mask = np.ones((7, width), np.int64), np.tri(7, width, width - 7, dtype=np.int64)
    mask[:, 0] = 1
    alone = np.concatenate([runtime.run(ids[[row]], mask[[row]], None) for row in range(7)])
    np.testing.assert_allclose(runtime.run(ids, mask, None), alone, atol=1e-5)
    assert ran <= set(shapes(width, 4))


def test_threads_share_a_model(bert: Path, engine: Engine) -> None:
    fast = opened(bert, runtime=engine.name, dtype="float32")
    expected = scores(fast)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: scores(fast), range(12)):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_openvino_before_onnx(tmp_path: Path) -> None:
    folder = tiny_bert_classifier(tmp_path, labels=2)
    for engine in (ONNX, OPENVINO):
        make(folder, "float32", engine)
        runtime = opened(folder, dtype="float32").runtime
        assert type(runtime).__module__ == f"stages.runtimes.{engine.name}"


def test_cores_are_divided_among_callers(tmp_path: Path) -> None:
    folder = tiny_bert_classifier(tmp_path)
    make(folder, "float32", OPENVINO)
    runtime = load_form(folder, [OPENVINO])
    assert isinstance(runtime, OpenVINORuntime)
    for threads in (1, 2):
        runtime.prepare(threads)
        streams = int(runtime.compiled.get_property("NUM_STREAMS"))
        assert int(runtime.compiled.get_property("INFERENCE_NUM_THREADS")) == streams * threads


def test_threads_of_onnx_runtime_are_those_asked_for(tmp_path: Path) -> None:
    folder = tiny_bert_classifier(tmp_path)
    make(folder, "float32", ONNX)
    runtime = load_form(folder, [ONNX])
    assert isinstance(runtime, ONNXRuntime)
    for threads in (1, 2):
        runtime.prepare(threads)
        assert runtime.session.get_session_options().intra_op_num_threads == threads


def test_nothing_is_reported_to_the_makers_of_openvino(tmp_path: Path) -> None:
    make(tiny_bert_classifier(tmp_path), "float32", OPENVINO)
    assert sys.modules["openvino_telemetry"] is None


def test_the_report_says_how_the_form_ranks(bert: Path, engine: Engine) -> None:
    folder = form_folder(bert, engine, "float32")
    report = json.loads((folder / "report.json").read_text())
    assert report["parity"]["tau"] == 1.0
    assert report["parity"]["questions"] == 3
    assert report["versions"][engine.package] in folder.name


@pytest.mark.parametrize("cut", [False, True], ids=["a bit flipped", "cut off"])
@pytest.mark.parametrize("last", [False, True], ids=["first file", "last file"])
def test_a_damaged_form_is_an_error_not_another_ranking(last: bool, cut: bool, bert: Path, engine: Engine) -> None:
    path = form_folder(bert, engine, "float32") / engine.files[-1 if last else 0]
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100] + (b"" if cut else bytes([content[100] ^ 1]) + content[101:]))
        with pytest.raises(ModelError, match="damaged"):
            opened(bert, runtime=engine.name, dtype="float32")
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("report", ["", "{", "[]", '{"outputs": 1}', '{"files": {}, "outputs": 1}'])
def test_a_damaged_report_is_an_error(report: str, bert: Path, engine: Engine) -> None:
    path = form_folder(bert, engine, "float32") / "report.json"
    content = path.read_text()
    try:
        path.write_text(report)
        with pytest.raises(ModelError, match="damaged"):
            opened(bert, runtime=engine.name, dtype="float32")
    finally:
        path.write_text(content)


def test_other_weights_have_no_use_for_a_form(bert: Path, tmp_path: Path, engine: Engine) -> None:
    assert load_form(tiny_bert_classifier(tmp_path, labels=2), [engine]) is None


def test_a_form_that_drifts_is_refused_and_not_kept(
    bert: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.runtimes import parity

    monkeypatch.setattr(parity, "LEAST_TAU", 1.1)
    before = sorted(cache_folder().iterdir())
    with pytest.raises(ModelError, match=r"in float32: refused"):
        make(bert, None, engine)
    with pytest.raises(
        ModelError, match=r"in int8: refused, since it ranks differently: nDCG@10 .* use another --precision"
    ):
        make(bert, "int8", engine)
    assert sorted(cache_folder().iterdir()) == before


def test_after_a_form_that_drifts_the_next_precision_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_bert_classifier(tmp_path, labels=2)
    require, tried = Parity.require, []

    def refuse_first(parity: Parity, what: str, instead: str) -> None:
        tried.append(what)
        if len(tried) == 1:
            raise Refused("int8: not alike")
        require(parity, what, instead)

    monkeypatch.setattr(Parity, "require", refuse_first)
    made = make(folder, None, ONNX)
    assert (made.precision, made.refused) == ("float32", ("int8: not alike",))
    assert type(opened(folder, runtime="onnx").runtime).__module__ == "stages.runtimes.onnx"


@pytest.mark.slow
def test_int8_ranks_as_real_weights_do(tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(engine.makers[1])
    folder = joint_encoder(tmp_path)
    made = make(folder, "int8", engine)
    assert made.figures["tau"] > 0.9
    assert capsys.readouterr().out == ""
    fast = opened(folder, runtime=engine.name)
    found, expected = scores(fast), scores(opened(folder, runtime="torch"))
    assert type(fast.runtime).__module__ == f"stages.runtimes.{engine.name}"
    assert (found != expected).any()
    assert np.corrcoef(found, expected)[0, 1] > 0.98


def ranker(engine_name: str, **changes):
    settings = listwise.KIND.settings(
        name="l", kind="listwise", top_k=5, model="bundled:listwise", runtime=engine_name, **changes
    )
    return listwise.KIND.load(settings, Context(Path())).open(passages(), None)


def window_scores(opened, rows: list[int]) -> np.ndarray:
    return opened.score_window(opened.encode_query(Query("q", "where did the cat sit?")), np.array(rows, np.int32))


def test_a_listwise_form_scores_whole_and_partial_windows_as_torch_does(cache: Path, engine: Engine) -> None:
    made = optimizer(engine.name)("bundled:listwise", "float32", QUESTIONS, lambda step, done, total: None)
    assert json.loads((made.folder / "report.json").read_text())["outputs"] == 4
    assert "windows" in made.folder.name
    slow, fast = ranker("torch"), ranker(engine.name)
    for rows in ([1, 0, 2, 4], [4, 2, 0, 1], [5, 1], [3], []):
        np.testing.assert_allclose(window_scores(fast, rows), window_scores(slow, rows), atol=2e-3)
    with pytest.raises(ModelError, match="its form reads 4 passages at once, not 5; lower window"):
        ranker(engine.name, window=5)
    assert len(window_scores(ranker("auto", window=5), [0, 1, 2, 4, 5])) == 5
    assert load_form(bundled("bundled:listwise").folder(), [engine]) is None  # no pair is scored by it


@pytest.fixture(scope="module")
def bi_encoder(cache: Path, engine: Engine) -> str:
    optimizer(engine.name)("bundled:bi-encoder", None, QUESTIONS, lambda step, done, total: None)
    return "bundled:bi-encoder"


@pytest.mark.parametrize("text", ["cat", "where did the cat sit?", "a longer question of several words " * 9, ""])
def test_a_query_is_encoded_as_torch_does(text: str, bi_encoder: str, engine: Engine) -> None:
    for kind, settings in ((dense.KIND, dense.DenseSettings), (colbert.KIND, colbert.ColbertSettings)):
        slow, fast = (
            kind.load(settings(name="s", kind=kind.kind, top_k=5, model=bi_encoder, runtime=runtime), Context(Path()))
            .open(passages(), None)
            .encode_query(Query("q", text))
            for runtime in ("torch", engine.name)
        )
        assert slow.shape == fast.shape
        assert (np.abs(slow - fast) > 0).any()
        np.testing.assert_allclose(np.sum(slow * fast, -1), np.ones(slow.shape[:-1]), atol=1e-3)


def test_an_encoder_is_reported_where_its_form_comes_off_worse(bi_encoder: str, engine: Engine) -> None:
    made = optimizer(engine.name)(bi_encoder, "float32", QUESTIONS, lambda step, done, total: None)
    assert json.loads((made.folder / "report.json").read_text())["outputs"] == 384
    assert made.figures["tau"] == 1.0


def test_without_a_form_an_encoder_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = dense.DenseSettings(name="s", kind="dense", top_k=5, runtime="openvino")
    with pytest.raises(ModelError, match="found none; run `cascade models optimize bundled:bi-encoder`"):
        dense.KIND.load(settings, Context(Path()))
    assert dense.KIND.load(settings.model_copy(update={"runtime": "auto"}), Context(Path())) is not None
