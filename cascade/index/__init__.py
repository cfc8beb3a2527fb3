"""The index: documents, token ids and what each stage keeps, in a folder that is never half written.

::

    idx/
      CURRENT                     names the committed generation; replaced in one step
      LOCK                        held by a writer
      generation-000001/          immutable once CURRENT names it
        manifest.json             what it was built from and with; size and SHA-256 of every file
        documents/                columns of ids, titles, texts and metadata; passages as slices of the texts
        tokens/<tokenizer>/       ids.npy, offsets.npy
        stages/<kind>-<hash>/     the stage's own files
      building/                   work in progress, taken up again after an interruption

Opening maps the files; nothing in proportion to the corpus is read into memory.

Adding and deleting without a rebuild is not there yet, and fits in without a new format of what exists: a later
generation would hold the new documents only, a bitmap of deleted document numbers, and in its manifest an ordered
list of the earlier generations it builds on. Each keeps its own rows from 0, shifted by a base when opened, so that
committed files never change; the switch stays one replacement of CURRENT, and merging is an ordinary build whose
corpus is the index itself.
"""

from cascade.index.build import Corpus, IndexedStage, Record, build_index
from cascade.index.collection import Collection
from cascade.index.manifest import Manifest
from cascade.index.memory import MemoryPassages
from cascade.index.reader import Index
from cascade.schema import PassageSettings

__all__ = [
    "Collection",
    "Corpus",
    "Index",
    "IndexedStage",
    "Manifest",
    "MemoryPassages",
    "PassageSettings",
    "Record",
    "build_index",
]
