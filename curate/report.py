"""The account of a corpus: every record in, kept, failed, merged, skipped or dropped; as data, text and one page."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import CurateError, StoreError
from curate.schema import DROPPED
from curate.store import FINAL, Commit, Corpus, file_digest, read_json, replace_file
from curate.worker import balances

PUBLISHED_NAMES = {"arpa.bin": "lm.arpa.bin", "sp.model": "pieces.model"}  # en.arpa.bin as CCNet, and as kept
SURVIVOR = re.compile(r"[0-9a-f]{32}(?=, one of )")  # in the value of a duplicate that was dropped
SHOWN_KINDS = 8  # of skipped and of failed records, in the waterfall; --json has all
ALARM_RECORDS, ALARM_FILES, ALARM_FROM_FILES = 0.05, 0.01, 100  # damage beyond these ends a run with exit code 3


def account(corpus: Corpus) -> dict[str, Any]:
    """The contract of `curate report --json` (house.md 3), with what the page shows besides."""
    sources = {name: _account_source(corpus, name) for name in corpus.sources()}
    return {"balances": all(s["balances"] for s in sources.values()), "sources": sources}


def _account_source(corpus: Corpus, source: str) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    by: dict[str, Counter[str]] = {k: Counter() for k in ("failed", "skipped", "dropped", "flags")}
    flow: dict[str, list[int]] = {}
    damaged, units, balanced, recipes = [], 0, True, Counter[str]()
    inputs: dict[str, str] = {}
    again: list[str] = []
    entry = corpus.manifest["sources"].get(source, {})
    for commit in corpus.commits(source):
        counts = commit.record["counts"]
        units += 1
        name, first = str(commit.record["name"]), inputs.setdefault(str(commit.record["input"]), commit.record["name"])
        again += [f"{name} is the same file as {first}"] if first != name else []
        recipes[str(commit.record["recipe"])] += 1
        balanced &= balances(counts)
        for key in ("records_in", "kept", "merged", "bytes_in", "text_bytes_kept"):
            totals[key] += counts[key]
        for key, counter in by.items():
            counter.update(counts[key])
        for stage, came, kept in counts["flow"]:
            row = flow.setdefault(stage, [0, 0])
            row[0], row[1] = row[0] + came, row[1] + kept
        if counts["damage"]:
            damaged.append({"name": commit.record["name"], "damage": counts["damage"]})
    seconds = _core_seconds(corpus, source, set(recipes))
    return {
        **{k: totals[k] for k in ("records_in", "kept", "merged", "bytes_in", "text_bytes_kept")},
        "failed": sum(by["failed"].values()),
        "skipped": dict(by["skipped"].most_common()),
        "dropped": dict(by["dropped"].most_common()),
        "core_seconds": round(seconds, 3),
        "mb_per_core_second": round(totals["bytes_in"] / 1e6 / seconds, 3) if seconds else 0.0,
        "balances": balanced,
        "failed_by": dict(by["failed"].most_common()),
        "flags": dict(by["flags"].most_common()),
        "files": units,
        "damaged_files": damaged,
        "flow": [[stage, *row] for stage, row in flow.items()],
        "made_with": dict(recipes),
        "lacking": entry.get("lacking", []),  # what ran without its model
        "unfinished": max(0, len(entry.get("units", ())) - units),  # files that a run was stopped before
        "same_files": again,
    }


def _core_seconds(corpus: Corpus, source: str, recipes: set[str]) -> float:
    """CPU time of all runs that made what is there now."""
    found = [read_json(p) for p in sorted(corpus.root.glob("runs/*/metrics.json"))]
    made = [m for m in found if isinstance(m, dict) and m.get("source") == source and m.get("recipe") in recipes]
    return float(sum(m.get("core_seconds", 0.0) for m in made))


def alarms(report: dict[str, Any]) -> list[str]:
    """Where more was lost to damage than the thresholds allow."""
    lines = []
    for name, s in report["sources"].items():
        if s["records_in"] and s["failed"] / s["records_in"] > ALARM_RECORDS:
            lines.append(f"{name}: {s['failed']:,} of {s['records_in']:,} records were lost to damage")
        if s["files"] >= ALARM_FROM_FILES and len(s["damaged_files"]) / s["files"] > ALARM_FILES:
            lines.append(f"{name}: {len(s['damaged_files']):,} of {s['files']:,} files are damaged")
        elif s["files"] and len(s["damaged_files"]) == s["files"] and not s["kept"]:
            lines.append(f"{name}: every file is damaged, {s['damaged_files'][0]['damage'][0]}")
    return lines


def summary(report: dict[str, Any]) -> str:
    """One screen of text."""
    lines: list[str] = []
    for name, s in report["sources"].items():
        lines += [f"{name}: {s['files']:,} files, {size(s['bytes_in'])}, {s['records_in']:,} records"]
        lines += list(_table(_waterfall(s)))
        top = list(s["dropped"].items())[:8]
        if top:
            lines.append("  most dropped by: " + ", ".join(f"{k} {v:,}" for k, v in top))
        if s["flags"]:
            lines.append("  repaired or odd, kept: " + ", ".join(f"{k} {v:,}" for k, v in s["flags"].items()))
        for bad in s["damaged_files"][:5]:
            lines.append(f"  damaged: {plain(bad['name'])}: {plain('; '.join(bad['damage']))}")
        if len(s["damaged_files"]) > 5:
            lines.append(f"  and {len(s['damaged_files']) - 5} damaged files more (curate report --json names them)")
        lines += [f"  {line}" for line in s["lacking"]]
        lines += [f"  twice in the corpus: {plain(line)}" for line in s["same_files"][:3]]
        if s["unfinished"]:
            lines.append(f"  NOT FINISHED: {s['unfinished']:,} files are still to be done; run the same command again")
        if len(s["made_with"]) > 1:
            lines.append(f"  made with {len(s['made_with'])} different settings; run over all files to make them one")
        balance = "balances" if s["balances"] else "DOES NOT BALANCE"
        rate = f", {s['mb_per_core_second']:.1f} MB/s per core" if s["core_seconds"] else ""
        lines.append(f"  {size(s['text_bytes_kept'])} of text kept{rate}; the account {balance}")
    return "\n".join(lines)


def plain(text: Any) -> str:
    """Text of data or of file names as one line that cannot steer a terminal or forge other lines."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def size(count: float) -> str:
    """Bytes for people, in decimal units."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _waterfall(s: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """(what, records, share of all records) from records in to documents kept."""
    total = max(1, s["records_in"])
    yield "records in", s["records_in"], ""
    for kind, label in (("skipped", "skipped"), ("failed_by", "failed")):
        shown = list(s[kind].items())[:SHOWN_KINDS]
        for key, n in shown:
            yield f"{label}: {plain(key[:60])}", -n, f"{100 * n / total:.1f} %"
        rest = sum(s[kind].values()) - sum(n for _, n in shown)
        if rest:
            yield f"{label}: {len(s[kind]) - len(shown)} more kinds", -rest, f"{100 * rest / total:.1f} %"
    if s["merged"]:
        yield "merged", -s["merged"], f"{100 * s['merged'] / total:.1f} %"
    for key, n in sorted(s["dropped"].items(), key=lambda item: _stage_order(s, item[0])):
        yield f"dropped by {key}", -n, f"{100 * n / total:.1f} %"
    yield "kept", s["kept"], f"{100 * s['kept'] / total:.1f} %"


def _stage_order(s: dict[str, Any], key: str) -> tuple[int, str]:
    stages = [row[0] for row in s["flow"]]
    stage = key.partition(":")[0]
    return (stages.index(stage) if stage in stages else len(stages), key)


def _table(rows: Iterable[tuple[str, int, str]]) -> Iterator[str]:
    for label, n, share in rows:
        yield f"  {label:<44}{n:>14,}  {share:>7}"


# -- why -------------------------------------------------------------------------------------------------------------


def why(corpus: Corpus, wanted: str) -> list[dict[str, Any]]:
    """What became of a URL or document id: one entry for each record found, kept or dropped."""
    wanted = wanted.encode("utf-8", "replace").decode()
    found: list[dict[str, Any]] = []
    for source in corpus.sources():
        for commit in corpus.commits(source):
            for kind in FINAL:
                found += _matches(commit, kind, {wanted}, source)
    stand_ins = {m[0] for entry in found if (m := SURVIVOR.match(str(entry.get("value") or "")))}
    if stand_ins:
        kept = {e["doc_id"]: e for s in corpus.sources() for c in corpus.commits(s)
                for e in _matches(c, "documents", stand_ins, s)}  # fmt: skip
        for entry in found:
            survivor = kept.get(str(entry.get("value") or "")[:32])
            if survivor is not None:
                entry["survivor"] = {k: survivor[k] for k in ("doc_id", "url", "source", "file")}
    return found


def _matches(commit: Commit, kind: str, wanted: set[str], source: str) -> Iterator[dict[str, Any]]:
    """Records whose URL or id is one of those wanted."""
    names = pa.array(sorted(wanted), pa.string())
    reader = commit.open(kind)
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        hit = pc.or_(pc.is_in(batch["url"], names), pc.is_in(batch["doc_id"], names))
        if pc.any(hit).as_py():
            for row in batch.filter(hit).to_pylist():
                place = {"source": source, "file": commit.record["name"], "unit": commit.unit}
                yield {"verdict": "kept" if kind == "documents" else "dropped", **place, **row}


def why_text(entry: dict[str, Any]) -> str:
    """One answer of `why`, for people."""
    head = f"{plain(entry['url'] or entry['doc_id'])} ({entry['doc_id']}, {plain(entry['file'])})"
    if entry["verdict"] == "dropped":
        value = f": {plain(entry['value'])}" if entry["value"] else ""
        verb = "lost to damage" if entry["stage"] == "read" else f"dropped by {entry['stage']}"
        survivor = entry.get("survivor")
        kept = (
            f"\n  kept in its place: {plain(survivor['url'] or survivor['doc_id'])} of {survivor['source']}"
            f" ({survivor['doc_id']}, {plain(survivor['file'])})"
            if survivor
            else ""
        )
        return f"{head}\n  {verb}, reason {entry['reason']}{value}{kept}"
    known = {f.name for f in DROPPED} | {"verdict", "source", "file", "unit", "text", "title", "meta"}
    scores = [f"{k}={_short(v)}" for k, v in entry.items() if k not in known and v is not None]
    return f"{head}\n  kept, {len(entry['text']):,} characters; {' '.join(scores)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else plain(value)


# -- verify ----------------------------------------------------------------------------------------------------------


def verify(corpus: Corpus) -> list[str]:
    """Read everything again and trust nothing; what is wrong, a line each."""
    problems: list[str] = []
    if not (corpus.root / "corpus.json").exists():
        raise StoreError(f"{corpus.root}: no corpus.json there, not a corpus")
    manifest = corpus.manifest
    for source, entry in manifest["sources"].items():
        problems += _verify_source(corpus, source, set(entry.get("units", ())), set(entry.get("shaped_by", ())))
    problems += verify_models(corpus)
    return problems + [f"{s}: commits of a source that corpus.json does not have" for s in _unknown(corpus, manifest)]


def _unknown(corpus: Corpus, manifest: dict[str, Any]) -> list[str]:
    return [s for s in corpus.sources() if s not in manifest["sources"]]


def verify_models(corpus: Corpus) -> Iterator[str]:
    """Models of the corpus against the digests on their cards."""
    for path in sorted((corpus.root / "models").rglob("card.json")):
        try:
            told = read_json(path)["sha256"]
            files = told if isinstance(told, dict) else {p.name: told for p in path.parent.glob("*.*") if p != path}
        except (CurateError, KeyError, TypeError) as error:
            yield f"{path}: not a card ({error})"
            continue
        for name, digest in files.items():
            file = path.parent / PUBLISHED_NAMES.get(name.partition(".")[2], name)
            if not file.is_file():
                yield f"{file}: missing"
            elif name.endswith((".bin", ".ftz", ".model")) and file_digest(file)[1] != digest:
                yield f"{file}: its digest is not the one on its card"


def _verify_source(corpus: Corpus, source: str, expected: set[str], recipes: set[str]) -> Iterator[str]:
    folder, named, seen = corpus.final(source), set(), set()
    for unit, generation in sorted(folder.generations().items()):
        seen.add(unit)
        try:
            commit = folder.commit(unit, generation)
            named.update({folder.commit_path(unit, generation), *(commit.path(k) for k in commit.record["files"])})
            yield from verify_unit(commit)
            if unit not in expected:
                yield f"{source}: unit {unit} is committed, and corpus.json does not have it"
            if commit.record["recipe"] not in recipes:
                yield f"{source}: unit {unit} was made with settings that corpus.json does not have"
        except CurateError as error:
            yield str(error)
    for unit in sorted(expected - seen):
        yield f"{source}: unit {unit} has no commit record (a run was stopped, or the record was removed)"
    for kind in (*FINAL, "commits"):
        for path in sorted((folder.root / kind).glob("*")):
            if path not in named and path.name.partition(".")[0] in seen:
                yield f"{path}: no commit names this file (curate gc removes what is superseded)"
            elif path not in named and path.name.partition(".")[0] not in expected:
                yield f"{path}: does not belong to the corpus"
    if corpus.spool(source).exists():
        yield f"{source}: a run is not finished (its spool is still there); run the same command again"


def verify_unit(commit: Commit) -> list[str]:
    """Digests, row counts, ids, reasons and balance of one unit."""
    problems = commit.problems()
    if problems:
        return problems
    counts, label = commit.record["counts"], str(commit.folder.commit_path(commit.unit, commit.generation))
    try:
        documents = _columns(commit, "documents", ["doc_id", "text"])
        dropped = _columns(commit, "dropped", ["doc_id", "stage", "reason"])
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        return [f"{label}: {error}"]
    reasons: Counter[str] = Counter()
    for row in dropped.group_by(["stage", "reason"]).aggregate([([], "count_all")]).to_pylist():
        reasons[f"{row['stage']}:{row['reason']}"] = row["count_all"]
    expected = Counter(counts["dropped"])
    expected.update({f"read:{k}": v for k, v in counts["failed"].items()})
    ids = pa.concat_arrays([*documents["doc_id"].chunks, *dropped["doc_id"].chunks])
    checks = {
        f"{documents.num_rows} documents, the commit says {counts['kept']}": documents.num_rows == counts["kept"],
        "its dropped records are not those that the commit counts": reasons == expected,
        "its account does not balance": balances(counts),
        "a document id occurs twice": pc.count_distinct(ids).as_py() == len(ids),
        "its text is not as long as the commit says": int(pc.sum(documents["bytes"]).as_py() or 0)
        == counts["text_bytes_kept"],
    }
    return [f"{label}: {what}" for what, good in checks.items() if not good]


def _columns(commit: Commit, kind: str, names: list[str]) -> pa.Table:
    """Some columns of a file; the text is only measured, so that memory stays small."""
    reader, parts = commit.open(kind), []
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        columns = {n: batch[n] for n in names if n != "text"}
        if "text" in names:
            batch["text"].validate(full=True)
            columns["bytes"] = pc.binary_length(batch["text"])
        parts.append(pa.table(columns))
    empty = {n: pa.array([], pa.string()) for n in names if n != "text"}
    return pa.concat_tables(parts) if parts else pa.table({**empty, "bytes": pa.array([], pa.int64())})


# -- the page --------------------------------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5d6b7c;--line:#dde3ea;--page:#fff;--kept:#2f7d5b;--drop:#c2613f;
--skip:#8a96a5;--card:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9aa8b8;--line:#2c3642;--page:#12171d;--card:#1a212a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p.soft,td.soft,div.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1rem 0}
.card{background:var(--card);border-radius:.5rem;padding:.75rem 1rem}.card b{display:block;font-size:1.35rem}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{position:relative;height:1.1rem;background:var(--card);border-radius:.2rem;min-width:14rem}
.bar i{position:absolute;top:0;bottom:0;border-radius:.2rem;min-width:2px}code{font-size:.9em}
.url{word-break:break-all}
"""


