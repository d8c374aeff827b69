"""Models that the tests of this folder share, trained once in a process on the files of the checkout."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tokenizer.train import FLAGS, train

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = tempfile.TemporaryDirectory(prefix="curate-test-tokenizer-")
LANGUAGES = (
    """Zażółć gęślą jaźń i idź dalej, powiedział król.
Съешь же ещё этих мягких французских булок, да выпей чаю. Съешь ещё этих булок.
Ο ήλιος ανατέλλει πάνω από τη θάλασσα και ο ήλιος δύει.
色は匂へど散りぬるを我が世誰ぞ常ならむ。東京は日本の首都です。東京の人口は多い。
天地玄黄宇宙洪荒。日月盈昃辰宿列张。中国的首都是北京。北京的人口很多。
모든 국민은 법 앞에 평등하다. 모든 국민은 자유를 가진다.
صفحة جديدة من الكتاب القديم في المكتبة القديمة
Փորձ մի լեզվով, որը քչերն են խոսում։
“Quoted” — don’t… naïve façade, 100€ or £5 «là» 😀👍🏽👨‍👩‍👧
"""
    * 20
)


@functools.cache
def checkout() -> list[str]:
    """Source and documentation files of the checkout: code, tables, prose."""
    files = [p for folder in ("curate", "sources", "pipelines") for p in sorted((ROOT / folder).glob("**/*.py"))]
    return [p.read_text() for p in [*files, ROOT / "README.md", ROOT / "DECISIONS.md"]]


@functools.cache
def trained(**options: Any) -> Path:
    """Folder of a tokenizer that `train` made."""
    out = Path(FOLDER.name) / "-".join(["model", *(f"{k}-{v}" for k, v in sorted(options.items()))])
    train({"github": checkout(), "commoncrawl": [LANGUAGES]}, out, **{"vocab_size": 2500, **options})
    return out


@functools.cache
def foreign(name: str) -> Path:
    """A model that is not LLaMA's kind."""
    settings: dict[str, dict[str, Any]] = {
        "no-bytes": {"byte_fallback": False},
        "across-words": {"split_by_whitespace": False, "split_by_unicode_script": False, "split_digits": False},
        "user-defined": {"user_defined_symbols": ["▁▁▁▁", "def", "<sep>", "東京"]},
        "normalising": {"normalization_rule_name": "nmt_nfkc"},
        "trimming": {"remove_extra_whitespaces": True},
        "suffix": {"treat_whitespace_as_suffix": True},
        "unigram": {"model_type": "unigram"},
        "no-specials": {"bos_id": -1, "eos_id": -1},
        "more-specials": {"control_symbols": ["<sep>", "[CLS]"], "pad_id": 3},
    }
    model = io.BytesIO()
    lines = [line for text in [*checkout()[:30], LANGUAGES] for line in text.split("\n") if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=1500, hard_vocab_limit=False, minloglevel=3,
        **{**FLAGS, **settings[name]},
    )  # fmt: skip
    path = Path(FOLDER.name) / f"{name}.model"
    path.write_bytes(model.getvalue())
    return path


def changed(source: Path, name: str, change: Callable[[Any], object]) -> Path:
    """A copy of a model file, changed."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(source.read_bytes())
    change(proto)
    path = Path(FOLDER.name) / f"{name}.model"
    path.write_bytes(proto.SerializeToString())
    return path
