"""The LLaMA (2023) recipes, source by source, as in Table 1 of the paper (arXiv 2302.13971)."""

from __future__ import annotations

from dataclasses import replace

from curate.dedup.exact import exact, url
from curate.dedup.lines import lines
from curate.dedup.near import containment
from curate.dedup.paragraphs import paragraphs
from curate.filters.c4 import c4_bad_words, c4_lines, c4_page, c4_sentences, c4_split, c4_url, mc4_long_lines
from curate.filters.code import code_path, code_quality, generated, headers, licence, notebooks, secrets
from curate.filters.extract import extract
from curate.filters.gopher import gopher_quality, gopher_repetition
from curate.filters.gutenberg import book_text, gutenberg, prose
from curate.filters.language import language
from curate.filters.latex import latex
from curate.filters.length import length
from curate.filters.perplexity import perplexity
from curate.filters.posts import provider_canary
from curate.filters.reference import reference
from curate.filters.urls import url_blocklist
from curate.filters.wikitext import articles
from curate.recipe import Choice, Recipe
from pipelines.sample import train_sample_models
from sources.arxiv import Arxiv
from sources.books import Books
from sources.c4 import C4, C4Wet
from sources.commoncrawl import CommonCrawl, CommonCrawlWarc
from sources.github import GitHub
from sources.stackexchange import StackExchange
from sources.wikipedia import Wikipedia

# CommonCrawl, 67 % of the mixture: CCNet (arXiv 1911.00359), English only (LLaMA 2.1).
COMMONCRAWL = Recipe(
    name="commoncrawl",
    source=CommonCrawl(),
    steps=(
        length(min_characters=300),  # CCNet: before paragraphs are removed, and not again after
        paragraphs(policy="keep_first", scope=2000),
        language(keep=("en",), min_score=0.5),
        perplexity(keep=("head", "middle")),  # RedPajama's choice; LLaMA does not say which buckets it kept
        reference(min_score=0.25),  # LLaMA 2.1; the threshold is RedPajama's, LLaMA gives none
    ),
    sample_models=train_sample_models,
    choices=(
        Choice(url_blocklist),  # --set url_blocklist.domains=FILE
        Choice(gopher_quality, after="language"),  # --set gopher_quality.on=yes
        Choice(gopher_repetition, after="language"),
    ),
)

# The same from the pages themselves (--from warc): better text than WET's, at the price of parsing HTML.
COMMONCRAWL_WARC = replace(
    COMMONCRAWL,
    name="commoncrawl:warc",
    source=CommonCrawlWarc(),
    steps=(extract(engine="own"), *COMMONCRAWL.steps),
    sample_models=None,
)

# C4, 15 %, as published: every row kept (LLaMA 2.1 names nothing more; RedPajama renamed fields).
C4_PUBLISHED = Recipe(name="c4", source=C4())

# C4 from WET files: all rules of the published code in their order (recipes.md 2.1).
C4_FROM_WET = Recipe(
    name="c4_from_wet",
    source=C4Wet(),
    steps=(
        c4_page(max_characters=190_000),
        c4_url(),
        url(form="c4", score="date", max_removed=1.0),  # one page an address, the newest
        c4_lines(max_word_length=1000, min_words=5, min_sentences=3),
        lines(scope="run"),
        c4_sentences(min_sentences=3),
        # The published code asks langdetect for 0.99, at 0.8 MB/s. lid.176 is sparing with its scores: it gives 0.99 to
        # 8 % of published rows and 0.5 to 98.8 % (DECISIONS.md).
        language(keep=("en",), min_score=0.5, join="space"),
        c4_bad_words(),  # the English list of LDNOOBW
        c4_split(validation_of=1000),
    ),
    choices=(Choice(mc4_long_lines, after="url"),),  # --set mc4_long_lines.on=yes
)

# GitHub, 4.5 %: projects under MIT, BSD and Apache licences; exact copies of files removed (LLaMA 2.1).
GITHUB = Recipe(
    name="github",
    source=GitHub(),
    steps=(
        licence(),  # before copies are removed, so that a copy with a licence stays
        code_path(),
        notebooks(),
        generated(),
        headers(),
        exact(),  # of what is left: files that are equal but for their licence header are copies (RedPajama's stay)
        code_quality(max_line=1000, max_mean_line=100, min_alphanumeric=0.25),  # RedPajama's; LLaMA gives no number
        secrets(),
    ),
)

# Wikipedia, 4.5 %: articles in 20 languages.
WIKIPEDIA = Recipe(
    name="wikipedia",
    source=Wikipedia(),
    steps=(
        articles(),
        url(),  # a page that is in two parts or two dumps of a wiki
    ),
)

# Books, 4.5 %: Project Gutenberg, and books of one's own in the place of Books3; over 90 % overlap removed (LLaMA 2.1).
BOOKS = Recipe(
    name="books",
    source=Books(),
    steps=(
        book_text(),  # HTML and EPUB to text
        gutenberg(),
        prose(),
        containment(threshold=0.9),
    ),
    choices=(Choice(language, after="prose"),),  # --set language.on=yes: the paper keeps every language
)

# arXiv, 2.5 %: LaTeX without comments, macros expanded, from the first section to the references (LLaMA 2.1).
ARXIV = Recipe(
    name="arxiv",
    source=Arxiv(),
    steps=(
        latex(begin="section", end="bibliography"),
        url(score="latex_version"),  # of the versions of one paper the latest
    ),
)

# StackExchange, 2 %: the 28 largest sites, answers by score. No duplicates removed in the paper, nor by RedPajama.
STACKEXCHANGE = Recipe(
    name="stackexchange",
    source=StackExchange(largest=28, template="redpajama"),
    steps=(provider_canary(),),  # posts that the provider makes up
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        COMMONCRAWL,
        COMMONCRAWL_WARC,
        C4_PUBLISHED,
        C4_FROM_WET,
        GITHUB,
        WIKIPEDIA,
        BOOKS,
        ARXIV,
        STACKEXCHANGE,
    )
}