def write_html(corpus: Corpus, report: dict[str, Any]) -> Path:
    """One self-contained page: the waterfall, the reasons with examples, damage. Nothing is loaded from elsewhere."""
    path = corpus.root / "report.html"
    parts = [_source_html(corpus, name, s) for name, s in report["sources"].items()]
    parts += [_clusters_html(found) for one in corpus.manifest.get("passes", []) for found in one["found"]]
    balance = "Every record is accounted for." if report["balances"] else "The account does not balance!"
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Curation report</title>"
        "<meta name='viewport' content='width=device-width'>"
        f"<style>{_STYLE}</style></head><body><h1>Curation report</h1><p class='soft'>{balance}</p>{''.join(parts)}"
        "</body></html>\n"
    )
    replace_file(path, page.encode("utf-8", "replace"))
    return path


def _source_html(corpus: Corpus, name: str, s: dict[str, Any]) -> str:
    cards = [
        (f"{s['kept']:,}", f"documents kept of {s['records_in']:,} records"),
        (size(s["text_bytes_kept"]), f"text kept of {size(s['bytes_in'])} read"),
        (f"{s['files']:,}", f"files, {len(s['damaged_files'])} of them damaged"),
        (f"{s['mb_per_core_second']:,.1f} MB/s", f"per core, {s['core_seconds']:,.1f} core seconds"),
    ]
    shown = "".join(f"<div class='card'><b>{a}</b>{b}</div>" for a, b in cards)
    lacking = "".join(f"<p class='soft'>{html.escape(line)}</p>" for line in s["lacking"])
    return (
        f"<h2>{html.escape(name)}</h2><div class='cards'>{shown}</div>{lacking}{_waterfall_html(s)}"
        f"{_examples_html(corpus, name, s)}{_damage_html(s)}"
    )


