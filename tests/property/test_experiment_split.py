"""A key's arm: stable, of the wanted shares, and moved only where an arm came, went or changed its weight."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.hosting.experiment import Split

names = st.text(min_size=1, max_size=8)
weights = st.dictionaries(names, st.floats(0.01, 100), min_size=1, max_size=5)
keys = st.lists(st.text(max_size=20), min_size=1, max_size=50)


@given(weights, names, st.floats(0.01, 100), keys)
def test_an_arm_that_comes_or_goes_moves_only_its_own_keys(
    before: dict[str, float], name: str, weight: float, asked: list[str]
) -> None:
    before.pop(name, None)
    if not before:
        return
    old, new = Split("s", before), Split("s", before | {name: weight})
    for key in asked:
        assert new.arm(key) in (old.arm(key), name)


@given(weights, st.data(), keys)
def test_an_arm_that_weighs_more_only_gains_keys(before: dict[str, float], data: st.DataObject, asked: list[str]) -> None:
    name = data.draw(st.sampled_from(sorted(before)))
    old, new = Split("s", before), Split("s", before | {name: before[name] * 2})
    for key in asked:
        assert new.arm(key) in (old.arm(key), name)


@given(weights, keys)
def test_the_order_and_the_unit_of_weights_do_not_matter(before: dict[str, float], asked: list[str]) -> None:
    old = Split("s", before)
    same = Split("s", {name: weight * 4 for name, weight in reversed(before.items())})
    assert [old.arm(key) for key in asked] == [same.arm(key) for key in asked]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("salt", ["", "autumn", "winter"])
def test_shares_are_those_of_the_weights(share: float, salt: str) -> None:
    split, count = Split(salt, {"a": 1 - share, "b": share}), 20_000
    got = sum(split.arm(f"customer {at}") == "b" for at in range(count)) / count
    assert abs(got - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_three_arms_share_by_weight() -> None:
    split, count = Split("s", {"a": 1, "b": 2, "c": 3}), 20_000
    got = [split.arm(str(at)) for at in range(count)]
    assert [round(got.count(name) / count, 1) for name in "abc"] == [0.2, 0.3, 0.5]


def test_another_salt_deals_the_keys_anew() -> None:
    first, second = Split("one", {"a": 1, "b": 1}), Split("two", {"a": 1, "b": 1})
    same = sum(first.arm(str(at)) == second.arm(str(at)) for at in range(10_000))
    assert 4700 < same < 5300


def test_names_salts_and_keys_do_not_run_into_each_other() -> None:
    arms = {"ab": 1.0, "a": 1.0}
    assert any(Split("", arms).arm(f"b{at}") != Split("b", arms).arm(str(at)) for at in range(50))


def test_arms_are_the_same_in_every_process_and_version() -> None:
    """Never change what this expects: devices in the field have dealt their keys so."""
    split = Split("autumn", {"1.0.0": 0.8, "1.1.0": 0.2})
    dealt = "".join("AB"[split.arm(f"customer {at}") == "1.1.0"] for at in range(40))
    assert dealt == "AAAAAAAAAAAAAABAAABABAAAAABAAABBAAABAAAA"
    program = (
        "from runtime.hosting.experiment import Split; s = Split('autumn', {'1.0.0': 0.8, '1.1.0': 0.2}); "
        "print(''.join('AB'[s.arm(f'customer {at}') == '1.1.0'] for at in range(40)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == dealt


@pytest.mark.parametrize("wrong", [{}, {"a": 0.0}, {"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_weights_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted at least one arm"):
        Split("s", wrong)
