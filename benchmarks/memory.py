"""How much memory does indexing take, and how long does the command line take to start?

    python -m benchmarks.memory --passages 100000 --out benchmarks/results/memory.json

Passages are sentences of the demo corpus in random order, 90 words each. `cascade index` runs with BM25 alone in a
process of its own, whose peak resident memory the operating system reports.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine_record, print_table
from cascade.demo import gather
from cascade.io import write_json_atomic

CONFIG = "version: 1\nname: bm25\nstages:\n  - {name: bm25, kind: bm25, top_k: 100}\n"
WORDS = 90


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus, config = Path(folder, "corpus.jsonl"), Path(folder, "bm25.yaml")
        write_corpus(corpus, arguments.passages)
        config.write_text(CONFIG)
        command = ["index", "--config", str(config), "--corpus", str(corpus), "--index", str(Path(folder, "index"))]
        began = time.perf_counter()
        cascade(*command)
        seconds = time.perf_counter() - began
        peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        import_s = median_of(5, "-c", "import cascade")
        engine_s = median_of(5, "-c", "from cascade import Cascade")
        bare_s = median_of(5, "-c", "pass")
        validate_s = median_of(5, "-m", "cascade", "validate", str(config))
    figures = {
        "passages": arguments.passages,
        "corpus words": arguments.passages * WORDS,
        "index, peak MiB": round(peak_mib, 1),
        "index, s": round(seconds, 1),
        "import cascade, s beyond python's own start": round(import_s - bare_s, 3),
        "from cascade import Cascade, s beyond it": round(engine_s - bare_s, 3),
        "cascade validate, s": round(validate_s, 3),
    }
    write_json_atomic(arguments.out, {"machine": machine_record(), **figures})
    print_table(["what", "figure"], [[name, str(value)] for name, value in figures.items()])
    return 0


def write_corpus(path: Path, passages: int) -> None:
    """Random passages of real sentences."""
    source = [sentence.split() for document in gather() for sentence in document.text.split(". ")]
    chosen = random.Random(0)
    with path.open("w") as file:
        for number in range(passages):
            words: list[str] = []
            while len(words) < WORDS:
                words += chosen.choice(source)
            file.write(json.dumps({"_id": str(number), "title": "", "text": " ".join(words[:WORDS])}) + "\n")


def cascade(*arguments: str) -> None:
    """Runs a command line in a process of its own."""
    subprocess.run([sys.executable, "-m", "cascade", *arguments], check=True)


def median_of(times: int, *arguments: str) -> float:
    """Median seconds of a Python process."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