def _waterfall_html(s: dict[str, Any]) -> str:
    """Bars from all records down to the kept ones, each as long as its share, where the one before ended."""
    total, left, rows = max(1, s["records_in"]), s["records_in"], []
    for label, n, share in _waterfall(s):
        size = abs(n)
        if n < 0:
            left -= size
        colour = "var(--kept)" if n >= 0 else "var(--skip)" if label.startswith("skipped") else "var(--drop)"
        start = 0.0 if n >= 0 else 100 * left / total
        style = f"left:{start:.2f}%;width:{100 * size / total:.2f}%;background:{colour}"
        rows.append(
            f"<tr><td>{html.escape(label)}</td><td class='n'>{n:,}</td><td class='n soft'>{share}</td>"
            f"<td><div class='bar'><i style='{style}'></i></div></td></tr>"
        )
    return (
        f"<table><tr><th></th><th class='n'>records</th><th class='n'>share</th><th></th></tr>{''.join(rows)}</table>"
    )


def _examples_html(corpus: Corpus, source: str, s: dict[str, Any]) -> str:
    rows = []
    for (stage, reason), examples in _examples(corpus, source).items():
        count = s["failed_by"].get(reason, 0) if stage == "read" else s["dropped"].get(f"{stage}:{reason}", 0)
        cells = "".join(
            f"<div class='url'><code>{html.escape(str(e['url'] or e['doc_id']))}</code> "
            f"<span class='soft'>{html.escape(str(e['value'] or ''))}</span></div>"
            for e in examples
        )
        rows.append(
            f"<tr><td>{html.escape(stage)}: {html.escape(reason)}</td><td class='n'>{count:,}</td><td>{cells}</td></tr>"
        )
    if not rows:
        return ""
    head = "<tr><th>dropped by</th><th class='n'>records</th><th>examples, with what the rule saw</th></tr>"
    return f"<h2>Why documents were dropped</h2><table>{head}{''.join(rows)}</table>"


