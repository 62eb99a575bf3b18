"""What processing keeps to, whatever the numbers are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from runtime.errors import InvalidInput
from runtime.processing.boxes import suppress
from runtime.processing.decoding import decode
from runtime.processing.numbers import best, sigmoid, softmax
from runtime.processing.placing import Placement
from runtime.processing.resampling import resize

SIDES = st.integers(1, 40)
COLOURS = st.integers(0, 255)
HEADS = st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF", b"BM", b"P6 "])
COORDINATES = st.integers(0, 12).map(float)
BOXES = st.lists(
    st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES, st.integers(0, 4), st.integers(0, 2)), max_size=25
)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """By counting, not by formula: coordinates are whole numbers, so areas are numbers of unit squares."""

    def squares(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}

    both, either = squares(one) & squares(other), squares(one) | squares(other)
    return len(both) / len(either) if either else 0.0


@given(BOXES, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans(), st.integers(1, 30))
def test_suppression_is_the_brute_force_one(rows: list[tuple[float, ...]], most: float, across: bool, limit: int) -> None:
    table = np.array(rows, np.float32).reshape(-1, 6)
    boxes, scores, classes = table[:, :4], table[:, 4], table[:, 5].astype(np.int64)
    wanted: list[int] = []
    for at in sorted(range(len(rows)), key=lambda index: (-scores[index], index)):
        rivals = [kept for kept in wanted if across or classes[kept] == classes[at]]
        if all(overlap(boxes[kept], boxes[at]) <= most for kept in rivals):
            wanted.append(at)
    ours = suppress(boxes, scores, None if across else classes, max_overlap=most, limit=limit)
    assert ours.tolist() == wanted[:limit]


@given(arrays.arrays(np.float32, (3, 7), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_softmax_rows_are_shares_that_keep_the_order(logits: np.ndarray) -> None:
    shares = softmax(logits)
    assert ((shares >= 0) & (shares <= 1)).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    for row, share in zip(logits, shares, strict=True):
        assert (np.diff(share[np.argsort(row, kind="stable")]) >= 0).all()


@given(arrays.arrays(np.float32, 9, elements=st.floats(width=32, allow_nan=False)))
def test_sigmoid_stays_between_0_and_1_and_is_symmetric(numbers: np.ndarray) -> None:
    np.testing.assert_allclose(sigmoid(numbers) + sigmoid(-numbers), 1.0, atol=1e-6)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=30), st.integers(1, 40), st.sampled_from([np.int8, np.float32]))
def test_the_best_come_first_and_equals_in_their_order(scores: list[int], k: int, kind: type) -> None:
    wanted = sorted(range(len(scores)), key=lambda at: (-scores[at], at))[:k]
    assert best(np.array(scores, kind), k).tolist() == wanted


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.booleans(), st.sampled_from(["nearest", "bilinear"]), COLOURS)
def test_resizing_keeps_one_colour_and_stays_within_what_was_there(
    came: tuple[int, int], size: tuple[int, int], antialias: bool, kind: str, colour: int
) -> None:
    one = resize(np.full((*came, 1), colour, np.uint8), *size, filter=kind, antialias=antialias)  # type: ignore[arg-type]
    assert one.shape == (*size, 1)
    assert (one == colour).all()
    noise = np.random.default_rng(sum(came)).integers(10, 200, (*came, 3), np.uint8)
    many = resize(noise, *size, filter=kind, antialias=antialias)  # type: ignore[arg-type]
    assert noise.min() <= many.min()
    assert many.max() <= noise.max()


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.tuples(st.integers(-20, 20), st.integers(-20, 20)))
def test_a_placement_leads_back(came: tuple[int, int], size: tuple[int, int], to: tuple[int, int]) -> None:
    (h, w), (height, width), (top, left) = came, size, to
    placement = Placement(h, w, (h, w)).scaled(height, width).moved(50, 50, top, left)
    inner = np.array([[w * 0.25, h * 0.25, w * 0.75, h * 0.5]], np.float32)
    scale = np.array([width / w, height / h] * 2)
    there = (inner * scale + np.array([left, top] * 2)).astype(np.float32)
    np.testing.assert_allclose(placement.back(there), inner, atol=1e-2)


@given(st.binary(max_size=400), HEADS)
def test_any_bytes_are_a_picture_or_refused(content: bytes, head: bytes) -> None:
    try:
        pixels = decode(head + content, "rgb")
    except InvalidInput:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
