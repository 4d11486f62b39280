"""What can be wrong with a store, each with the exit code that a command ends with."""

from __future__ import annotations


class StoreError(Exception):
    """A store that cannot be used as asked; the sentence says what was found and what to do next."""

    code = 1


class DamagedStore(StoreError):
    """Something that was written is missing, short or different."""

    code = 1


class IncompleteStore(StoreError):
    """Shards are still to be made."""

    code = 2


class AnotherRecipe(StoreError):
    """The store was made by another recipe, by other sample counts, or by code that behaves differently."""

    code = 3


class NoStore(StoreError):
    """There is no store at the path."""

    code = 10
