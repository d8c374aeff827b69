"""Rules for source code: counts against plain Python, and for each rule a file that breaks it alone."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.filters.code import (
    EXTENSIONS,
    code_path,
    code_quality,
    generated,
    headers,
    licence,
    notebooks,
    secrets,
    without_header,
)
from curate.kernels.code import COUNTS, code_counts
from curate.stage import Outcome, Stage

GOOD = """def total(rows):
    \"\"\"The sum of every second value.\"\"\"
    return sum(value for index, value in enumerate(rows) if index % 2)
"""


def table(*rows: tuple[str, str], licence: str | None = "MIT", meta: str = "{}") -> pa.Table:
    """Documents of (path, text)."""
    return pa.table(
        {
            "title": pa.array([p for p, _ in rows], pa.string()),
            "text": pa.chunked_array([pa.array([t for _, t in rows], pa.large_string())]),
            "license": pa.chunked_array([pa.array([licence] * len(rows), pa.string())]),
            "meta": pa.chunked_array([pa.array([meta] * len(rows), pa.string())]),
        }
    )


def reasons(outcome: Outcome, rows: int = 1) -> list[str | None]:
    return [None] * rows if outcome.reason is None else list(outcome.reason.to_pylist())


def texts(stage: Stage, *rows: tuple[str, str]) -> list[str]:
    outcome = stage(table(*rows))
    return outcome.columns["text"].to_pylist() if "text" in outcome.columns else [t for _, t in rows]


# --- counts ------------------------------------------------------------------------------------------------------


def counted(text: str) -> tuple[int, ...]:
    lines = text.split("\n")
    tokens, before = 0, ""
    for c in text:
        kind = "letter" if c.isalpha() else "digit" if c.isalnum() else "" if c.isspace() else "other"
        tokens += kind != before and kind != ""
        before = kind
    return (
        len(text),
        len(lines) - (lines[-1] == ""),
        max(map(len, lines)),
        sum(c.isalnum() for c in text),
        sum(c.isalpha() for c in text),
        tokens,
    )


CHARACTERS = st.sampled_from(
    [*"ab1_ \t\n\r.;({", "é", "ж", "日", "٣", "²", "\u00a0", "\u2028", "🙂", "\U0001d7d9"]
) | st.characters(codec="utf-8")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(CHARACTERS, max_size=60), min_size=1, max_size=5), st.integers(0, 2))
def test_counts_agree_with_plain_python(rows: list[str], skip: int) -> None:
    column = pa.array(["x"] * skip + rows, pa.large_string()).slice(skip)
    found = code_counts(column)
    assert [tuple(int(found[name][i]) for name in COUNTS) for i in range(len(rows))] == [counted(text) for text in rows]


def test_counts_of_nothing() -> None:
    assert all(len(values) == 0 for values in code_counts(pa.array([], pa.large_string())).values())


# --- lines and letters ---------------------------------------------------------------------------------------------

BREAKS = {
    "empty": " \n\t\n",
    "long_line": GOOD * 9 + "x = '" + "word " * 200 + "'\n",
    "long_lines": ("a comment of many words that goes on " * 3)[:101] + "\n",
    "few_alphanumeric": "abcdef += [((((((------))))))]\n" * 9,
    "few_letters": "a = 1 + 2 * 3\nb = 4 + 5 * 6\n" * 9,
}


@pytest.mark.parametrize("reason", BREAKS)
def test_each_rule_of_quality_has_a_file_that_breaks_it_alone(reason: str) -> None:
    row = table(("x.py", BREAKS[reason]))
    assert reasons(code_quality()(row)) == [reason]
    off = {
        "empty": {},
        "long_line": {"max_line": 10_000},
        "long_lines": {"max_mean_line": 1000.0},
        "few_alphanumeric": {"min_alphanumeric": 0.0},
        "few_letters": {"min_letters_per_token": 0.0},
    }[reason]
    assert reasons(code_quality(**off)(row)) == ([reason] if reason == "empty" else [None])


def test_a_figure_that_equals_its_threshold_passes() -> None:
    line = "x" * 1000 + "\n"
    assert reasons(code_quality(max_mean_line=2000.0)(table(("x.py", line)))) == [None]
    assert reasons(code_quality(max_mean_line=2000.0)(table(("x.py", "x" + line)))) == ["long_line"]
    assert reasons(code_quality()(table(("x.py", "word " * 19 + "abcd\n")))) == [None]
    assert reasons(code_quality()(table(("x.py", "word " * 19 + "abcde\n")))) == ["long_lines"]
    assert reasons(code_quality(min_letters_per_token=0.0)(table(("x.py", "ab1 " + "-" * 8)))) == [None]
    assert reasons(code_quality(min_letters_per_token=0.0)(table(("x.py", "ab1 " + "-" * 9)))) == ["few_alphanumeric"]


def test_figures_are_written_for_every_file() -> None:
    outcome = code_quality()(table(("x.py", GOOD), ("y.py", "")))
    columns = {name: values.to_pylist() for name, values in outcome.columns.items()}
    assert columns["code_quality_n_lines"] == [3, 0]
    assert columns["code_quality_longest_line"][0] == max(map(len, GOOD.split("\n")))
    assert columns["code_quality_mean_line"][0] == pytest.approx(len(GOOD) / 3)
    assert reasons(outcome) == [None, "empty"] and outcome.value is not None


# --- licence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("MIT", None),
        ("Apache-2.0 OR MIT", None),
        ("GPL-3.0 OR MIT", None),
        ("BSD-3-Clause AND MIT", None),
        ("GPL-3.0", "other_licence"),
        ("Apache-2.0 WITH LLVM-exception", None),
        ("MIT AND MPL-2.0", "other_licence"),
        ("LicenseRef-none", "no_licence"),
        (None, "no_licence"),
        ("LicenseRef-unknown", "licence_unknown"),
        ("LicenseRef-unknown AND MIT", "licence_unknown"),
        ("LicenseRef-BSD", "licence_unknown"),
        ("LicenseRef-conflict", "licence_conflict"),
        ("not ( one", "licence_unknown"),
        ("LicenseRef-GPL AND MIT", "other_licence"),
        ("LicenseRef-unknown AND GPL-3.0", "other_licence"),
        ("BSD-4-Clause", "other_licence"),
        ("0BSD", "other_licence"),
    ],
)
def test_licences(expression: str | None, reason: str | None) -> None:
    outcome = licence()(table(("x.py", GOOD), licence=expression))
    assert reasons(outcome) == [reason]
    assert outcome.value is not None and (outcome.value[0].as_py() is None) == (reason is None)


def test_the_ledger_says_what_the_repository_said() -> None:
    meta = json.dumps({"licence_from": 'LICENSE: MIT; "setup.py": GPL-3.0'})
    outcome = licence()(table(("x.py", GOOD), licence="LicenseRef-conflict", meta=meta))
    assert outcome.value is not None
    assert outcome.value.to_pylist() == ['conflict (LICENSE: MIT; \\"setup.py\\": GPL-3.0)']
    assert reasons(licence(allowed=("ISC",))(table(("x.py", GOOD), licence="ISC"))) == [None]


# --- path --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/b.py", None),
        ("a.c++", None),
        ("Dockerfile", None),
        ("x/Makefile", None),
        ("A.H", None),
        ("a.ipynb", None),
        ("a.PY", "extension"),
        ("a.crt", "extension"),
        ("a.json", "extension"),
        ("a", "extension"),
        ("LICENSE", "licence_file"),
        ("x/COPYING.txt", "licence_file"),
        ("license.py", None),
        ("package-lock.json", "lock_file"),
        ("sub/Cargo.lock", "lock_file"),
        ("jquery.min.js", "minified"),
        ("a-min.css", "minified"),
        ("admin.js", None),
        ("x_pb2.py", "generated"),
        ("x.pb.go", "generated"),
        ("moc_window.cpp", "generated"),
        ("generated.py", None),
        ("vendor/x.go", None),
    ],
)
def test_paths(path: str, reason: str | None) -> None:
    assert reasons(code_path()(table((path, GOOD)))) == [reason]


def test_settings_of_paths() -> None:
    assert reasons(code_path(keep_vendored=False)(table(("a/vendor/x.go", GOOD), ("a/vendors.go", GOOD)))) == [
        "vendored",
        None,
    ]
    assert reasons(code_path(extensions=(".txt",))(table(("x.txt", GOOD), ("x.py", GOOD)))) == [None, "extension"]
    assert len(EXTENSIONS) >= 67 and ".smali" in EXTENSIONS


# --- notebooks ---------------------------------------------------------------------------------------------------


def notebook(*cells: tuple[str, Any], **more: Any) -> str:
    made = [
        {"cell_type": kind, "source": source, "outputs": [{"data": {"image/png": "A" * 99, "text/plain": ["42"]}}]}
        for kind, source in cells
    ]
    return json.dumps({"nbformat": 4, "cells": made, **more})


def test_notebooks_become_code() -> None:
    text = notebook(
        ("markdown", ["# Title\n", "\n", "Words."]),
        ("code", ["x = 1\n", "print(x)"]),
        ("raw", "raw"),
        ("code", "\n"),
        ("code", "y = 2\n"),
    )
    assert texts(notebooks(), ("a.ipynb", text), ("b.py", text)) == [
        "# # Title\n#\n# Words.\n\nx = 1\nprint(x)\n\ny = 2\n",
        text,
    ]
    assert texts(notebooks(markdown=False), ("a.ipynb", text)) == ["x = 1\nprint(x)\n\ny = 2\n"]
    assert texts(notebooks(markdown=False, outputs=True), ("a.ipynb", text)) == [
        "x = 1\nprint(x)\n\n# 42\n\ny = 2\n\n# 42\n"
    ]
    old = json.dumps(
        {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": ["z = 3"], "outputs": []}]}]}
    )
    assert texts(notebooks(), ("a.ipynb", old)) == ["z = 3\n"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "bad_notebook"),
        ("{", "bad_notebook"),
        ("[1]", "bad_notebook"),
        ("{}", "bad_notebook"),
        ('{"cells": 5}', "bad_notebook"),
        ('{"cells": [5]}', "bad_notebook"),
        ("[" * 100_000, "bad_notebook"),
        (notebook(("code", 5)), "bad_notebook"),
        (notebook(("markdown", "words")), "no_code"),
        (notebook(), "no_code"),
    ],
    ids=range(10),
)
def test_bad_notebooks(text: str, reason: str) -> None:
    outcome = notebooks()(table(("a.ipynb", text), ("b.py", GOOD)))
    assert reasons(outcome) == [reason, None]


# --- generated and minified --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "// Code generated by protoc-gen-go. DO NOT EDIT.",
        "# Generated by Django 3.2 on 2021-04-06 12:00",
        "/* Generated by Cython 3.0 */",
        "# This file is automatically generated by autoheader.",
        " * @generated SignedSource<<abc>>",
        "// <auto-generated />",
        "; auto-generated file, do not edit",
        "# DO NOT EDIT THIS FILE",
        "/* Automatically generated from x.csv. Do not edit this file by hand. */",
        "// This file was automatically generated by swig",
        "# This is autogenerated code.",
    ],
)
def test_generated_files_are_known_by_their_head(line: str) -> None:
    rules = generated()
    assert reasons(rules(table(("x.py", f"\n{line}\n{GOOD}")))) == ["generated"]
    assert reasons(rules(table(("x.py", GOOD * 20 + line)))) == [None]


@pytest.mark.parametrize(
    "line",
    [
        "# Ids are generated by the server.",
        "// Returns the generated code.",
        "# Edit this to change the colours.",
        "'''Code generation tools.'''",
        "# A generator of random numbers",
        "# do not use this in production",
    ],
)
def test_words_about_generating_are_not_enough(line: str) -> None:
    assert reasons(generated()(table(("x.py", f"{line}\n{GOOD}")))) == [None]


def test_minified_scripts() -> None:
    dense = "function a(b){return b+1};" * 40
    rows = [("x.js", dense), ("x.css", dense), ("x.py", dense), ("x.js", dense.replace(";", ";\n"))]
    assert reasons(generated()(table(*rows))) == ["minified", "minified", None, None]
    assert reasons(generated(max_minified_mean=5000)(table(*rows))) == [None] * 4


# --- headers -----------------------------------------------------------------------------------------------------

C = "/*\n * Copyright 2020 A.\n * Licensed under MIT.\n */\n"
HEADERS: dict[str, tuple[str, str, str]] = {
    "c block": ("x.c", C + "\n#include <stdio.h>\nint x;\n", "#include <stdio.h>\nint x;\n"),
    "c lines": ("x.cc", "// Copyright 2020 A.\n// All rights reserved.\n\n#include <x>\n", "#include <x>\n"),
    "include is no comment in c": (
        "x.h",
        '#include "copyright.h"\n#define LICENSE 1\n',
        '#include "copyright.h"\n#define LICENSE 1\n',
    ),
    "python": ("x.py", "# Copyright 2020 A.\n# License: MIT\n\nimport os\n", "import os\n"),
    "shebang": ("x.py", "#!/usr/bin/env python\n# Copyright A.\nimport os\n", "#!/usr/bin/env python\nimport os\n"),
    "encoding": (
        "x.py",
        "# -*- coding: utf-8 -*-\n# Copyright A.\nimport os\n",
        "# -*- coding: utf-8 -*-\nimport os\n",
    ),
    "encoding inside": (
        "x.py",
        "# Copyright A.\n# -*- coding: utf-8 -*-\n# Licensed B.\nx\n",
        "# -*- coding: utf-8 -*-\nx\n",
    ),
    "comment after it stays": ("x.py", "# Copyright A.\n\n# What this does.\nx = 1\n", "# What this does.\nx = 1\n"),
    "paragraph after it stays": ("x.py", "# Copyright A.\n#\n# What this does.\nx = 1\n", "# What this does.\nx = 1\n"),
    "two notices": ("x.js", C + C + "let x;\n", "let x;\n"),
    "comment before it goes with it": ("x.go", "// x.go\n//\n// Copyright A.\n\npackage x\n", "package x\n"),
    "other comment first": (
        "x.js",
        "/* What this does. */\n" + C + "let x;\n",
        "/* What this does. */\n" + C + "let x;\n",
    ),
    "no notice": ("x.js", "/* What this does. */\nlet x;\n", "/* What this does. */\nlet x;\n"),
    "code first": ("x.js", "let x;\n" + C, "let x;\n" + C),
    "go build tags": ("x.go", "//go:build linux\n\n// Copyright A.\n\npackage x\n", "//go:build linux\n\npackage x\n"),
    "php": ("x.php", "<?php\n/* Copyright A. */\necho 1;\n", "<?php\necho 1;\n"),
    "xml": ("x.xml", '<?xml version="1.0"?>\n<!-- Copyright A. -->\n<a/>\n', '<?xml version="1.0"?>\n<a/>\n'),
    "html": ("x.html", "<!DOCTYPE html>\n<!--\nLicense: MIT\n-->\n<p>x\n", "<!DOCTYPE html>\n<p>x\n"),
    "lua block": ("x.lua", "--[[ Copyright A.\nMIT ]]\nreturn 1\n", "return 1\n"),
    "lua lines": ("x.lua", "-- Copyright A.\nreturn 1\n", "return 1\n"),
    "haskell": ("x.hs", "{-# LANGUAGE X #-}\n{- Copyright A. -}\nmodule X\n", "{-# LANGUAGE X #-}\nmodule X\n"),
    "sql": ("x.sql", "-- Copyright A.\nSELECT 1;\n", "SELECT 1;\n"),
    "batch": ("x.bat", "REM Copyright A.\n@echo off\n", "@echo off\n"),
    "fortran": ("x.f90", "! Copyright A.\nprogram x\n", "program x\n"),
    "old fortran": ("x.f", "C     Copyright A.\n      PROGRAM X\n", "      PROGRAM X\n"),
    "tex": ("x.tex", "% Copyright A.\n\\documentclass{a}\n", "\\documentclass{a}\n"),
    "visual basic": ("x.vb", "' Copyright A.\nModule X\n", "Module X\n"),
    "powershell": ("x.ps1", "<# Copyright A. #>\nGet-Item\n", "Get-Item\n"),
    "assembler": ("x.asm", "; Copyright A.\nmov ax, 1\n", "mov ax, 1\n"),
    "rst": ("x.rst", ".. Copyright A.\n\nTitle\n", "Title\n"),
    "dockerfile": (
        "Dockerfile",
        "# syntax=docker/dockerfile:1\n# Copyright A.\nFROM x\n",
        "# syntax=docker/dockerfile:1\nFROM x\n",
    ),
    "makefile": ("Makefile", "# Copyright A.\nall:\n", "all:\n"),
    "css charset": ("x.css", '@charset "utf-8";\n/*! Copyright A. */\na{}\n', '@charset "utf-8";\na{}\n'),
    "code on the line of its end": ("x.c", "/* Copyright A. */ int x;\n", " int x;\n"),
    "windows ends": ("x.c", C.replace("\n", "\r\n") + "\r\nint x;\r\n", "int x;\r\n"),
    "never closed": ("x.c", "/* Copyright A.\nint x;\n", "/* Copyright A.\nint x;\n"),
    "nothing else": ("x.c", C, ""),
    "unknown language": ("x.unknown", "# Copyright A.\n", "# Copyright A.\n"),
    "markdown heading": ("x.md", "# Copyright law\n\nText.\n", "# Copyright law\n\nText.\n"),
    "docstring": ("x.py", '"""Copyright A."""\nx\n', '"""Copyright A."""\nx\n'),
    "spdx": ("x.rs", "// SPDX-License-Identifier: MIT\n\nfn main() {}\n", "fn main() {}\n"),
    "rust doc": (
        "x.rs",
        "//! About licences, in prose.\n\nfn main() {}\n",
        "//! About licences, in prose.\n\nfn main() {}\n",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str) -> None:
    path, text, wanted = HEADERS[name]
    outcome = headers()(table((path, text), ("other.py", GOOD)))
    assert outcome.columns["text"].to_pylist() == [wanted, GOOD]
    assert outcome.columns["headers_removed"].to_pylist() == [len(text) - len(wanted), 0]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["x.py", "x.c", "x.lua", "x.php", "x.bat", "x.html"]),
    st.lists(
        st.sampled_from(
            [
                "# Copyright\n",
                "#\n",
                "# x\n",
                "#!/bin/sh\n",
                "/* licence */",
                "/*",
                "*/",
                "\n",
                "x = 1\n",
                "// (c) 2020\n",
                "<!--",
                "-->",
                "é",
                "--[[",
            ]
        ),
        max_size=12,
    ),
)
def test_what_is_cut_is_comments_alone(path: str, parts: list[str]) -> None:
    text = "".join(parts)
    cut = without_header(text, path)
    assert len(cut) <= len(text)
    assert "x = 1" not in text or cut.count("x = 1") + _commented(text, path) >= text.count("x = 1")
    assert without_header(cut, path) is not None


def _commented(text: str, path: str) -> int:
    """Lines of code that stand inside block comments."""
    marks = {"x.c": r"/\*.*?\*/", "x.php": r"/\*.*?\*/", "x.html": "<!--.*?-->", "x.lua": r"--\[\[.*?\]\]"}.get(path)
    return sum(m.count("x = 1") for m in re.findall(marks, text, re.S)) if marks else 0


# --- secrets -----------------------------------------------------------------------------------------------------


def test_secrets_are_masked() -> None:
    chance = random.Random(1)

    def letters(n: int) -> str:
        return "".join(chance.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789") for _ in range(n))

    planted = [
        "AKIA" + letters(16).upper(),
        "ghp_" + letters(36),
        "xoxb-" + letters(24),
        "AIza" + letters(35),
        f"eyJ{letters(20)}.eyJ{letters(30)}.{letters(20)}",
        "-----BEGIN RSA PRIVATE KEY-----\n"
        + "\n".join(letters(64) for _ in range(30))
        + "\n-----END RSA PRIVATE KEY-----",
    ]
    rows = [("x.py", f"key = '{secret}'\n{GOOD}") for secret in planted]
    outcome = secrets()(table(*rows, ("y.py", GOOD), ("z.py", " ".join(planted[:2]))))
    wanted = [f"key = '<secret>'\n{GOOD}"] * 6 + [GOOD, "<secret> <secret>"]
    assert outcome.columns["text"].to_pylist() == wanted
    assert outcome.columns["secrets_masked"].to_pylist() == [1, 1, 1, 1, 1, 1, 0, 2]
    again = secrets()(table(*(("x.py", t) for t in wanted)))
    assert "text" not in again.columns


@pytest.mark.parametrize(
    "text",
    ["AKIA", "ghp_short", "eyJ.eyJ.x", "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----", "MAKIA" + "A" * 16],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert texts(secrets(), ("x.py", text)) == [text]


# --- all of them -------------------------------------------------------------------------------------------------

EVERY = (licence(), code_path(), notebooks(), generated(), headers(), code_quality(), secrets())


def test_no_row_at_all_and_slices() -> None:
    for stage in EVERY:
        outcome = stage(table())
        assert outcome.reason is None or len(outcome.reason) == 0
        whole = table(("a.py", C), ("x.py", "# Copyright A.\n" + GOOD), ("b.ipynb", "{"), ("y.js", GOOD))
        part, alone = stage(whole.slice(1, 2)), stage(table(("x.py", "# Copyright A.\n" + GOOD), ("b.ipynb", "{")))
        assert reasons(part, 2) == reasons(alone, 2)
        assert {k: v.to_pylist() for k, v in part.columns.items()} == {
            k: v.to_pylist() for k, v in alone.columns.items()
        }


HOSTILE = [
    "/*" * 60_000,
    "# \n" * 50_000 + "copyright",
    "-----BEGIN PRIVATE KEY-----" * 5000,
    "eyJ" * 50_000,
    "copyright /* " * 12_000,
    "<!--" * 40_000,
    "generated " * 15_000,
    "\n" * 150_000,
    "((" * 70_000,
    "//" + "!" * 150_000 + " licence",
    "do not " * 20_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_files_take_linear_time(text: str) -> None:
    for path in ("x.py", "x.c", "x.html", "x.js"):
        for stage in EVERY:
            stage(table((path, text)))
