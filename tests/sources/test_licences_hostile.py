"""Licences that look permissive and are not: what is hidden in them must never be kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.spdx import PERMISSIVE, needs_only, parse
from sources import licences
from sources.licences import WORDING
from sources.repository import Evidence

YEAR = "Copyright (c) 2020 Jane Roe\n\n"
MIT, BSD_2, BSD_3 = (
    YEAR + "\n\n".join(" ".join(part.split()) for _, part in WORDING[name]).replace("@", "the copyright holder")
    for name in ("MIT", "BSD-2-Clause", "BSD-3-Clause")
)
APACHE = (Path(licences.__file__).parent / "spdx" / "Apache-2.0.txt").read_text()


def but(text: str, old: str, new: str) -> dict[str, str]:
    """A LICENSE with one change."""
    assert old in text, old
    return {"LICENSE": text.replace(old, new, 1)}


def below(text: str, more: str) -> dict[str, str]:
    """A LICENSE with something below."""
    return {"LICENSE": f"{text}\n{more}\n"}


def only(text: str) -> dict[str, str]:
    """A LICENSE that says just this."""
    return {"LICENSE": text}


AS_IS = "THE SOFTWARE IS PROVIDED"
BSD_AS_IS = "THIS SOFTWARE IS PROVIDED BY"
WRITTEN = {  # before the rules were changed to allow lists
    "grant by hand": but(MIT, "Permission is hereby granted", "Upon registration, permission is hereby granted"),
    "grant to members": but(MIT, "to any person", "to any person of good standing"),
    "grant for a term": but(MIT, "is hereby granted", "is hereby granted until 31 December 2027"),
    "grant in a field": but(MIT, "without restriction", "without restriction in the field of medicine"),
    "grant in a territory": but(MIT, "to deal in the Software", "to deal in the Software within the EU"),
    "grant of a part": but(MIT, "any person obtaining a copy", "any person obtaining an unmodified copy"),
    "grant of fewer rights": but(MIT, "modify, merge, publish, distribute", "publish, distribute"),
    "copies numbered": but(MIT, "copies of the Software, and", "up to 10 copies of the Software, and"),
    "condition more": but(
        MIT,
        "or substantial portions of the Software.",
        "or substantial portions of the Software. A link to acme.example is shown on the start page.",
    ),
    "badge": but(MIT, AS_IS, f'The badge "Made with Acme" remains visible in every interface.\n\n{AS_IS}'),
    "spelt out": but(MIT, "is hereby granted", "is hereby n o t granted"),
    "number only": but(MIT, "to any person", "to any 3 persons"),
    "bsd condition": but(BSD_2, BSD_AS_IS, f"* Source of derived programs is sent to the holder.\n\n{BSD_AS_IS}"),
    "bsd advertising": but(BSD_3, "Neither the name", "Advertising of products mentions Acme. Neither the name"),
    "bsd except for": but(BSD_2, "are permitted provided", "are permitted (except for firms) provided"),
    "bsd holder": but(BSD_3, "the copyright holder nor", "Acme, whose consent is needed for any use, nor"),
    "bsd binary with fee": but(BSD_2, "Redistributions in binary form", "Redistributions in binary form, at 5 USD,"),
    "bsd as is by": but(BSD_2, "BY THE COPYRIGHT HOLDERS", "FOR TESTS AND DEMOS BY THE COPYRIGHT HOLDERS"),
    "disclaimer binds": but(MIT, "WITHOUT WARRANTY OF ANY KIND", "WITHOUT WARRANTY OF ANY KIND, YOU INDEMNIFY ACME"),
    "disclaimer tail": below(MIT, "USERS WAIVE ANY CLAIM AND DEFEND THE AUTHORS IN COURT."),
    "apache field": but(APACHE, "publicly perform, sublicense", "publicly perform in schools, sublicense"),
    "apache patents": but(APACHE, "(s) was submitted.", "(s) was submitted. A suit ends it all."),
    "apache appendix": but(APACHE, "[name of copyright owner]", "Acme, schools only"),
    "apache section": but(APACHE, "END OF TERMS", "10. Badge. Show ours on each screen.\n\n   END OF TERMS"),
    "apache below": below(APACHE, "These terms hold for the version 1 line; later ones are ours."),
    "ethics": below(MIT, "Whoever trains models on this work breaks the deal."),
    "per file": below(MIT, "fonts/Acme.ttf: ask Acme."),
    "dual with commercial": below(MIT, "For firms with over 10 people: the Acme Business Agreement."),
    "title that says more": only("MIT License (Non-Military)\n\n" + MIT),
    "name that says more": but(MIT, "Jane Roe", "Jane Roe Resale Needs Our Blessing"),
    "second line of the name": but(MIT, "Jane Roe", "Jane Roe\nand firms pay each year"),
    "year that says more": but(MIT, "2020 Jane", "2020 (trial version, 30 days) Jane"),
    "homoglyphs": but(MIT, "Jane Roe", "Jane Roe, nоt fоr sаle"),
    "zero width": but(MIT, "Jane Roe", "Jane Roe N\u200bo\u200bt F\u200bo\u200br S\u200bale"),
    "struck out": but(MIT, "publish, distribute,", "publish, d\u0336i\u0336stribute,"),
    "markdown strike": but(MIT, "publish, distribute,", "publish, ~~distribute~~,"),
    "emoji": below(MIT, "\U0001f4b0 \u2260 \U0001f3ed"),
    "french": below(MIT, "Les entreprises demandent un accord."),
    "finnish": below(MIT, "Yrityskäyttö vaatii luvan."),
    "chinese holder": but(MIT, "Jane Roe", "禁止商用"),
    "html comment": below(MIT, "<!-- firms: write to us first -->"),
    "html title": below(MIT, '<p title="Schools and hobby projects">Thanks.</p>'),
    "markdown link": below(MIT, "[Terms](https://acme.example/terms)"),
    "foreign address": below(MIT, "https://acme.example/firms-pay-here"),
    "twice with a change": below(MIT, MIT.replace("any person", "any student")),
    "tag and more": only("SPDX-License-Identifier: MIT\nHosting is ours.\n"),
    "named and more": only("MIT License, Acme edition\n"),
    "named with a place": only("Licensed under the MIT License in Europe.\n"),
    "named for a part": only("The core is licensed under the MIT License.\n"),
    "named with a wish": only("Licensed under the MIT License. Send a postcard.\n"),
    "metadata and more": {"package.json": '{"license": "MIT (core)"}'},
    "metadata trial": {"setup.py": "setup(license='MIT trial')"},
    "metadata in pieces": {"setup.py": "setup(license='MIT' ' for schools')"},
    "metadata classifier": {"setup.cfg": "[metadata]\nclassifiers =\n  License :: MIT License (schools)\n"},
    "metadata of the file": {"LICENSE": MIT, "package.json": '{"license": "See license at acme.example, firms pay"}'},
    "metadata pom": {"pom.xml": "<licenses><license><name>MIT</name><comments>schools</comments></license></licenses>"},
    "notice gpl": {"LICENSE": APACHE, "NOTICE": "Acme\nCopyright 2020 Acme\n\nAll of it is under the GPL."},
    "notice hosting": {"LICENSE": APACHE, "NOTICE.txt": "Acme\n\nHosting is left to Acme."},
    "copyright file": {"LICENSE": MIT, "COPYRIGHT": "Copyright 2020 Acme. Firms write to us before they run it.\n"},
    "r stub": {"LICENSE": "YEAR: 2020\nCOPYRIGHT HOLDER: Acme. Firms.\n", "DESCRIPTION": "Package: x\nLicense: MIT\n"},
    "one file, two licences": {
        "LICENSE": MIT + "\nGNU General Public License version 3\nFirms pay.\n",
        "package.json": '{"license": "MIT OR GPL-3.0"}',
    },
}
TRIED = {  # by somebody else, against the rules before
    "registered": but(MIT, "to any person", "to any registered person"),
    "first year": but(MIT, "free of charge, to", "free of charge for the first year, to"),
    "norway": but(MIT, "to any person obtaining", "to any person in Norway obtaining"),
    "write to": below(MIT, "Before using this in a company, write to jane@example.org."),
    "hosting": below(MIT, "Hosting this as a service is reserved to Acme."),
    "unmodified": but(BSD_3, "with or without modification", "unmodified"),
    "postcard": but(BSD_2, BSD_AS_IS, f"3. Users send a postcard to the author.\n\n{BSD_AS_IS}"),
    "schools": below(BSD_2, "For schools and hobby projects. Firms need another agreement."),
    "fewer rights": but(APACHE, "reproduce, prepare Derivative Works of,", "reproduce,"),
    "exclusive": but(APACHE, "non-exclusive, no-charge", "exclusive, no-charge"),
    "italian": below(MIT, "Uso aziendale non consentito."),
    "dutch": below(MIT, "Gebruik door bedrijven is uitgesloten."),
    "polish": below(MIT, "Firmy muszą wykupić osobną umowę."),
    "beta": only("MIT License during the beta.\n"),
    "someday": only("We hope to release this under the MIT License someday.\n"),
    "question": only("Is this released under the MIT License? Ask us.\n"),
    "versions": only("Versions up to 2.0 are released under the MIT License.\n"),
}


R = "BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS"
LATER: dict[str, Mapping[str, str | bytes]] = {  # written after the rules, to try them; some were kept at first
    "1 holder nonmil": but(MIT, "Jane Roe", "Jane Roe (Civil Works Only)"),
    "3 holder sentence caps": but(MIT, "Jane Roe", "JANE ROE. COMPANIES MAY NOT USE"),
    "4 holder title": but(MIT, "Jane Roe", "Jane Roe, Valid In Europe"),
    "5 holder semicolon": but(MIT, "Jane Roe", "Jane Roe; Expires 2027"),
    "6 disclaimer": but(
        MIT, "THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE", "THE AUTHORS, WHOM YOU MUST CREDIT, BE LIABLE"
    ),
    "7 bsd slot": but(BSD_3, "the copyright holder nor", "Acme Ltd. Royalties go to Acme nor"),
    "8 as is": but(BSD_2, 'CONTRIBUTORS "AS IS"', 'CONTRIBUTORS TO MEMBERS OF ACME "AS IS"'),
    "9 url": below(MIT, "https://opensource.org/licenses/MIT-NC"),
    "10 url query": below(MIT, "https://opensource.org/licenses/MIT?firms=ask"),
    "11 tag": below(MIT, "SPDX-License-Identifier: MIT AND LicenseRef-Acme"),
    "12 tag only with": only("SPDX-License-Identifier: MIT WITH Acme-exception"),
    "13 all rights reserved": below(MIT, "All rights reserved. Rental reserved."),
    "14 bullet": but(MIT, "The above copyright notice", "d e f The above copyright notice"),
    "15 fullwidth": below(MIT, "ｎｏ　ｓａｌｅ"),
    "16 superscript": below(MIT, "ⁿᵒᵗ ᶠᵒʳ ˢᵃˡᵉ"),
    "17 rtl": but(MIT, "publish, distribute", "publish, \u202eetubirtsid\u202c"),
    "18 arabic": below(MIT, "للاستخدام الشخصي"),
    "19 cyr holder": but(MIT, "Jane Roe", "Только Себе"),
    "20 del html": but(MIT, "publish, distribute", "publish, <del>distribute</del>"),
    "21 style": {"LICENSE.html": "<pre>" + MIT + '</pre><script>x="companies pay"</script>'},
    "22 json key": {"package.json": '{"license":{"type":"MIT","note":"schools"}}', "LICENSE": "MIT\nbut ask first\n"},
    "23 gemspec": {"x.gemspec": 's.license = "MIT (schools)"'},
    "24 cargo": {"Cargo.toml": '[package]\nlicense="MIT unless hosted"'},
    "25 poetry": {"pyproject.toml": '[tool.poetry]\nlicense="MIT, core"'},
    "26 mixed and or": {"setup.py": 'setup(license="GPL and MIT or BSD-3-Clause")'},
    "27 notice title": {
        "LICENSE": APACHE,
        "NOTICE": "Acme\nCopyright 2020 Acme\nThis product includes software developed by Acme. Hosting is for Acme.\n",
    },
    "28 notice md": {"LICENSE": APACHE, "NOTICE.md": "# Firms pay Acme"},
    "29 two texts": below(MIT, BSD_2.replace("with or without modification", "without modification")),
    "30 apache appendix how": but(APACHE, "file or class name", "file or class fee"),
    "31 title": only("MIT License v2 Acme\n\n" + MIT),
    "32 title bsd": only("BSD 4-Clause License\n\n" + BSD_3),
    "33 portion": but(MIT, "Copyright (c) 2020", "Portions Copyright (c) 2020 under contract"),
    "34 years": but(MIT, "2020", "2020-2021 90 days"),
    "35 statement": only("The MIT License or GPL, as Acme decides."),
    "36 statement2": only("MIT License (MIT)\n\nAcme"),
    "37 statement3": only("Licensed under the MIT.\nCopyright Acme. Hosting is ours."),
    "38 EULA": {"LICENSE": MIT, "EULA.txt": "One seat each."},
    "39 copying sub": {"LICENSE": MIT, "COPYING.md": "See Acme."},
    "40 mit sell": but(MIT, "and/or sell", "or sell"),
    "41 email": but(MIT, "Jane Roe", "Jane Roe <firms.pay@acme.example>"),
    "a2": but(MIT, "Jane Roe", "jane roe, museums"),
    "a3": but(MIT, "Jane Roe", "Jane Roe <https://acme.example/terms>"),
    "a4": but(MIT, "Jane Roe", "Jane Roe (Apache Terms Apply)"),
    "a5": but(MIT, "Jane Roe", "Jane Roe. Cloud Vendors Excluded"),
    "a6": but(MIT, "Jane Roe", "Jane Roe\nBeneficiaries: Libraries"),
    "a7": but(MIT, "Jane Roe", "Jane Roe\n\nBeneficiaries"),
    "a8": but(MIT, "Copyright (c) 2020 Jane Roe", "Copyright (c) 2020 Jane Roe GPLv3"),
    "a9": but(MIT, "Copyright (c) 2020 Jane Roe", "Copyright (c) 2020 Jane Roe GNU GPL"),
    "a10": but(MIT, "Copyright (c) 2020 Jane Roe", "Copyright (c) 2020 Jane Roe CC-BY-NC"),
    "a11": but(MIT, "Copyright (c) 2020 Jane Roe", "Copyright (c) 2020 Jane Roe, Shareware"),
    "a12": but(MIT, "Copyright (c) 2020 Jane Roe", "Copyright (c) 2020 Jane Roe, Evaluierung"),
    "a13": but(BSD_2, R, "BY VENDORS OUTSIDE CLOUDS"),
    "a14": but(BSD_2, R, "BY ACME. CLOUD VENDORS EXCLUDED. IT COMES"),
    "a15": but(BSD_3, "the copyright holder nor", "Acme Shareware Edition nor"),
    "b1": only("MIT License (Beta)"),
    "b2": only("Dual MIT"),
    "b3": only("MIT and others"),
    "b4": only("Copyright MIT"),
    "b5": only("license: MIT; docs: ask"),
    "b6": only("MIT License\n\nFor Acme"),
    "b7": only("Not licensed under MIT"),
    "b8": only("Licensed under the MIT License or proprietary"),
    "b9": only("MIT or commercial"),
    "b10": only("Apache License 3.0"),
    "b11": only("BSD 4 clause"),
    "b12": only("BSD License 1 Clause"),
    "b13": only("<!-- MIT --> Proprietary"),
    "b14": only("Available under MIT, GPL"),
    "b15": only("Public domain and MIT"),
    "c1": {"setup.py": 'setup(license="MIT" if FREE else "EULA")'},
    "c2": {"setup.py": 'setup(license=L)\nL="MIT"'},
    "c3": {"package.json": '{"licenses":[{"type":"MIT"},{"type":"EULA"}]}'},
    "c4": {"package.json": '{"license":"MIT","license":"EULA"}'},
    "c5": {"package.json": '{"license":"MIT AND (EULA)"}'},
    "c6": {"pyproject.toml": '[project]\nlicense={text="MIT. Firms ask."}'},
    "c7": {
        "DESCRIPTION": "Package: x\nLicense: MIT + file LICENSE\n",
        "LICENSE": "YEAR: 2020\nCOPYRIGHT HOLDER: X, Firms Ask",
    },
    "c8": {"PKG-INFO": "Metadata-Version: 2.1\nName: x\nLicense: MIT\n        Firms ask.\n"},
    "c9": {"PKG-INFO": "Metadata-Version: 2.1\nName: x\nLicense: MIT\nClassifier: License :: Free For Home Use\n"},
    "c10": {"x.cabal": "license: MIT-ish"},
    "c11": {"pom.xml": "<licenses><license><name>MIT</name></license><license><name>EULA</name></license></licenses>"},
    "d1": {"LICENSE": MIT, "NOTICE": "Acme Shareware"},
    "d2": {"LICENSE": MIT, "NOTICE": "Copyright 2020 Acme\n\nGPL"},
    "d3": {"LICENSE": MIT, "LICENSE.addendum": "Schools."},
    "d4": {"LICENSE": MIT, "COMMERCIAL-LICENSE.txt": "Pay."},
    "d5": {"LICENSE": MIT, "LICENCE-fonts.md": "Fonts: OFL"},
    "d6": {"LICENSE": MIT.encode() + b"\xff\xfe Firms ask"},
    "d7": {"LICENSE": (MIT + "\0F\0i\0r\0m\0s").encode()},
    "d8": {"LICENSE": MIT.encode("utf-16")},
    "d9": below(MIT, "---\n1. 2. 3. 30 days"),
    "d10": below(MIT, "X"),
    "d11": below(MIT, "> > > Libraries"),
    "d12": below(MIT, "$5"),
    "d13": below(MIT, "rem no firms"),
    "d14": below(MIT, "dnl no firms"),
    "d15": below(MIT, "<p>firms</p>"),
}


def is_kept(files: Mapping[str, str | bytes]) -> bool:
    evidence = Evidence()
    for name, text in files.items():
        evidence.add(name, text if isinstance(text, bytes) else text.encode())
    return needs_only(parse(evidence.below("").of("a.py", b"x = 1\n").licence), PERMISSIVE)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_hidden_is_not_kept(name: str) -> None:
    assert not is_kept(WRITTEN[name])


@pytest.mark.parametrize("name", TRIED)
def test_what_was_kept_once_is_not_any_more(name: str) -> None:
    assert not is_kept(TRIED[name])


@pytest.mark.parametrize("name", LATER)
def test_what_was_tried_later_is_not_kept(name: str) -> None:
    assert not is_kept(LATER[name])


USUAL: dict[str, Mapping[str, str | bytes]] = {
    "mit": only(MIT),
    "bsd 2": only(BSD_2),
    "bsd 3": only(BSD_3),
    "apache": only(APACHE),
    "mit twice": below(MIT, MIT),
    "titles": only("# The MIT License (MIT)\n=====\n\n" + MIT),
    "expat": only("Expat License\n\n" + MIT),
    "many holders": but(
        MIT,
        "Jane Roe",
        "Jane Roe <jane@example.org>, John van der Doe and contributors\n"
        "Copyright © 2010, 2012-present Acme, Inc. (https://acme.example)\nAll rights reserved.",
    ),
    "latin-1": {"LICENSE": MIT.replace("Jane Roe", "Göran Ñandú").encode("latin-1")},
    "regents": but(BSD_3, "the copyright holder nor", "the University nor"),
    "notice": {
        "LICENSE": APACHE,
        "NOTICE": "Acme Tool\nCopyright 2019-2021 Acme\n\nThis product includes software "
        "developed at\nThe Apache Software Foundation (http://www.apache.org/).\n",
    },
    "sentence": only("This project is licensed under the MIT License.\n"),
    "sentence with a file": {"LICENSE": MIT, "package.json": '{"license": "SEE LICENSE IN LICENSE.md"}'},
    "tag": only("SPDX-License-Identifier: MIT\nSPDX-FileCopyrightText: 2020 Jane Roe <jane@example.org>\n"),
    "classifier": {"setup.cfg": "[metadata]\nclassifiers =\n    License :: OSI Approved :: MIT License\n"},
    "holders elsewhere": {"LICENSE": MIT, "COPYRIGHT": "Copyright 2020 Acme\nCopyright 2021 Jane Roe\n"},
}


@pytest.mark.parametrize("name", USUAL)
def test_what_is_usual_is_kept(name: str) -> None:
    assert is_kept(USUAL[name])


BODIES = {
    name: [" ".join(part.split()).replace("@", "the copyright holder") for _, part in WORDING[name]]
    for name in ("MIT", "BSD-2-Clause", "BSD-3-Clause")
} | {"Apache-2.0": [" ".join(APACHE[APACHE.index("1. Definitions") : APACHE.index("END OF TERMS")].split())]}
# "the disclaimer" is a known variant, and "the name of the copyright holder" may be any name
MAY_GO = ("the", "following", "specific", "written", "or", "of", "its", "copyright", "holder")
MARKS = ("the copyright", "THE AUTHORS", "THE COPYRIGHT", "COPYRIGHT HOLDER")


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(BODIES)),
    st.text("bcdefghijklmnopqrstuvwxyz", min_size=2, max_size=9),
    st.integers(0, 10**6),
)
def test_no_word_can_be_added_to_a_text(licence: str, word: str, where: int) -> None:
    """Any word anywhere, but in the places of a name and where items of a list are counted (i, ii, 2)."""
    words = " ".join(BODIES[licence]).split()
    at = where % len(words)
    around = " ".join(words[max(0, at - 5) : at + 5]).lower()
    if any(mark.lower() in around for mark in MARKS) or word in ("ii", "iii", "iv"):
        return
    assert not is_kept({"LICENSE": " ".join([*words[:at], word, *words[at:]])})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(BODIES)), st.integers(0, 10**6))
def test_no_word_can_be_taken_from_a_condition(licence: str, where: int) -> None:
    words = " ".join(BODIES[licence][:-1] or BODIES[licence]).split()
    at = where % len(words)
    if len(words[at].strip("(.)")) < 2 or words[at] in MAY_GO:
        return
    assert not is_kept({"LICENSE": " ".join([*words[:at], *words[at + 1 :], *BODIES[licence][-1:]])})
