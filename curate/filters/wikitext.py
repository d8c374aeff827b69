"""Which pages of a Wikipedia are articles of LLaMA's: one of its 20 languages, with text of its own."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from curate.stage import Outcome, stage

# Latin or Cyrillic script (LLaMA, arXiv 2302.13971, section 2.1).
_LANGUAGES = "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk"
LANGUAGES = tuple(_LANGUAGES.split())


@stage(reads=("text", "lang", "meta"), reasons=("language", "disambiguation", "no_text"))
def articles(
    table: pa.Table,
    *,
    languages: tuple[str, ...] = LANGUAGES,
    keep_disambiguation: bool = False,
    min_characters: int = 1,
) -> Outcome:
    """Drop pages of Wikipedia that are no articles. In the order of the reasons:

    * `language`: the wiki's is not one of `languages` (none given: any is).
    * `disambiguation`: the page says that it is a list of articles of one name (`sources.wikipedia` notes it in
      `meta`). The loader that RedPajama used keeps them.
    * `no_text`: fewer than `min_characters` code points are left of it.
    """
    langs = pc.fill_null(table["lang"].cast(pa.string()), "unknown")
    other = pc.invert(pc.is_in(langs, pa.array(languages or langs.unique(), pa.string())))
    lengths = pc.utf8_length(table["text"])
    lists = pc.fill_null(pc.match_substring(table["meta"], '"disambiguation": true'), False)
    if keep_disambiguation:
        lists = pc.and_(lists, False)
    nothing = pa.scalar(None, pa.string())
    short = pc.less(lengths, min_characters)
    characters = pc.binary_join_element_wise(lengths.cast(pa.string()), "characters", " ")
    reason = pc.case_when(pc.make_struct(other, lists, short), "language", "disambiguation", "no_text", nothing)
    value = pc.case_when(pc.make_struct(other, lists, short), langs, nothing, characters, nothing)
    return Outcome(reason=reason, value=value)
