"""Licence decisions: written cases of every kind, edits found by hypothesis, and real source archives."""

from __future__ import annotations

import json
import os
import re
import tarfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.spdx import CONFLICT, NONE, PERMISSIVE, UNKNOWN, both, either, needs_only, one, parse, write
from sources import licences
from sources.licences import from_name, notice, recognise
from sources.repository import Evidence

YEAR = "Copyright (c) 2021 Ada Example <ada@example.org>\n\n"
MIT_BODY = "\n\n".join(" ".join(part.split()) for _, part in licences._MIT)
MIT = f"MIT License\n\n{YEAR}{textwrap.fill(MIT_BODY, 78)}\n"
CLAUSE_3 = licences._NAMES_CLAUSE[0].replace("@", "the copyright holder")
BSD_DISCLAIMER = " ".join(licences._BSD_DISCLAIMER[1].split())
BSD_2_BODY = " ".join(licences._BSD_2[1].split())
BSD_2 = f"BSD 2-Clause License\n\n{YEAR}{textwrap.fill(BSD_2_BODY)}\n\n{textwrap.fill(BSD_DISCLAIMER)}\n"
BSD_3 = f"{YEAR}{textwrap.fill(BSD_2_BODY + ' ' + CLAUSE_3)}\n\n{textwrap.fill(BSD_DISCLAIMER)}\n"
BSD_4 = BSD_3.replace(
    "Neither",
    "All advertising materials mentioning features or use of this software must display an acknowledgement.\nNeither",
).replace("Neither", "3. Neither")
APACHE = (Path(licences.__file__).parent / "spdx" / "Apache-2.0.txt").read_text()
APACHE_NOTICE = textwrap.fill(licences._APACHE_NOTICE)
GPL_HEAD = """                    GNU GENERAL PUBLIC LICENSE
                       Version 3, 29 June 2007

 Everyone is permitted to copy and distribute verbatim copies of this license document.
 This program is free software: use it with other code under the MIT License, the Apache License, Version 2.0 or the
 3-clause BSD license, which are compatible with the GNU General Public License.
"""
GPL_NO_TITLE = """  The GNU General Public License is a free, copyleft license for software and other works. The Apache
License, Version 2.0 and the MIT License are named here and mean nothing."""
LGPL = "GNU LESSER GENERAL PUBLIC LICENSE\nVersion 2.1, February 1999\n\nThe GNU General Public License ...\n"
MPL = """Mozilla Public License Version 2.0
1. Definitions
1.1. "Contributor" means each entity that owns Covered Software.
1.12. "Secondary License" means the GNU General Public License.
"""
MPL_EXHIBIT = """This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0. If a copy of it
was not distributed with this file, You can obtain one at https://mozilla.org/MPL/2.0/."""
ISC = """Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby
granted, provided that the above copyright notice and this permission notice appear in all copies."""
ZERO_BSD = (
    "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby "
    "granted."
)
UNLICENSE = (
    "This is free and unencumbered software released into the public domain.\nAnyone is free to copy it, by any means."
)
ZLIB = (
    "The origin of this software must not be misrepresented; you must not claim that you wrote the original software."
)
COMMONS = 'The Software is provided under the License, subject to the "Commons Clause" License Condition v1.0.'
X11 = "\nExcept as contained in this notice, the name of X shall not be used in advertising without authorization.\n"
CARGO = '[package]\nname = "x"\nlicense = "{}"\n'
EITHER = "Licensed under either of Apache License, Version 2.0 or MIT license at your option.\n"


def metadata(*lines: str) -> str:
    return "\n".join(["Metadata-Version: 2.4", "Name: x", *lines, "", "# MIT, GPL, whatever the README says", ""])


def lines_as(mark: str, text: str) -> str:
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in text.splitlines())


def without(text: str, *parts: str) -> str:
    for part in parts:
        assert part in text
        text = text.replace(part, "")
    return text


def changed(text: str, old: str, new: str) -> str:
    flat = re.sub(r"\s+", " ", text)
    assert old in flat, old
    return flat.replace(old, new)