def _examples(corpus: Corpus, source: str, each: int = 3, units: int = 20) -> dict[tuple[str, str], list[Any]]:
    """A few dropped records of each reason, from the first units."""
    found: dict[tuple[str, str], list[Any]] = {}
    for number, commit in enumerate(corpus.commits(source)):
        if number == units:
            break
        reader = commit.open("dropped")
        for i in range(min(reader.num_record_batches, 200)):
            for row in reader.get_batch(i).slice(0, 200).to_pylist():
                rows = found.setdefault((row["stage"], row["reason"]), [])
                if len(rows) < each:
                    rows.append(row)
    return dict(sorted(found.items()))


def _clusters_html(found: dict[str, Any]) -> str:
    """The largest clusters of one duplicate barrier of a later pass."""
    rows = []
    for cluster in found["largest"]:
        kept, more = cluster["survivor"], cluster["size"] - 1 - len(cluster["removed"])
        gone = "".join(f"<div class='url'>{_named(d)}</div>" for d in cluster["removed"])
        rows.append(
            f"<tr><td class='n'>{cluster['size']:,}</td><td class='url'>{_named(kept)}"
            f"<div class='soft'>{html.escape(kept['begins'])}</div></td>"
            f"<td>{gone}{f'and {more:,} more' if more else ''}</td></tr>"
        )
    if not rows:
        return ""
    head = "<tr><th class='n'>documents</th><th>kept</th><th>removed</th></tr>"
    title = (
        f"Largest clusters of {html.escape(found['barrier'])}: {found['removed']:,} of {found['documents']:,} removed"
    )
    return f"<h2>{title}</h2><table>{head}{''.join(rows)}</table>"


def _named(document: dict[str, str]) -> str:
    return f"<code>{html.escape(document['url'] or document['doc_id'])}</code>"


def _damage_html(s: dict[str, Any]) -> str:
    if not s["damaged_files"]:
        return ""
    rows = "".join(
        f"<tr><td class='url'>{html.escape(d['name'])}</td><td>{html.escape('; '.join(d['damage']))}</td></tr>"
        for d in s["damaged_files"][:200]
    )
    return f"<h2>Damaged files</h2><table>{rows}</table>"
