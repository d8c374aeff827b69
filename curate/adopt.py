"""Which model each stage runs with: found, copied into OUT/models with its card, and frozen there.

Search order: the stage's own setting, OUT/models, the user's cache; a published model is then fetched. A stage that can
do without a model runs without it, and says so; `strict` makes that an error.

    lid         fastText's language identification (required)
    lm          a folder an n-gram language model, a folder a language; perplexity cut-offs lie beside each
    reference   the classifier of pages that Wikipedia cites
    badwords    a list of terms that no page of C4 holds
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from curate.cache import cache_root
from curate.errors import CurateError, RecipeError
from curate.filters.perplexity import cutoffs_from_sample, freeze_cutoffs, languages
from curate.models import card, find
from curate.ngram import published
from curate.preview import preview
from curate.recipe import Recipe
from curate.stage import Split, Stage
from curate.store import Corpus, file_digest, read_json, replace_file, to_json

CUTOFF_DOCUMENTS = 20_000  # records at the head of a run that perplexity cut-offs are taken from
OPTIONAL = {  # what a stage does without its model, and how to make one
    "lm": (
        "no language model for {}: bucket 'none', kept",
        "curate lm train --lang {} TEXT --out OUT/models/lm",
    ),
    "reference": (
        "no reference classifier{}: no score, kept",
        "curate classifier train --cited URLS --pages CORPUS --out OUT/models/reference",
    ),
}
NO_LIST = "no list of bad words: no page dropped for them (to give one: --set c4_bad_words.words=FILE)"

Note = Callable[[str], None]


def resolve_models(
    recipe: Recipe, corpus: Corpus, splits: Sequence[Split], strict: bool, note: Note
) -> tuple[Recipe, list[str]]:
    """The recipe with every model setting a path below OUT/models, or None; and what runs without a model."""
    lacking: list[str] = []
    for step in recipe.steps:
        if not isinstance(step, Stage):
            continue
        for setting, kind in step.models:
            given = dict(step.settings)[setting]
            if kind == "lid":
                path: Path | None = _adopt_published(kind, given, corpus, note)
            elif kind == "badwords":
                path = _adopt_list(kind, given, corpus, note)
                lacking += [NO_LIST] if path is None else []
            elif kind == "lm":
                path = _adopt_folder(kind, given, corpus)
                lacking += _languages_without(recipe, path)
            else:
                path = _adopt_file(kind, given, corpus)
                lacking += [OPTIONAL[kind][0].format("")] if path is None else []
            if path is not None and kind not in ("lid", "badwords"):
                note(f"model {kind}: {path}")
            step = step.with_settings(**{setting: None if path is None else str(path)})
            recipe = recipe.with_stage(step)
            if kind == "lm" and path is not None and dict(step.settings)["cutoffs"] == "model":
                freeze(recipe, step, splits, path, note)
    if strict and lacking:
        commands = [how.format("en") for _, how in OPTIONAL.values()]
        raise RecipeError(f"--strict: {'; '.join(lacking)} (to train: {' | '.join(commands)})")
    return recipe, lacking


def _adopt_published(kind: str, given: str | None, corpus: Corpus, note: Note) -> Path:
    found = find(kind, given, corpus.root)
    kept = corpus.root / "models" / kind / found.path.name
    if not kept.exists() or file_digest(kept)[1] != found.digest:
        replace_file(kept, found.path.read_bytes())
        replace_file(kept.with_name("card.json"), to_json(card(found)))
    note(f"model {kind}: {found.origin}, sha256 {found.digest[:12]}")
    return kept


def _adopt_list(kind: str, given: str | None, corpus: Corpus, note: Note) -> Path | None:
    """A published list that a run can do without; one that was given and cannot be used is an error."""
    try:
        return _adopt_published(kind, given, corpus, note)
    except RecipeError:
        raise
    except CurateError as error:
        note(str(error))
        return None


def _adopt_folder(kind: str, given: str | None, corpus: Corpus) -> Path | None:
    """The folder of language models below OUT; what it lacks is copied from the given one, or else from the cache."""
    kept = corpus.root / "models" / kind
    if given is not None and _adopt_published_lms(Path(given), kept):
        return kept
    if given is not None and not languages(Path(given)):
        raise RecipeError(f"perplexity.model is {given!r}: no language model there (LANG/lm.bin and LANG/pieces.model)")
    for origin in [Path(given)] if given is not None else [cache_root() / "models" / kind]:
        for lang in languages(origin) if origin.resolve() != kept.resolve() else ():
            if given is not None or not (kept / lang / "lm.bin").exists():
                _adopt_lm(origin / lang, kept / lang)
    return kept if languages(kept) else None


def _adopt_lm(origin: Path, kept: Path) -> None:
    """Copy one language model; cut-offs belong to the model that they were taken with, and go with it."""
    if not all((origin / file).is_file() for file in ("lm.bin", "pieces.model")):
        return
    digests = {file: file_digest(origin / file)[1] for file in ("lm.bin", "pieces.model")}
    if (kept / "lm.bin").exists() and {f: file_digest(kept / f)[1] for f in digests} == digests:
        return
    (kept / "cutoffs.json").unlink(missing_ok=True)
    (kept / "card.json").unlink(missing_ok=True)
    for file in digests:
        _copy(origin / file, kept / file)
    told = read_json(origin / "card.json") if (origin / "card.json").is_file() else {}
    replace_file(kept / "card.json", to_json({**told, "lang": kept.name, "sha256": digests}))


def _adopt_published_lms(given: Path, kept: Path) -> bool:
    """Take over models as CCNet publishes them, en.arpa.bin and en.sp.model side by side; whether there were any."""
    found = [p for p in sorted(given.glob("*.arpa.bin")) if (given / f"{p.name.partition('.')[0]}.sp.model").exists()]
    for path in found:
        lang = path.name.partition(".")[0]
        _copy(path, kept / lang / published.FILE)
        _copy(given / f"{lang}.sp.model", kept / lang / "pieces.model")
        digests = {p.name: file_digest(p)[1] for p in (path, given / f"{lang}.sp.model")}
        card_bytes = to_json({"kind": "KenLM, as CCNet publishes it", "lang": lang, "sha256": digests})
        if not (kept / lang / "card.json").exists() or (kept / lang / "card.json").read_bytes() != card_bytes:
            replace_file(kept / lang / "card.json", card_bytes)
    return bool(found)


def _adopt_file(kind: str, given: str | None, corpus: Corpus) -> Path | None:
    kept = corpus.root / "models" / kind / "model.bin"
    if given is not None and not Path(given).is_file():
        raise RecipeError(f"{kind}.model is {given!r}: there is no such file")
    origin = Path(given) if given is not None else cache_root() / "models" / kind / "model.bin"
    if origin.is_file() and (given is not None or not kept.exists()):
        _copy(origin, kept)
        if origin.with_name("card.json").is_file():
            _copy(origin.with_name("card.json"), kept.with_name("card.json"))
    return kept if kept.exists() else None


def _copy(origin: Path, target: Path) -> None:
    """Copy a file unless it is there already, whole or not at all."""
    if not origin.is_file() or origin.resolve() == target.resolve():
        return
    if not target.exists() or file_digest(target) != file_digest(origin):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(origin, part)
        part.replace(target)


def _languages_without(recipe: Recipe, folder: Path | None) -> list[str]:
    kept = [dict(s.settings)["keep"] for s in recipe.steps if isinstance(s, Stage) and s.name == "language"]
    wanted = [x for x in (kept[0] if kept else ()) if x != "all"]
    have = languages(folder) if folder else ()
    lacking = [lang for lang in wanted if lang not in have]
    if not wanted:
        lacking = [f"any language but {', '.join(have)}" if have else "any language"]
    return [OPTIONAL["lm"][0].format(lang) for lang in lacking]


def freeze(recipe: Recipe, step: Stage, splits: Sequence[Split], folder: Path, note: Note) -> None:
    """Take perplexity cut-offs from the head of this run for every language that has none yet, and keep them.

    From then on they belong to the model: files added later change nothing that is done.
    """
    if all((folder / lang / "cutoffs.json").exists() for lang in languages(folder)):
        return
    tables, names = preview(recipe, splits, step.name, CUTOFF_DOCUMENTS)
    sampled = cutoffs_from_sample([t for t in tables if t.num_rows], folder)
    for lang in languages(folder):
        if (folder / lang / "cutoffs.json").exists():
            continue
        if lang not in sampled:
            replace_file(folder / lang / "cutoffs.json", to_json({"p30": None, "p60": None, "documents": 0}))
            note(f"perplexity cut-offs {lang}: no document at the head of this run; bucket 'none', kept")
        else:
            kept = freeze_cutoffs(folder, lang, sampled[lang])
            more = f" and {len(names) - 1} files more" if len(names) > 1 else ""
            limits = f"head < {kept.p30} <= middle < {kept.p60}"
            note(f"perplexity cut-offs {lang}: {limits}, from {kept.documents} documents of {names[0]}{more}")