# name: (files, licence of x.py); the first letter says what becomes of it: k(ept) or d(ropped)
CASES: dict[str, tuple[dict[str, str], str]] = {
    # one permissive licence, as it comes
    "k mit": ({"LICENSE": MIT}, "MIT"),
    "k mit british name": ({"LICENCE.txt": MIT}, "MIT"),
    "k mit markdown": ({"LICENSE.md": "# The MIT License (MIT)\n\n" + MIT}, "MIT"),
    "k mit copying": ({"COPYING": MIT}, "MIT"),
    "k mit lower name": ({"license": MIT}, "MIT"),
    "k mit named first": ({"MIT-LICENSE.txt": MIT}, "MIT"),
    "k bsd 2": ({"LICENSE": BSD_2}, "BSD-2-Clause"),
    "k bsd 3": ({"LICENSE.rst": BSD_3}, "BSD-3-Clause"),
    "k bsd 3 all rights reserved": (
        {"LICENSE": BSD_3.replace("\n\n", "\nAll rights reserved.\n\n", 1)},
        "BSD-3-Clause",
    ),
    "k bsd 3 own name": (
        {"LICENSE": BSD_3.replace("the copyright holder nor", "Ada Example Ltd. nor")},
        "BSD-3-Clause",
    ),
    "k bsd 3 name of the author": (
        {"LICENSE": changed(BSD_3, CLAUSE_3, licences._NAMES_CLAUSE[1].replace("@", "the author"))},
        "BSD-3-Clause",
    ),
    "k bsd numbered": (
        {
            "LICENSE": BSD_2.replace("Redistributions of", "\n  1. Redistributions of").replace(
                "Redistributions in", "\n  (b) Redistributions in"
            )
        },
        "BSD-2-Clause",
    ),
    "k apache": ({"LICENSE": APACHE}, "Apache-2.0"),
    "k apache filled in": (
        {"LICENSE": APACHE.replace("[yyyy] [name of copyright owner]", "2020 Example Authors")},
        "Apache-2.0",
    ),
    "k apache no appendix": ({"LICENSE": APACHE[: APACHE.index("APPENDIX")]}, "Apache-2.0"),
    "k apache no end line": ({"LICENSE": APACHE[: APACHE.index("END OF TERMS")]}, "Apache-2.0"),
    "k apache notice alone": ({"LICENSE": "Copyright 2020 A.\n\n" + APACHE_NOTICE}, "Apache-2.0"),
    "k apache with llvm exception": (
        {"LICENSE": APACHE + "\n--- LLVM Exceptions to the Apache 2.0 License ----\n\n" + licences._LLVM},
        "Apache-2.0 WITH LLVM-exception",
    ),
    # lost title, reflowed, decorated
    "k mit no title": ({"LICENSE": MIT.removeprefix("MIT License\n\n")}, "MIT"),
    "k mit no title no holder": ({"LICENSE": MIT_BODY}, "MIT"),
    "k apache no title": ({"LICENSE": APACHE[APACHE.index("1. Definitions") :]}, "Apache-2.0"),
    "k mit one line": ({"LICENSE": " ".join(MIT.split())}, "MIT"),
    "k mit narrow": ({"LICENSE": textwrap.fill(MIT_BODY, 24)}, "MIT"),
    "k apache reflowed": ({"LICENSE": textwrap.fill(" ".join(APACHE.split()), 120)}, "Apache-2.0"),
    "k mit windows ends": ({"LICENSE": MIT.replace("\n", "\r\n")}, "MIT"),
    "k mit in comments": ({"LICENSE": lines_as("#", MIT)}, "MIT"),
    "k bsd in c comments": ({"LICENSE": "/*\n" + lines_as(" *", BSD_3) + " */\n"}, "BSD-3-Clause"),
    "k mit as html": (
        {"LICENSE.html": "<html><body><p>" + MIT.replace("\n\n", "</p>\n<p>") + "</p></body></html>"},
        "MIT",
    ),
    "k mit hyphens": (
        {"LICENSE": MIT.replace("documentation", "documen-\ntation").replace("NONINFR", "NONIN-\nFR")},
        "MIT",
    ),
    "k mit capitals": ({"LICENSE": MIT.upper()}, "MIT"),
    "k mit holders": ({"LICENSE": YEAR.strip() + "\nCopyright © 2014 Göran Ñandú, 山田太郎\n" + MIT}, "MIT"),
    "k mit licence spelt": ({"LICENSE": MIT.replace("License", "Licence")}, "MIT"),
    # edits that change nothing
    "k mit disclaimer names holder": (
        {"LICENSE": changed(MIT, "AUTHORS OR COPYRIGHT HOLDERS", "EXAMPLE CORPORATION")},
        "MIT",
    ),
    "k mit typo": ({"LICENSE": MIT.replace("MERCHANTABILITY", "MERCHANTIBILITY")}, "MIT"),
    "k mit next paragraph": (
        {
            "LICENSE": changed(
                MIT, "this permission notice shall", "this permission notice (including the next paragraph) shall"
            )
        },
        "MIT",
    ),
    "k mit disclaimer cut": (
        {"LICENSE": changed(MIT, " WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,", "")},
        "MIT",
    ),
    "k bsd disclaimer rewritten": (
        {"LICENSE": changed(BSD_2, "THE COPYRIGHT HOLDERS AND CONTRIBUTORS", "EXAMPLE INC. AND ITS FRIENDS")},
        "BSD-2-Clause",
    ),
    "k bsd these conditions": (
        {
            "LICENSE": changed(
                BSD_2,
                "the above copyright notice, this list of conditions and the following disclaimer. Red",
                "the copyright notice above, this list of conditions and the disclaimer. Red",
            )
        },
        "BSD-2-Clause",
    ),
    # edits that do
    "d mit not for sale": ({"LICENSE": changed(MIT, "sublicense, and/or sell", "sublicense")}, UNKNOWN),
    "d mit academic": ({"LICENSE": changed(MIT, "to any person", "to any academic person")}, UNKNOWN),
    "d mit non-commercial": (
        {"LICENSE": changed(MIT, "without restriction", "for non-commercial purposes")},
        "CC-BY-NC",
    ),
    "d mit extra sentence": (
        {"LICENSE": MIT + "\nThe Software may not be used by competitors.\n"},
        f"{UNKNOWN} AND MIT",
    ),
    "d mit sentence in disclaimer": (
        {"LICENSE": changed(MIT, "IN NO EVENT", "YOU MUST PAY A FEE FOR COMMERCIAL USE. IN NO EVENT")},
        UNKNOWN,
    ),
    "d mit must notify": (
        {"LICENSE": changed(MIT, "portions of the Software.", "portions of the Software. You must notify us.")},
        UNKNOWN,
    ),
    "d json": (
        {"LICENSE": changed(MIT, "THE SOFTWARE IS", "The Software shall be used for Good, not Evil. THE SOFTWARE IS")},
        "JSON",
    ),
    "d mit no condition": (
        {"LICENSE": changed(MIT, "Permission is hereby granted", "No permission is hereby granted")},
        f"{UNKNOWN} AND MIT",
    ),
    "d x11": ({"LICENSE": MIT + X11}, f"{UNKNOWN} AND MIT"),
    "d bsd 4": ({"LICENSE": BSD_4}, "BSD-4-Clause"),
    "d bsd no nuclear": (
        {"LICENSE": BSD_3 + "\nYou acknowledge that this software is not designed for nuclear plants.\n"},
        f"BSD-3-Clause AND {UNKNOWN}",
    ),
    "d bsd source only": ({"LICENSE": changed(BSD_2, "source and binary forms", "source form only")}, UNKNOWN),
    "d apache commons clause": ({"LICENSE": COMMONS + "\n\n" + APACHE}, "Apache-2.0 AND LicenseRef-Commons-Clause"),
    "d mit commons clause": ({"LICENSE": MIT + "\n" + COMMONS}, "LicenseRef-Commons-Clause AND MIT"),
    "d apache patent clause gone": (
        {
            "LICENSE": changed(
                APACHE,
                "Grant of Patent License. Subject to the terms and conditions of this License, each "
                "Contributor hereby grants to You a perpetual, worldwide, non-exclusive, no-charge, royalty-free, "
                "irrevocable (except as stated in this section) patent license",
                "Patents.",
            )
        },
        f"Apache-2.0 AND {UNKNOWN}",
    ),
    "d foreign words added": ({"LICENSE": MIT + "\n本软件不得用于商业用途。\n"}, f"{UNKNOWN} AND MIT"),
    "d russian words added": ({"LICENSE": MIT + "\nТолько для личного использования\n"}, f"{UNKNOWN} AND MIT"),
    "d half a licence": ({"LICENSE": MIT[: len(MIT) // 3]}, f"{UNKNOWN} AND MIT"),
    "d licence far too long": ({"LICENSE": MIT + "\n" + "Ada Example\n" * 30_000}, UNKNOWN),
    # other licences, also where they name permissive ones
    "d gpl": ({"COPYING": GPL_HEAD}, "GPL-3.0"),
    "d gpl no title": ({"COPYING": GPL_NO_TITLE * 9}, "LicenseRef-GPL"),
    "d lgpl": ({"COPYING.LESSER": LGPL * 3}, "LGPL-2.1 AND LicenseRef-GPL"),
    "d mpl": ({"LICENSE": MPL * 5}, "MPL-2.0"),
    "d mpl exhibit": ({"LICENSE": MPL_EXHIBIT}, "MPL-2.0"),
    "d isc": ({"LICENSE": ISC}, "ISC"),
    "d 0bsd": ({"LICENSE": ZERO_BSD}, "0BSD"),
    "d unlicense": ({"UNLICENSE": UNLICENSE}, "Unlicense"),
    "d zlib": ({"LICENSE": ZLIB}, "Zlib"),
    "d proprietary": ({"LICENSE": "Copyright 2020 Example. All rights reserved. Do not copy.\n"}, UNKNOWN),
    "d gpl over an mit text": (
        {"LICENSE": GPL_HEAD + MIT},
        "Apache-2.0 AND BSD-3-Clause AND GPL-3.0 AND LicenseRef-GPL AND MIT",
    ),
    "d title of another": ({"LICENSE": "GNU GENERAL PUBLIC LICENSE\n\n" + MIT_BODY}, "LicenseRef-GPL AND MIT"),
    # several texts
    "k mit and apache files": ({"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE}, "Apache-2.0 AND MIT"),
    "k rust": (
        {"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE, "Cargo.toml": CARGO.format("MIT OR Apache-2.0")},
        "Apache-2.0 OR MIT",
    ),
    "k rust with slash": (
        {"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE, "Cargo.toml": CARGO.format("MIT/Apache-2.0")},
        "Apache-2.0 OR MIT",
    ),
    "k either of two files": ({"LICENSE": EITHER, "LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE}, "Apache-2.0 OR MIT"),
    "k both texts in one file": ({"LICENSE": MIT + "\n\n" + BSD_3}, "BSD-3-Clause AND MIT"),
    "d mit and gpl files": ({"LICENSE-MIT": MIT, "COPYING": GPL_HEAD}, "GPL-3.0 AND MIT"),
    "k mit or gpl": (
        {"LICENSE-MIT": MIT, "COPYING": GPL_HEAD, "package.json": '{"license": "(MIT OR GPL-3.0)"}'},
        "GPL-3.0 OR MIT",
    ),
    "d mit and mpl in one file": (
        {"LICENCE": "files: *\nMPL-2.0 (c) A\n\n" + MPL_EXHIBIT + "\n\n" + MIT},
        "MIT AND MPL-2.0",
    ),
    "d mpl and either": (
        {
            "LICENSE-MIT": MIT,
            "LICENSE-APACHE": APACHE,
            "LICENSE-MPL": MPL * 5,
            "Cargo.toml": CARGO.format("MPL-2.0 AND (Apache-2.0 OR MIT)"),
        },
        "(Apache-2.0 AND MPL-2.0) OR (MIT AND MPL-2.0)",
    ),
    "d cnri": (
        {"LICENSE": "This was derived from 're' and licensed under CNRI's Python 1.6 license.\n\n" + APACHE},
        "Apache-2.0 AND CNRI-Python",
    ),
    "d portions": ({"LICENSE": MIT + "\nPortions of this code are under their own licences.\n"}, f"{UNKNOWN} AND MIT"),
    "k list of foreign parts": ({"LICENSE": BSD_3, "THIRD-PARTY-LICENSES.txt": GPL_HEAD}, "BSD-3-Clause"),
    "d reuse untagged": ({"LICENSES/MIT.txt": MIT, "LICENSES/GPL-3.0.txt": GPL_HEAD}, "GPL-3.0 AND MIT"),
    "k reuse tagged": (
        {"LICENSES/MIT.txt": MIT, "LICENSES/GPL-3.0.txt": GPL_HEAD, "x.py": "# SPDX-License-Identifier: MIT\n"},
        "MIT",
    ),
    # metadata
    "k metadata alone": ({"PKG-INFO": metadata("License-Expression: MIT")}, "MIT"),
    "k pyproject text": (
        {"pyproject.toml": '[project]\nlicense = {text = "Apache License, Version 2.0"}\n'},
        "Apache-2.0",
    ),
    "k family and text": ({"LICENSE": BSD_2, "setup.cfg": "[metadata]\nlicense = BSD\n"}, "BSD-2-Clause"),
    "d family alone": ({"setup.cfg": "[metadata]\nlicense = BSD\n"}, "LicenseRef-BSD"),
    "d apache classifier alone": (
        {"PKG-INFO": metadata("Classifier: License :: OSI Approved :: Apache Software License")},
        "LicenseRef-Apache",
    ),
    "k setup.py": (
        {"setup.py": "raise SystemExit(license='GPL')\nsetup(license='MIT')\n".replace("='GPL'", "")},
        "MIT",
    ),
    "k two statements agree": (
        {"setup.py": "setup(license='MIT', classifiers=['License :: OSI Approved :: MIT License'])"},
        "MIT",
    ),
    "d statements contradict": (
        {"setup.py": "setup(license='MIT')", "PKG-INFO": metadata("License-Expression: GPL-3.0-only")},
        CONFLICT,
    ),
    "d text contradicts metadata": ({"LICENSE": MIT, "package.json": '{"license": "GPL-3.0"}'}, CONFLICT),
    "d gpl text, mit metadata": ({"COPYING": GPL_HEAD, "pyproject.toml": '[project]\nlicense = "MIT"\n'}, CONFLICT),
    "d mit text, apache metadata": ({"LICENSE": MIT, "package.json": '{"license": "Apache-2.0"}'}, CONFLICT),
    "d unlicensed": ({"package.json": '{"license": "UNLICENSED"}'}, "LicenseRef-proprietary"),
    "d broken metadata": ({"LICENSE": MIT, "package.json": '{"license": '}, f"{UNKNOWN} AND MIT"),
    "k see licence file": ({"LICENSE": MIT, "package.json": '{"license": "SEE LICENSE IN LICENSE"}'}, "MIT"),
    "k r package": (
        {"DESCRIPTION": "Package: x\nLicense: MIT + file LICENSE\n", "LICENSE": "YEAR: 2020\nCOPYRIGHT HOLDER: A\n"},
        "MIT",
    ),
    "k gemspec": ({"x.gemspec": "Gem::Specification.new do |s|\n  s.license = 'MIT'\nend\n", "LICENSE": MIT}, "MIT"),
    "k pom": (
        {"pom.xml": "<licenses><license><name>Apache License, Version 2.0</name></license></licenses>"},
        "Apache-2.0",
    ),
    "k composer list": ({"composer.json": '{"license": ["MIT", "GPL-3.0-or-later"]}'}, "GPL-3.0-or-later OR MIT"),
    "d metadata of unknown name": ({"setup.py": "setup(license='Frobozz Magic License')"}, UNKNOWN),
    "k licence in metadata": ({"PKG-INFO": metadata("License: " + MIT.replace("\n", "\n        "))}, "MIT"),
    # nothing, or only where it does not count
    "d none": ({"y.py": "pass\n"}, NONE),
    "d only in readme": ({"README.md": "# x\n\n## License\n\nMIT\n"}, NONE),
    "d whole text only in readme": ({"README.md": MIT}, NONE),
    "d empty licence file": ({"LICENSE": "\n"}, NONE),
    "d a mere path": ({"LICENSE": "../LICENSE"}, NONE),
    "d no licence in a sister folder": ({"docs/LICENSE": MIT}, NONE),
    "d licence checker": ({"licenses.py": f'MIT = """{MIT}"""\n'}, NONE),
    # heads of files
    "k tag alone": ({"x.py": "# SPDX-License-Identifier: MIT OR GPL-3.0\n"}, "GPL-3.0 OR MIT"),
    "k tag agrees": ({"LICENSE": MIT, "x.py": "# SPDX-License-Identifier: MIT\n"}, "MIT"),
    "k tag adds apache": ({"LICENSE": MIT, "x.py": "/* SPDX-License-Identifier: Apache-2.0 */"}, "Apache-2.0 AND MIT"),
    "d tag contradicts": ({"LICENSE": MIT, "x.py": "// SPDX-License-Identifier: GPL-2.0-only\n"}, CONFLICT),
    "d tag never frees": ({"COPYING": GPL_HEAD, "x.py": "# SPDX-License-Identifier: MIT\n"}, "GPL-3.0"),
    "d gpl notice in an mit project": (
        {
            "LICENSE": MIT,
            "x.py": "# You can redistribute it under the terms of the GNU General Public License.\n# licence\n",
        },
        "LicenseRef-GPL AND MIT",
    ),
    "d broken tag": ({"x.py": "# SPDX-License-Identifier: MIT AND\n"}, UNKNOWN),
    "k list of names is no notice": (
        {"LICENSE": MIT, "x.py": "LICENSES = ['GPL', 'GNU General Public License']\n"},
        "MIT",
    ),
    # prose
    "k prose": ({"LICENSE": "This project is licensed under the MIT License.\n"}, "MIT"),
    "d prose exceptions": (
        {"LICENSE": "Most of this is released under the MIT license, except foo.c.\n"},
        f"{UNKNOWN} AND MIT",
    ),
    "d prose lgpl later": (
        {
            "LICENSE": "x is released under the GNU Lesser General Public License, either version 2.1 of the License, "
            "or (at your option) any later version. y is released under the MIT license.\n"
        },
        "LGPL-2.1 AND MIT",
    ),
    "d prose style": ({"LICENSE": "Licensed under a BSD-style license.\n"}, f"LicenseRef-BSD AND {UNKNOWN}"),
    "k prose or gpl": ({"LICENSE": "Dual licensed under the MIT license or the GPL version 2.\n"}, "GPL-2.0 OR MIT"),
}


def decided(files: dict[str, str], path: str = "x.py") -> str:
    evidence = Evidence()
    for name, text in {"x.py": "print(1)\n", **files}.items():
        evidence.add(name, text.encode())
    return evidence.of(path, files.get(path, "print(1)\n").encode()).licence


@pytest.mark.parametrize("name", CASES)
def test_written_cases(name: str) -> None:
    files, wanted = CASES[name]
    assert decided(files) == wanted
    assert needs_only(parse(wanted)) == name.startswith("k ")


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 80


# --- folders -----------------------------------------------------------------------------------------------------

TREE = {
    "LICENSE": MIT,
    "vendor/foo/LICENSE": BSD_3,
    "vendor/gpl/COPYING": GPL_HEAD,
    "vendor/bare/y.c": "int x;\n",
    "third_party/zlib/LICENSE": ZLIB,
    "node_modules/p/package.json": '{"license": "MIT"}',
    "packages/core/package.json": '{"license": "Apache-2.0"}',
    "packages/same/package.json": '{"license": "MIT"}',
    "ee/LICENSE": "Copyright Example. This needs a subscription and may only be used in production with one.\n",
    "doc/licenses/GPL.txt": GPL_HEAD,
}


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("x.py", "MIT"),
        ("src/deep/er/x.py", "MIT"),
        ("vendor/foo/sub/x.c", "BSD-3-Clause"),
        ("vendor/gpl/x.c", "GPL-3.0"),
        ("vendor/bare/y.c", NONE),
        ("vendor/x.c", NONE),
        ("third_party/zlib/inflate.c", "Zlib"),
        ("node_modules/p/index.js", "MIT"),
        ("node_modules/q/index.js", NONE),
        ("packages/core/x.js", CONFLICT),
        ("packages/same/x.js", "MIT"),
        ("packages/x.js", "MIT"),
        ("ee/x.py", UNKNOWN),
        ("doc/index.rst", "MIT"),
        ("Vendor/x.go", NONE),
    ],
)
def test_each_folder_is_judged_by_the_nearest_licence(path: str, wanted: str) -> None:
    assert decided(TREE, path) == wanted


def test_a_cut_archive_proves_nothing() -> None:
    evidence = Evidence()
    evidence.add("LICENSE", MIT.encode())
    evidence.is_whole = False
    assert evidence.of("x.py", b"").licence == UNKNOWN
    assert evidence.of("x.py", b"# SPDX-License-Identifier: MIT\n").licence == UNKNOWN


def test_a_licence_file_that_cannot_be_read_is_unknown() -> None:
    evidence = Evidence()
    evidence.add("LICENSE", None)
    evidence.add("package.json", b'{"license": "MIT"}')
    assert evidence.of("x.py", b"").licence == f"{UNKNOWN} AND MIT"


def test_many_tags_against_the_licence_are_a_conflict_and_few_are_not() -> None:
    def tagged(gpl: int, mit: int) -> str:
        files = {f"g{i}.c": "// SPDX-License-Identifier: GPL-2.0\n" for i in range(gpl)}
        return decided(
            {"LICENSE": MIT, **files, **{f"m{i}.c": "// SPDX-License-Identifier: MIT\n" for i in range(mit)}}
        )

    assert [tagged(1, 0), tagged(3, 3), tagged(3, 4), tagged(1, 9)] == [CONFLICT, CONFLICT, "MIT", "MIT"]


# --- edits at random -----------------------------------------------------------------------------------------------

HARMFUL = [
    "only for academic use",
    "not to be sold",
    "a fee is required",
    "commercial use is prohibited",
    "under the GPL",
    "you must notify the author",
    "for internal evaluation",
    "except by governments",
    "не для продажи",
    "personal use",
]
TEXTS = {"MIT": MIT, "BSD-2-Clause": BSD_2, "BSD-3-Clause": BSD_3, "Apache-2.0": APACHE}


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(TEXTS)), st.sampled_from(HARMFUL), st.floats(0, 1))
def test_a_restriction_anywhere_in_a_text_is_never_overlooked(licence: str, words: str, where: float) -> None:
    text = TEXTS[licence]
    parts = text.split(" ")
    at = int(where * len(parts))
    made = recognise(" ".join([*parts[:at], words, *parts[at:]]))
    if licence == "Apache-2.0" and at > APACHE[: APACHE.index("END OF TERMS")].count(" "):
        return  # its appendix binds nobody, but see the next test
    assert made is not None and not needs_only(made.expression)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["MIT", "BSD-2-Clause", "BSD-3-Clause"]), st.data())
def test_a_lost_word_of_the_grant_is_never_overlooked(licence: str, data: st.DataObject) -> None:
    words = TEXTS[licence].split()
    end = words.index("PROVIDED")  # the disclaimer may be edited
    carry = [i for i, w in enumerate(words[:end]) if w.lower().strip('.,;:"()').removesuffix("s") in GRANTS]
    at = data.draw(st.sampled_from(carry))
    made = recognise(" ".join([*words[:at], *words[at + 1 :]]))
    assert made is not None and not needs_only(made.expression)


GRANTS = frozenset(
    [
        "permission",
        "granted",
        "use",
        "copy",
        "modify",
        "merge",
        "publish",
        "distribute",
        "sublicense",
        "sell",
        "permit",
        "permitted",
        "source",
        "binary",
        "retain",
        "reproduce",
        "modification",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(TEXTS)), st.integers(20, 200), st.sampled_from(["", "#", "//", " *", ";;", ">", "REM"]))
def test_layout_does_not_matter(licence: str, width: int, mark: str) -> None:
    text = lines_as(mark, textwrap.fill(" ".join(TEXTS[licence].split()), width))
    made = recognise(text)
    assert made is not None and write(made.expression) == licence


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_ends(text: str) -> None:
    recognise(text)
    notice(text)
    from_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "permission is hereby granted " * 6000,
        "copyright " * 19_000,
        "the license " * 15_000,
        "(" * 190_000,
        "- \n" * 60_000,
        "apache license version " * 8000,
        "mit or " * 25_000,
        "a" * 190_000,
        ("use copy modify merge " * 8000),
    ],
    ids=range(9),
)
def test_hostile_texts_end(text: str) -> None:
    """Each of them would take minutes in a scan that is not linear."""
    recognise(text)


# --- expressions and names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "free"),
    [
        ("mit", "MIT", True),
        ("MIT OR Apache-2.0", "Apache-2.0 OR MIT", True),
        ("MIT or gpl-3.0", "GPL-3.0 OR MIT", True),
        ("(MIT AND GPL-3.0) OR ISC", "ISC OR (GPL-3.0 AND MIT)", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "(Apache-2.0 AND MPL-2.0) OR (MIT AND MPL-2.0)", False),
        ("MIT AND (BSD-3-Clause OR GPL-2.0)", "(BSD-3-Clause AND MIT) OR (GPL-2.0 AND MIT)", True),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception", True),
        ("Apache-2.0 WITH Commons-Clause", "Apache-2.0 WITH Commons-Clause", False),
        ("GPL-2.0 WITH Classpath-exception-2.0", "GPL-2.0 WITH Classpath-exception-2.0", False),
        ("Apache-2.0+", "Apache-2.0+", True),
        ("GPL-2.0+", "GPL-2.0+", False),
        ("MIT-0", "MIT-0", False),
        ("BSD-4-Clause", "BSD-4-Clause", False),
    ],
)
def test_expressions(text: str, wanted: str, free: bool) -> None:
    assert write(parse(text)) == wanted
    assert needs_only(parse(text)) == free
    assert parse(wanted) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()",
        "MIT AND",
        "OR MIT",
        "(MIT",
        "MIT)",
        "MIT Apache-2.0",
        "MIT WITH",
        "a,b",
        "(" * 50 + "MIT" + ")" * 50,
        " AND ".join(f"(A{i} OR B{i})" for i in range(8)),
        "MIT " * 5000,
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


