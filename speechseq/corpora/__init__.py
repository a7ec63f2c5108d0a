"""The corpora: one file each, and the table that names them."""

from speechseq.corpora import (
    an4,
    arabic_speech_commands,
    folder,
    fsdd,
    librispeech,
    shards,
    speech_commands,
    tables,
    yesno,
)
from speechseq.manifest import Corpus

CORPORA: dict[str, Corpus] = {
    "fsdd": fsdd.CORPUS,
    "arabic_speech_commands": arabic_speech_commands.CORPUS,
    "yesno": yesno.CORPUS,
    "speech_commands": speech_commands.CORPUS,
    "speech_commands_v0.01": speech_commands.CORPUS_V1,
    "librispeech": librispeech.CORPUS,
    "mini_librispeech": librispeech.MINI,
    "an4": an4.CORPUS,
    "synthetic_words": folder.SYNTHETIC,
    "folder": folder.CORPUS,
    "csv": tables.CSV,
    "jsonl": tables.JSONL,
    "shards": shards.CORPUS,
}
"""Every corpus by its name; an entry is one file beside this one and one line here."""
