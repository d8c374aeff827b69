"""Shingles, signatures, bands and exact similarity against plain Python, the theory, and datasketch."""

from __future__ import annotations

import gzip
import itertools
import math
import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from datasketch import LeanMinHash, MinHash, MinHashLSH
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate.dedup.bands import RECALL, band_keys, choose, error_rates, explain
from curate.dedup.signatures import datasketch_signatures, empty, factors, shingle_texts, signatures, sketches
from curate.errors import RecipeError
from curate.kernels.minhash import BLOCK, SCRATCH, agreement, distinct, minima, pair_similarity, shingles

MASK = (1 << 64) - 1
UNITS = ["word", "character"]
SCHEMES = ["affine32", "affine64", "legacy"]

# ---- the rules in plain Python ----

NO_SPACES = re.compile(
    "BOPOMOFO|CJK|HALFWIDTH KATAKANA|HANGZHOU|HENTAIGANA|HIRAGANA|IDEOGRAPHIC|JAVANESE|KATAKANA|KHITAN|KHMER|"
    "LAO|MASU|MIAO|MYANMAR|NEW TAI LUE|NUSHU|OLD CHINESE|TAI LE|TAI THAM|TAI VIET|TANGUT|THAI|VERTICAL KANA|"
    "VERTICAL IDEO|YI SYLLABLE"
)


def is_solo(c: str) -> bool:
    """A letter or a number letter of a script that puts no space between words; Python has no names for Tangut."""
    named = NO_SPACES.match(unicodedata.name(c, "")) or 0x17000 <= ord(c) < 0x18D09
    return bool(named) and (unicodedata.category(c)[0] == "L" or unicodedata.category(c) == "Nl")


def low(c: str) -> str:
    return {"İ": "i", "ς": "σ"}.get(c, "σ" if c == "Σ" else c.lower())


def words(text: str) -> list[str]:
    found: list[str] = []
    is_open, alone = False, False  # a word that may go on; one of a script without spaces, which only marks go on with
    for c in text:
        category = unicodedata.category(c)
        if category == "Cf" and c != "\u200b":
            continue
        if category[0] not in "LMN":
            is_open = False
            continue
        solo = is_solo(c)
        if not is_open or solo or (alone and category[0] != "M"):
            found.append("")
            alone = solo
        is_open = True
        found[-1] += low(c)
    return found


def parts(text: str, unit: str) -> list[str]:
    return words(text) if unit == "word" else [low(c) for c in " ".join(text.split())]


def tuples(text: str, unit: str, n: int) -> list[list[str]]:
    p = parts(text, unit)
    return [p[i : i + n] for i in range(max(len(p) - n + 1, min(len(p), 1)))]


def mixed(x: int) -> int:
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & MASK
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return x ^ x >> 33


def part_hash(part: str, unit: str) -> int:
    if unit == "character":
        return mixed(ord(part) + 0x9E3779B97F4A7C15 & MASK)
    h = 0x9E3779B97F4A7C15
    if part.isascii():
        for i in range(0, len(part), 8):
            h = (h ^ int.from_bytes(part[i : i + 8].encode(), "little")) * 0xD6E8FEB86659FD93 & MASK
            h ^= h >> 32
    for c in "" if part.isascii() else part:
        h = (h ^ ord(c)) * 0xD6E8FEB86659FD93 & MASK
    return (h ^ h >> 32) * 0xFF51AFD7ED558CCD & MASK


def shingle_hash(shingle: list[str], unit: str) -> int:
    total = 0
    for part in shingle:
        total = total * 0xA0761D6478BD642F + part_hash(part, unit) & MASK
    return mixed(total)


def hashes(text: str, unit: str, n: int) -> list[int]:
    return [shingle_hash(s, unit) for s in tuples(text, unit, n)]