NAMES = st.sampled_from([*PERMISSIVE, "GPL-3.0", "ISC", "LicenseRef-x"])
EXPRESSIONS = st.recursive(
    NAMES.map(one),
    lambda e: st.lists(e, min_size=1, max_size=2).map(both) | st.lists(e, min_size=1, max_size=2).map(either),
    max_leaves=5,
)


@given(EXPRESSIONS)
def test_expressions_survive_writing(expression: object) -> None:
    assert parse(write(expression)) == expression  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("MIT", "MIT"),
        ("The MIT License (MIT)", "MIT"),
        ("MIT license", "MIT"),
        ("Expat", "MIT"),
        ("MIT License.", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("ASL 2.0", "Apache-2.0"),
        ("Apache Software License 2.0", "Apache-2.0"),
        ("Apache", "LicenseRef-Apache"),
        ("apache2", "Apache-2.0"),
        ("BSD", "LicenseRef-BSD"),
        ("BSD 3-Clause", "BSD-3-Clause"),
        ("New BSD", "BSD-3-Clause"),
        ("BSD3", "BSD-3-Clause"),
        ("BSD-2", "BSD-2-Clause"),
        ("Simplified BSD License", "BSD-2-Clause"),
        ("3-Clause BSD License", "BSD-3-Clause"),
        ("GPLv3", "GPL-3.0"),
        ("GPL", "LicenseRef-GPL"),
        ("LGPL", "LGPL-2.1"),
        ("GNU General Public License v2", "GPL-2.0"),
        ("MIT or GPLv2", "GPL-2.0 OR MIT"),
        ("Apache-1.1", "Apache-1.1"),
        ("Public Domain", "Unlicense"),
        ("MIT with extras", "LicenseRef-unknown AND MIT"),
        ("MIT style", "LicenseRef-unknown AND MIT"),
        ("UNKNOWN", None),
        ("", None),
    ],
)
def test_names(name: str, wanted: str | None) -> None:
    made = from_name(name)
    assert (made and write(made)) == wanted


