"""Licences that look permissive and are not: what is hidden in them must never be kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

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
    "condition more": but(MIT, "or substantial portions of the Software.", "or substantial portions of the Software. "
                          "A link to acme.example is shown on the start page."),  # fmt: skip
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
    "apache patents": but(APACHE, "Contribution(s) was submitted.", "Contribution(s) was submitted. A suit ends it all."),
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
    "metadata classifier": {"setup.cfg": "[metadata]\nclassifiers =\n    License :: OSI Approved :: MIT License (schools)\n"},
    "metadata of the file": {"LICENSE": MIT, "package.json": '{"license": "See license at acme.example, firms pay"}'},
    "metadata pom": {"pom.xml": "<licenses><license><name>MIT</name><comments>schools</comments></license></licenses>"},
    "notice gpl": {"LICENSE": APACHE, "NOTICE": "Acme\nCopyright 2020 Acme\n\nAll of it is under the GPL."},
    "notice hosting": {"LICENSE": APACHE, "NOTICE.txt": "Acme\n\nHosting is left to Acme."},
    "copyright file": {"LICENSE": MIT, "COPYRIGHT": "Copyright 2020 Acme. Firms write to us before they run it.\n"},
    "r stub": {"LICENSE": "YEAR: 2020\nCOPYRIGHT HOLDER: Acme. Firms pay.\n", "DESCRIPTION": "Package: x\nLicense: MIT\n"},
    "one file, two licences": {"LICENSE": MIT + "\nGNU General Public License version 3\nFirms pay.\n",
                               "package.json": '{"license": "MIT OR GPL-3.0"}'},
}  # fmt: skip
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


USUAL: dict[str, Mapping[str, str | bytes]] = {
    "mit": only(MIT),
    "bsd 2": only(BSD_2),
    "bsd 3": only(BSD_3),
    "apache": only(APACHE),
    "mit twice": below(MIT, MIT),
    "titles": only("# The MIT License (MIT)\n=====\n\n" + MIT),
    "expat": only("Expat License\n\n" + MIT),
    "many holders": but(MIT, "Jane Roe", "Jane Roe <jane@example.org>, John van der Doe and contributors\n"
                        "Copyright © 2010, 2012-present Acme, Inc. (https://acme.example)\nAll rights reserved."),
    "latin-1": {"LICENSE": MIT.replace("Jane Roe", "Göran Ñandú").encode("latin-1")},
    "regents": but(BSD_3, "the copyright holder nor", "the University nor"),
    "notice": {"LICENSE": APACHE, "NOTICE": "Acme Tool\nCopyright 2019-2021 Acme\n\nThis product includes software "
               "developed at\nThe Apache Software Foundation (http://www.apache.org/).\n"},
    "sentence": only("This project is licensed under the MIT License.\n"),
    "sentence with a file": {"LICENSE": MIT, "package.json": '{"license": "SEE LICENSE IN LICENSE.md"}'},
    "tag": only("SPDX-License-Identifier: MIT\nSPDX-FileCopyrightText: 2020 Jane Roe <jane@example.org>\n"),
    "classifier": {"setup.cfg": "[metadata]\nclassifiers =\n    License :: OSI Approved :: MIT License\n"},
    "holders elsewhere": {"LICENSE": MIT, "COPYRIGHT": "Copyright 2020 Acme\nCopyright 2021 Jane Roe\n"},
}  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_what_is_usual_is_kept(name: str) -> None:
    assert is_kept(USUAL[name])
