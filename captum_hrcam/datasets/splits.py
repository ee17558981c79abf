"""Splits without leaks: whole groups (lesions, subjects) are held out, class by class."""

from collections import Counter
from collections.abc import Hashable, Sequence
from hashlib import sha256


def held_out(
    strata: Sequence[Hashable], groups: Sequence[str], fraction: float, seed: int
) -> list[bool]:
    r"""
    Which items are held out: about ``fraction`` of every stratum, and never a part of a group.

    Groups are ordered by a hash of the seed and their name, so that the split depends neither on
    the order of the items nor on the version of a random generator. A group of mixed strata counts
    towards its most frequent one. A stratum with two groups or more is on both sides; the only
    group of a stratum is not held out.

    Args:
        strata (Sequence): the stratum of each item: its class.
        groups (Sequence[str]): the group of each item: its lesion or subject.
        fraction (float): share of a stratum's items to hold out, between 0 and 1.
        seed (int): another seed gives another split.

    Returns:
        list[bool]: True for the items held out.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.

    Examples::

        >>> held_out("aaaabb", ["g1", "g1", "g2", "g3", "g4", "g5"], fraction=0.5, seed=0)
        [False, False, True, True, False, True]
    """
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction: got {fraction}, expected a number between 0 and 1.")
    counts: dict[str, Counter[Hashable]] = {}
    for stratum, group in zip(strata, groups, strict=True):
        counts.setdefault(group, Counter())[stratum] += 1
    members: dict[Hashable, list[str]] = {}
    for group, count in counts.items():
        main = max(sorted(count, key=str), key=count.__getitem__)  # ties: not by order of items
        members.setdefault(main, []).append(group)
    out: set[str] = set()
    for names in members.values():
        names.sort(key=lambda name: (sha256(f"{seed} {name}".encode()).digest(), name))
        out.update(_first_share(names, [counts[name].total() for name in names], fraction))
    return [group in out for group in groups]


def split_indices(
    split: str, strata: Sequence[Hashable], groups: Sequence[str], fraction: float, seed: int
) -> list[int]:
    """The items of ``split``: "test" is what ``held_out`` gives, "train" the rest, "all" both."""
    out = held_out(strata, groups, fraction, seed)
    return [i for i in range(len(groups)) if split == "all" or out[i] == (split == "test")]


def _first_share(names: list[str], sizes: list[int], fraction: float) -> list[str]:
    """The first names that together hold about ``fraction`` of all items."""
    wanted, before, n = fraction * sum(sizes), 0.0, 0
    for size in sizes:
        n += before + size / 2 <= wanted  # a group whose middle lies within the share
        before += size
    return names[: min(max(n, 1), len(names) - 1)]