# --- real archives -----------------------------------------------------------------------------------------------

DECLARED = {  # of the archives that download; chardet 7 is 0BSD (sdists.tsv has the LGPL of chardet 5)
    "datasketch": "MIT",
    "sentencepiece": "Apache-2.0",
    "click": "BSD-3-Clause",
    "lxml": "BSD-3-Clause",
    "mwparserfromhell": "MIT",
    "pylatexenc": "MIT",
    "fsspec": "BSD-3-Clause",
    "tqdm": "MIT AND MPL-2.0",
    "certifi": "MPL-2.0",
    "chardet": "0BSD",
    "regex": "Apache-2.0 AND CNRI-Python",
    "orjson": "(Apache-2.0 AND MPL-2.0) OR (MIT AND MPL-2.0)",
}


def test_real_archives_are_decided_as_declared(shared_data: Path) -> None:
    """Needs the archives of sdists.tsv, in $CURATE_SDISTS or github/sdists beside it."""
    folder = Path(os.environ.get("CURATE_SDISTS", shared_data / "github" / "sdists"))
    archives = sorted(folder.glob("*.tar.gz")) if folder.is_dir() else []
    if not archives:
        pytest.skip(f"no source archives at {folder}: pip download --no-deps --no-binary NAME NAME (set CURATE_SDISTS)")
    rows = [line.split("\t") for line in (shared_data / "github" / "sdists.tsv").read_text().splitlines()[1:]]
    kept = {row[0]: row[3] == "yes" for row in rows}
    for archive in archives:
        name = archive.name.rsplit("-", 1)[0]
        evidence = Evidence()
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)) is not None:
                    evidence.add(member.name.partition("/")[2], file.read())
        found = evidence.of("x.py", b"").licence
        assert needs_only(parse(found)) == kept[name], (name, found)
        assert found == DECLARED.get(name, found)


def test_licences_of_installed_packages_agree_with_their_metadata() -> None:
    """A hundred licence files that nobody wrote for this test: whatever is proved is what its package declares."""
    import importlib.metadata

    proved = 0
    for package in importlib.metadata.distributions():
        declared = from_name(
            (package.metadata.json.get("license_expression") or "") and str(package.metadata["License-Expression"])
        )
        if declared is None:
            continue
        for file in package.files or []:
            own = ".dist-info" in str(file) and "_vendor" not in str(file)
            if own and re.fullmatch(r"(?:LICENSE|COPYING)(?:\.txt|\.md|\.rst)?", file.name):
                try:
                    found = recognise(file.read_text())
                except (OSError, UnicodeDecodeError):
                    continue
                if found is not None and needs_only(found.expression) and not found.is_statement:
                    assert json.dumps(write(found.expression)) and _agrees(found.expression, declared), (
                        package.name,
                        found,
                    )
                    proved += 1
    assert proved >= 10


def _agrees(found: object, declared: object) -> bool:
    from curate.spdx import licences as names

    return bool(names(found) & names(declared))  # type: ignore[arg-type]
