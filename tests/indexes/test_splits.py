import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.errors import DataError
from tapetum.indexes.splits import carve, check_groups, limited, without_copies
from tapetum.indexes.table import to_table

names = st.lists(st.text("abcdef/.0123456789é", min_size=1, max_size=8), min_size=1, max_size=60, unique=True)


def table(paths, *, split="train", **columns):
    return to_table({"path": paths, "split": [split] * len(paths), **columns})


def split_of(carved: pa.Table) -> dict[str, str]:
    return dict(zip(carved.column("path").to_pylist(), carved.column("split").to_pylist(), strict=True))


@settings(max_examples=50, deadline=None)
@given(names, names, st.floats(0, 0.99))
def test_validation_keeps_its_rows_when_files_are_added(before, added, fraction):
    small, _ = carve(table(before), fraction)
    large, _ = carve(table(sorted({*before, *added})), fraction)
    assert split_of(small).items() <= split_of(large).items()


@settings(max_examples=50, deadline=None)
@given(names, st.floats(0, 0.5), st.floats(0.5, 0.99))
def test_a_larger_fraction_keeps_the_validation_rows_of_a_smaller_one(paths, small, large):
    def validation(fraction):
        return {path for path, split in split_of(carve(table(paths), fraction)[0]).items() if split == "val"}

    assert validation(small) <= validation(large)


def test_validation_is_about_its_fraction_and_never_touches_test():
    paths = [f"{number}.png" for number in range(20_000)]
    carved, moved = carve(table(paths), 0.1)
    # Three standard deviations of a binomial with 20,000 draws.
    assert abs(moved - 2000) < 3 * np.sqrt(20_000 * 0.1 * 0.9)
    assert list(split_of(carved).values()).count("val") == moved
    assert carve(table(paths, split="test"), 0.9)[1] == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_a_group_is_carved_as_a_whole(groups):
    paths = [f"{number}.png" for number in range(len(groups))]
    carved, _ = carve(table(paths, group=[f"g{group}" for group in groups]), 0.5)
    splits = carved.column("split").to_pylist()
    for group in set(groups):
        assert len({split for split, own in zip(splits, groups, strict=True) if own == group}) == 1


rows = st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=80)


def labelled(pairs):
    return table(
        [f"{number}.png" for number in range(len(pairs))],
        label=[label for label, _ in pairs],
        generator=[generator if label else None for label, generator in pairs],
    )


@settings(max_examples=50, deadline=None)
@given(rows, st.integers(1, 90), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_limit_is_nested_stratified_and_blind_to_the_order_of_rows(pairs, number, seed, random):
    everything = labelled(pairs)
    kept = set(limited(everything, {"train": number}, seed).column("path").to_pylist())
    assert len(kept) == min(number, len(pairs))
    assert kept <= set(limited(everything, {"train": number + 1}, seed).column("path").to_pylist())

    order = list(range(len(pairs)))
    random.shuffle(order)
    shuffled = limited(everything.take(order), {"train": number}, seed)
    assert set(shuffled.column("path").to_pylist()) == kept

    chosen = limited(everything, {"train": number}, seed).column("label").to_pylist()
    for label in {label for label, _ in pairs}:
        share = number * sum(own == label for own, _ in pairs) / len(pairs)
        if len(kept) < len(pairs):
            assert abs(chosen.count(label) - share) <= 1


def test_the_seed_of_a_limit_draws_other_rows_and_both_classes_come_first():
    pairs = [(0, "a")] * 100 + [(1, "a")] * 10
    draws = [limited(labelled(pairs), {"train": 20}, seed).column("path").to_pylist() for seed in (0, 1)]
    assert draws[0] != draws[1]
    assert sorted(limited(labelled(pairs), {"train": 2}, 0).column("label").to_pylist()) == [0, 1]


def test_a_limit_takes_gallery_and_queries_of_every_identity():
    people = [f"p{number % 5}" for number in range(50)]
    both = table(
        [f"{number}.png" for number in range(50)],
        split="test",
        label=[int(name[1]) for name in people],
        role=["gallery" if number < 10 else "query" for number in range(50)],
    )
    kept = limited(both, {"test": 10}, 0).select(["label", "role"]).to_pylist()
    assert sorted((row["label"], row["role"]) for row in kept) == [
        (person, role) for person in range(5) for role in ("gallery", "query")
    ]


def test_a_limit_of_one_split_leaves_the_others():
    both = pa.concat_tables([table(list("abcd")), table(list("efgh"), split="test")]).unify_dictionaries()
    assert len(limited(both, {"test": 1}, 0)) == 5
    assert limited(both, {"train": 9}, 0).num_rows == 8


def test_copies_leave_train_for_val_and_val_for_test():
    both = to_table(
        {
            "path": ["a", "b", "c", "d", "e", "f", "g"],
            "split": ["train", "train", "train", "val", "val", "test", "train"],
            "group": ["1", "2", "3", "2", "4", "4", None],
        }
    )
    clean, notes = without_copies(both)
    assert clean.column("path").to_pylist() == ["a", "c", "d", "f", "g"]
    assert notes == {
        "exact duplicates of other splits removed from train": 1,
        "exact duplicates of other splits removed from val": 1,
    }


def test_a_group_in_two_splits_is_named():
    both = to_table({"path": ["a", "b", "c"], "split": ["train", "test", "val"], "group": ["x", "x", "y"]})
    with pytest.raises(
        DataError, match=r"1 groups of mine are in more than one split.*'x' in test and train"
    ):
        check_groups(both, "mine")
    check_groups(both.slice(1), "mine")