def fmix(x: int) -> int:
    x = (x ^ x >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ x >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16


def signature(text: str, unit: str, n: int, permutations: int, seed: int) -> list[int]:
    found = [fmix(h & 0xFFFFFFFF) for h in hashes(text, unit, n)]
    pairs = zip(*(x.tolist() for x in factors(permutations, seed)), strict=True)
    return [min((a * h + b & 0xFFFFFFFF for h in found), default=0xFFFFFFFF) for a, b in pairs]


ALPHABET = "abA Z9.\n\t_-éÉßǅΣσςİıЖж\u0301\u0308\u00ad\u200b\u200c\u200d\ufeff漢字かカｶไทกำ日ကြखि한국"
ALPHABET += "٣½Ⅳ〇𝔸𠀀😀\u3000\u2028\x00"
ASCII = "".join(map(chr, range(128))) + "\u00ad\u212aé"  # a soft hyphen and the sign of Kelvin become ASCII words
TEXT = st.one_of(st.text(ALPHABET, max_size=60), st.text(max_size=40), st.text(ASCII, max_size=120))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't STOP, 2nd_time: naïve!", ["don", "t", "stop", "2nd", "time", "naïve"]),
        ("ΟΔΟΣ οδος", ["οδοσ", "οδοσ"]),
        ("soft\u00adhyphen zero\u200bwidth می\u200cخواهم", ["softhyphen", "zero", "width", "میخواهم"]),
        ("漢字とカナ abc漢2024年", ["漢", "字", "と", "カ", "ナ", "abc", "漢", "2024", "年"]),
        ("ไทย กำ ที่", ["ไ", "ท", "ย", "ก", "ำ", "ที่"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301 \u0301x", ["cafe\u0301", "\u0301x"]),
        ("𝔸𝔹 x² Ⅻ ½", ["𝔸𝔹", "x²", "ⅻ", "½"]),
        ("... \n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert shingle_texts(text, "word", 1) == expected == words(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=4), st.sampled_from(UNITS), st.integers(1, 7))
@example(["", " ", "a", "a b c d e", "Σ"], "word", 5)
@example([" " + "x" * k + tail for k in range(1, 26) for tail in ("", "  y", "\u00ad", "é  ", "— z")], "word", 2)
@example(["K", "Kk ", "zK\u212a ab\u00adcdefghijk lmnopqrs"], "word", 1)
@example(["  a \n\n b ", "\u200b a", "\u00ad"], "character", 3)
def test_shingles_are_those_of_plain_python(texts: list[str], unit: str, n: int) -> None:
    column = pa.array(["before", *texts, None, "after"])[1:-1]
    found, offsets = shingles(column, unit, n)
    for row, text in enumerate([*texts, ""]):
        assert found[offsets[row] : offsets[row + 1]].tolist() == hashes(text, unit, n)
        joined = [(" " if unit == "word" else "").join(s) for s in tuples(text, unit, n)]
        assert shingle_texts(text, unit, n) == joined
    made = signatures(column, unit=unit, n=n, permutations=5, seed=3)
    assert made.dtype == np.uint32
    assert made.tolist() == [signature(text, unit, n, 5, 3) for text in [*texts, ""]]


def test_every_code_point_is_taken_as_the_rule_says() -> None:
    points = [chr(p) for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    text = "".join(f"x{c}y" for c in points)
    for unit in UNITS:
        assert shingle_texts(text, unit, 1) == parts(text, unit)
    longest = "Ⱥ漢" * 3000  # grows most: lower case of three bytes instead of two, and spaces that were not there
    assert shingle_texts(longest, "word", 1000)[0] == " ".join("ⱥ漢" * 500)


@pytest.mark.parametrize("unit", UNITS)
def test_long_rows_are_taken_block_by_block(unit: str) -> None:
    draw = random.Random(1)
    pieces = ["漢字", "word ", "é\u0301t\u00ad ", "12 ", " \n ", "กำ"]
    texts = ["".join(draw.choices(pieces, k=k)) for k in (BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 5)]
    texts += ["a " * k for k in range(BLOCK - 2, BLOCK + 8)] + ["x" * 3 * BLOCK]
    found, offsets = shingles(pa.array(texts), unit, 5)
    for row, text in enumerate(texts):
        assert found[offsets[row] : offsets[row + 1]].tolist() == hashes(text, unit, 5)
    made = signatures(pa.array(texts), unit=unit, permutations=19)
    assert made[4].tolist() == signature(texts[4], unit, 5, 19, 1)


def test_chunks_and_narrow_strings_are_the_same_column() -> None:
    texts = ["one two three four five six", None, "", "seven eight"]
    whole = signatures(pa.array(texts, pa.large_string()))
    chunked = pa.chunked_array([pa.array(texts[:1]), pa.array(texts[1:])])
    assert (signatures(chunked) == whole).all()
    assert signatures(pa.array([], pa.string())).shape == (0, 128)
    assert signatures(pa.chunked_array([], pa.string())).shape == (0, 128)


def test_a_document_without_shingles_is_marked() -> None:
    column = pa.array(["", None, " .,!\n\u00ad", "a", "a b c d e f"])
    assert empty(signatures(column)).tolist() == [True, True, True, False, False]
    for scheme in SCHEMES:
        assert empty(datasketch_signatures(column, scheme=scheme), scheme).tolist() == [True, True, True, False, False]
    assert signatures(column).max() == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unit": "line"}, "unit is 'line'"),
        ({"n": 0}, "n is 0"),
        ({"n": 1001}, "n is 1001"),
        ({"permutations": 0}, "permutations is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1 << 32}, "seed is 4294967296"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        signatures(pa.array(["a"]), **wrong)
    with pytest.raises(RecipeError, match="scheme is 'other'"):
        datasketch_signatures(pa.array(["a"]), scheme="other")


# ---- signatures as estimates ----


def set_pairs(count: int, sizes: tuple[int, ...], seed: int) -> tuple[pa.Array, npt.NDArray[np.float64]]:
    """Texts 2 i and 2 i + 1 are sets of one-word shingles whose Jaccard similarity runs from 0 to 1; and these."""
    draw = random.Random(seed)
    texts, truth = [], []
    for i in range(count):
        size = sizes[i % len(sizes)]
        common = round(i / (count - 1) * size)
        only = size - common
        left = draw.randint(0, only)
        names = [f"w{draw.getrandbits(40):x}" for _ in range(size)]
        texts += [" ".join(names[: common + left]), " ".join(names[:common] + names[common + left :])]
        truth.append(common / size)
    return pa.array(texts), np.array(truth)


def deviations(made: npt.NDArray[np.uint32], truth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Error of each pair's agreement, in standard deviations of as many fair and independent permutations."""
    inner = (truth > 0.02) & (truth < 0.98)
    found = agreement(made, np.arange(0, len(made), 2), np.arange(1, len(made), 2))
    assert (found[truth == 1] == 1).all() and (found[truth == 0] < 0.01).all()
    sigma = np.sqrt(truth[inner] * (1 - truth[inner]) / made.shape[1])
    spread: npt.NDArray[np.float64] = (found[inner] - truth[inner]) / sigma
    return spread


@pytest.mark.parametrize("permutations", [64, 128, 256])
@pytest.mark.parametrize("sizes", [(40,), (300, 1000)], ids=["small", "large"])
def test_agreement_is_jaccard_within_sampling_error(permutations: int, sizes: tuple[int, ...]) -> None:
    texts, truth = set_pairs(1500, sizes, seed=permutations)
    errors = deviations(signatures(texts, n=1, permutations=permutations), truth)
    n = len(errors)
    assert abs(errors.mean()) < 4 / math.sqrt(n), "biased"
    assert abs((errors**2).mean() - 1) < 5 * math.sqrt(2 / n), "permutations are not independent"
    assert np.abs(errors).max() < 5.5


@pytest.mark.parametrize("bug", ["one order", "half the permutations twice", "factors that never wrap"])
def test_the_test_of_agreement_finds_known_bugs(bug: str) -> None:
    texts, truth = set_pairs(1500, (300, 1000), seed=5)
    a, b = factors(128, 1)
    if bug == "one order":
        a = np.full_like(a, a[0])
        b = np.zeros_like(b)
    elif bug == "half the permutations twice":
        a, b = np.tile(a[:64], 2), np.tile(b[:64], 2)
    else:
        a, b = np.arange(1, 257, 2, dtype=np.uint32), np.zeros_like(b)
    errors = deviations(minima(texts, a, b, n=1), truth)
    assert abs((errors**2).mean() - 1) > 10 * math.sqrt(2 / len(errors))


def test_permutations_are_fair_and_uncorrelated() -> None:
    texts, truth = set_pairs(4001, (200,), seed=9)
    half = np.flatnonzero((truth > 0.3) & (truth < 0.7))
    made = signatures(texts, n=1, permutations=128)
    equal = (made[2 * half] == made[2 * half + 1]) - truth[half, None]
    sigma = np.sqrt((truth[half] * (1 - truth[half])).sum())
    assert np.abs(equal.sum(axis=0) / sigma).max() < 4.5  # each permutation alone
    correlation = np.corrcoef(equal.T)[np.triu_indices(128, 1)]
    assert np.abs(correlation).max() < 6 / math.sqrt(len(half))
    assert abs((correlation**2).mean() * len(half) - 1) < 0.1


def test_seeds_give_other_permutations() -> None:
    text = pa.array(["one two three four five six seven eight nine ten"])
    first, again, other = (signatures(text, seed=s) for s in (1, 1, 2))
    assert (first == again).all() and (first != other).mean() > 0.9


# ---- datasketch ----


def of_datasketch(text: str, unit: str, n: int, k: int, seed: int, scheme: str) -> MinHash:
    made = MinHash(num_perm=k, seed=seed, scheme=scheme)
    joint = " " if unit == "word" else ""
    made.update_batch([joint.join(s).encode() for s in tuples(text, unit, n)])
    return made


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=3), st.sampled_from(UNITS), st.integers(1, 6), st.sampled_from(SCHEMES))
def test_sketches_are_those_of_datasketch(texts: list[str], unit: str, n: int, scheme: str) -> None:
    column = pa.array(["before", *texts])[1:]
    found = datasketch_signatures(column, unit=unit, n=n, permutations=16, seed=7, scheme=scheme)
    for row, text in zip(found, texts, strict=True):
        theirs = of_datasketch(text, unit, n, 16, 7, scheme).hashvalues
        assert row.dtype == theirs.dtype and (row == theirs).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sketches_of_real_text_in_many_scripts(shared_data: Path, scheme: str) -> None:
    texts = []
    for path in sorted((shared_data / "lm_text").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as f:
            texts.append(f.read(3000))
    assert len(texts) > 5
    for unit in UNITS:
        found = datasketch_signatures(pa.array(texts), unit=unit, scheme=scheme)
        for row, text in zip(found, texts, strict=True):
            assert (row == of_datasketch(text, unit, 5, 128, 1, scheme).hashvalues).all()


def test_messages_of_all_sizes_and_more_than_one_round() -> None:
    """SHA-1 pads at 56 bytes of 64; and a shingle longer than the whole scratch buffer."""
    sized = ["x" * k for k in (1, 54, 55, 56, 57, 63, 64, 65, 119, 120, SCRATCH - 9, SCRATCH, 2 * SCRATCH + 1)]
    texts = [*sized, " ".join(sized), " ".join(f"w{i}" for i in range(SCRATCH // 64 + 300))]
    for scheme in SCHEMES:
        found = datasketch_signatures(pa.array(texts), n=2, permutations=8, scheme=scheme)
        for row, text in zip(found, texts, strict=True):
            assert (row == of_datasketch(text, "word", 2, 8, 1, scheme).hashvalues).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("lean", [True, False], ids=["lean", "full"])
def test_rows_become_objects_of_datasketch(scheme: str, lean: bool) -> None:
    base = [f"w{i}" for i in range(60)]
    texts = [" ".join(base), " ".join([*base[:-1], "other"]), " ".join(f"v{i}" for i in range(60))]
    rows = datasketch_signatures(pa.array(texts), seed=4, scheme=scheme)
    made = sketches(rows, seed=4, scheme=scheme, lean=lean)
    assert all(type(m) is (LeanMinHash if lean else MinHash) for m in made)
    index = MinHashLSH(threshold=0.7, num_perm=128)
    index.insert("theirs", of_datasketch(texts[0], "word", 5, 128, 4, scheme))
    assert [index.query(m) for m in made] == [["theirs"], ["theirs"], []]
    if not lean:
        more = of_datasketch(texts[0], "word", 5, 128, 4, scheme)
        for sketch in (more, made[0]):
            sketch.update(b"one more")
        assert (more.hashvalues == made[0].hashvalues).all()


def test_our_own_signatures_are_sketches_under_our_hash() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    own = MinHash(num_perm=32, seed=11, hashfunc=lambda h: h & 0xFFFFFFFF)
    own.update_batch(hashes(text, "word", 5))
    assert (signatures(pa.array([text]), permutations=32, seed=11)[0] == own.hashvalues).all()


# ---- exact similarity ----

HASHES = st.lists(st.integers(0, MASK) | st.integers(0, 40) | st.integers(7 << 60, (7 << 60) + 30), max_size=90)


@settings(max_examples=200, deadline=None)
@given(st.lists(HASHES, min_size=1, max_size=4), st.integers(0, 3))
def test_distinct_and_similarity_are_those_of_sets(rows: list[list[int]], skipped: int) -> None:
    flat = np.array([1] * skipped + list(itertools.chain(*rows)), np.uint64)
    offsets = skipped + np.cumsum([0, *map(len, rows)])
    found, ends = distinct(flat, offsets)
    sets = [set(row) for row in rows]
    assert [found[i:j].tolist() for i, j in itertools.pairwise(ends)] == [sorted(s) for s in sets]
    left, right = (x.ravel() for x in np.indices((len(rows), len(rows))))
    jaccard, containment = pair_similarity(found, ends, left, right)
    for i, j, s, c in zip(left, right, jaccard, containment, strict=True):
        x, y = sets[i], sets[j]
        assert s == (len(x & y) / len(x | y) if x and y else 0)
        assert c == (len(x & y) / min(len(x), len(y)) if x and y else 0)


def test_a_short_row_is_looked_up_in_a_long_one() -> None:
    draw = np.random.default_rng(3)
    long = draw.integers(0, 1 << 63, 5000, dtype=np.uint64)
    for short in (long[:1], long[-3:], long[::700], long[:5] + np.uint64(1), np.array([0, MASK], np.uint64)):
        found, ends = distinct(np.concatenate((long, short)), np.array([0, len(long), len(long) + len(short)]))
        common = len(set(long.tolist()) & set(short.tolist()))
        for pair in ([0, 1], [1, 0]):
            jaccard, containment = pair_similarity(found, ends, np.array(pair[:1]), np.array(pair[1:]))
            assert containment[0] == common / len(short)
            assert jaccard[0] == common / (len(long) + len(short) - common)


@pytest.mark.parametrize("kind", ["uniform", "equal", "one bucket", "descending", "two values"])
def test_distinct_of_a_long_row(kind: str) -> None:
    n = 50_000
    draw = np.random.default_rng(1)
    row = {
        "uniform": draw.integers(0, 1 << 63, n, dtype=np.uint64),
        "equal": np.full(n, 5 << 50, np.uint64),
        "one bucket": draw.integers(0, 1 << 20, n).astype(np.uint64),
        "descending": np.arange(n, 0, -1).astype(np.uint64),
        "two values": (np.arange(n) % 2).astype(np.uint64) << np.uint64(63),
    }[kind]
    found, ends = distinct(row, np.array([0, 3, n]))
    assert (found[: ends[1]] == np.unique(row[:3])).all()
    assert (found[ends[1] :] == np.unique(row[3:])).all()


def test_pairs_must_name_rows() -> None:
    found, ends = distinct(np.arange(3).astype(np.uint64), np.array([0, 3]))
    for left, right in (([0], [1]), ([-1], [0]), ([0, 0], [0])):
        with pytest.raises(IndexError):
            pair_similarity(found, ends, np.array(left), np.array(right))
        with pytest.raises(IndexError):
            agreement(np.zeros((1, 4), np.uint32), np.array(left), np.array(right))


def test_agreement_counts_equal_values() -> None:
    rows = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [0, 0, 0, 0]], np.uint32)
    assert agreement(rows, np.array([0, 0, 1]), np.array([0, 1, 2])).tolist() == [1.0, 0.5, 0.0]


# ---- bands ----


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("weights", [RECALL, (0.5, 0.5)], ids=["recall", "even"])
def test_bands_are_those_of_datasketch(threshold: float, weights: tuple[float, float]) -> None:
    chosen = choose(threshold, 128, weights)
    index = MinHashLSH(threshold=threshold, num_perm=128, weights=weights)
    assert (chosen.bands, chosen.rows) == (index.b, index.r)
    assert chosen.found(threshold) > (0.96 if weights == RECALL else 0.3)


def test_error_rates_are_told() -> None:
    chosen = choose(0.8)
    assert (chosen.bands, chosen.rows) == (17, 7)
    assert chosen.found(0.8) == pytest.approx(1 - (1 - 0.8**7) ** 17)
    assert chosen.deviation(0.8) == pytest.approx(math.sqrt(0.16 / 128))
    assert error_rates(chosen)[0.5] == {"found": chosen.found(0.5), "deviation": chosen.deviation(0.5)}
    text = explain(0.8)
    assert text.splitlines()[0] == "threshold 0.8: 17 bands of 7 rows (119 of 128 permutations)"
    assert "0.80      98.171%   0.80 +- 0.035  <- threshold" in text
    assert "0.72" in explain(0.72)  # its own threshold is in the table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "threshold is 0.0"),
        ((1.0,), "threshold is 1.0"),
        ((0.8, 1), "permutations is 1"),
        ((0.8, 128, (0.5, 0.6)), "weights are"),
        ((0.8, 128, (-0.5, 1.5)), "weights are"),
    ],
)
def test_wrong_bands(arguments: tuple[float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        choose(*arguments)


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_a_band_key_stands_for_the_values_and_the_number_of_the_band(kind: type[np.generic]) -> None:
    draw = np.random.default_rng(2)
    rows = draw.integers(0, 1 << 32, (3, 12)).astype(kind)
    rows[1, :8] = rows[0, :8]
    rows[2, 4:8] = rows[2, :4]  # equal values in two bands
    keys = band_keys(rows, 3, 4)
    assert keys.shape == (3, 3) and keys.dtype == np.uint64
    assert (keys[0] == keys[1]).tolist() == [True, True, False]
    assert len(np.unique(keys)) == 7
    for column in range(12):  # every value counts, by every bit that it has
        for bit in (0, 31, *((32, 63) if kind is np.uint64 else ())):
            other = rows.copy()
            other[0, column] ^= kind(1 << bit)
            assert (band_keys(other, 3, 4) != keys).tolist() == [[b == column // 4 for b in range(3)], [0] * 3, [0] * 3]
    swapped = rows[:, [1, 0, *range(2, 12)]]
    assert (band_keys(swapped, 3, 4) != keys).any(axis=0).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="do not fit"):
        band_keys(rows, 4, 4)


def test_band_keys_are_uniform() -> None:
    """Also of signatures of long texts, whose values are all small: each of 256 ranges of keys has its share."""
    draw = np.random.default_rng(4)
    keys = band_keys(draw.integers(0, 2000, (4000, 32)).astype(np.uint32), 16, 2)
    assert len(np.unique(keys)) > 0.95 * keys.size
    for shift in (56, 28, 0):
        found = np.bincount((np.unique(keys) >> np.uint64(shift) & np.uint64(255)).astype(int), minlength=256)
        expected = found.mean()
        assert ((found - expected) ** 2 / expected).sum() < 255 + 6 * math.sqrt(2 * 255)


@settings(max_examples=5, deadline=None)
@given(st.floats(0.3, 0.95))
def test_candidates_are_found_as_often_as_told(jaccard: float) -> None:
    size, count = 200, 800
    common = round(jaccard * size)
    draw = random.Random(common)
    texts = []
    for _ in range(count):
        names = [f"{draw.getrandbits(40):x}" for _ in range(size)]
        middle = (common + size) // 2
        texts += [" ".join(names[:middle]), " ".join(names[:common] + names[middle:])]
    chosen = choose(0.7)
    keys = band_keys(signatures(pa.array(texts), n=1), chosen.bands, chosen.rows)
    found = (keys[::2] == keys[1::2]).any(axis=1).mean()
    expected = chosen.found(common / size)
    assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / count) + 0.01
