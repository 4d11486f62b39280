"""Pulse sequences: Pulseq files in, one table of intervals out, which every engine reads."""

from factory.sequences.pulseq import Block, Sequence, parse, read
from factory.sequences.table import Table
from factory.sequences.text import SequenceError

__all__ = ["Block", "Sequence", "SequenceError", "Table", "parse", "read"]
