"""Comments, macros and the body of papers: the kernel beside plain Python, and a document for each rule."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError
from curate.filters.latex import body, latex
from curate.kernels import latex as kernel


def clean(text: str, *verbatim: bytes) -> str:
    return kernel.clean(text.encode(), verbatim)[0].decode()


def expand(text: str, **budget: int) -> str:
    return kernel.expand(text.encode(), (), **budget)[0].decode()


def plain_clean(text: str) -> str:
    """Line comments as TeX reads them, a line at a time."""
    out, glue = "", False
    for line in text.split("\n"):
        last = line is None
        if glue:
            if not line.strip(" \t") or (
                re.search(r"(?<!\\)(?:\\\\)*\\[A-Za-z]+$", out) and re.match(r"[ \t]*[A-Za-z]", line)
            ):
                out += "\n"
            else:
                line = line.lstrip(" \t")
        fresh = not glue or out.endswith("\n")
        glue = False
        found = re.match(r"((?:[^\\%]|\\.|\\$)*)%", line)
        if found is None:
            out += line + "\n"
        elif fresh and not found[1].strip(" \t"):
            pass
        elif found[1] != found[1].rstrip(" \t"):
            out += found[1].rstrip(" \t") + "\n"
        else:
            out, glue = out + found[1], True
        assert not last
    return out


WORDS = st.lists(
    st.sampled_from(["a", "b ", "\\%", "%", "% x", "\\\\", "\\foo", " ", "\n", "\n\n", "{", "}", "1"]), max_size=30
)


@settings(max_examples=400, deadline=None)
@given(WORDS)
def test_line_comments_go_as_in_plain_python(parts: list[str]) -> None:
    text = "".join(parts) + "\nend\n"
    assert "".join(clean(text).split()) == "".join(plain_clean(text).split())
    assert clean(text).split() == plain_clean(text).split()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\n% gone\nb\n", "a\nb\n"),
        ("a % gone\nb\n", "a\nb\n"),
        ("ab%gone\n  cd\n", "abcd\n"),
        ("5\\% stays\n", "5\\% stays\n"),
        ("line\\\\% gone\nnext\n", "line\\\\next\n"),
        ("\\foo%\nbar\n", "\\foo\nbar\n"),
        ("a%\n\nb\n", "a\n\nb\n"),
        ("a\r\n% gone\r\nb\r\n", "a\nb\n"),
        ("a\n\\begin{comment}\ngone\n\\end{comment}\nb\n", "a\nb\n"),
        ("\\begin{verbatim}\n% stays\n\\end{verbatim}\n", "\\begin{verbatim}\n% stays\n\\end{verbatim}\n"),
        (
            "\\begin{lstlisting}[x]\n% stays\n\\end{lstlisting}%gone\n",
            "\\begin{lstlisting}[x]\n% stays\n\\end{lstlisting}\n",
        ),
        ("\\verb|%| and \\verb*+%+ % gone\n", "\\verb|%| and \\verb*+%+\n"),
        ("\\url{http://x/a%20b} % gone\n", "\\url{http://x/a%20b}\n"),
        ("a \\iffalse gone \\ifx x y \\fi gone \\fi b", "a b"),
        ("\\iffalse gone \\else kept \\ifx x\\else y\\fi \\fi b", "kept \\ifx x\\else y\\fi  b"),
        ("\\iffalse if and only if: $a \\iff b$ \\fi b", "b"),
        ("\\iffalse 5\\% \\fi b", "b"),
        ("\\iffalse % \\fi in a comment\n gone \\fi b", "b"),
        ("\\let\\ifdraft\\iffalse \\ifdraft x\\fi", "\\let\\ifdraft\\iffalse \\ifdraft x\\fi"),
        ("\\protect\\iffalse a \\protect\\fi", "\\protect\\iffalse a \\protect\\fi"),
        ("a \\end{document} gone", "a \\end{document}"),
        ("\\begin{verbatim}\\end{document}\\end{verbatim}b", "\\begin{verbatim}\\end{document}\\end{verbatim}b"),
        ("a\n\\endinput\ngone", "a\n"),
        ("never closed \\begin{comment} stays", "never closed \\begin{comment} stays"),
        ("never closed \\iffalse stays", "never closed \\iffalse stays"),
        ("a\x00b\x07c\x7f", "abc"),
        ("\\", "\\"),
        ("%", ""),
        ("", ""),
    ],
)
def test_what_is_a_comment(text: str, wanted: str) -> None:
    assert clean(text) == wanted


def test_environments_that_a_paper_declares_are_verbatim() -> None:
    assert clean("\\begin{code}\n% stays\n\\end{code}", b"code") == "\\begin{code}\n% stays\n\\end{code}"
    assert "stays" not in clean("\\begin{code}\n% stays\n\\end{code}")


def test_inputs_are_noted_but_not_those_in_comments_or_verbatim() -> None:
    text = b"\\input{a} % \\input{b}\n\\begin{verbatim}\\input{c}\\end{verbatim} \\include{d} \\verb|\\input{e}|"
    out, events, _ = kernel.clean(text)
    assert [(kind, out[begin:end]) for kind, begin, end in events.tolist()] == [
        (kernel.INPUT, b"\\input"),
        (kernel.INCLUDE, b"\\include"),
    ]


@pytest.mark.parametrize(
    ("definition", "use", "wanted"),
    [
        (r"\newcommand{\x}{one}", r"\x two", "onetwo"),
        (r"\newcommand{\x}{one\xspace}", r"\x two, \x. \x{}", "one two, one. one{}"),
        (r"\newcommand\x{one}", r"a \x{} b", "a one{} b"),
        (r"\newcommand*{\x}[1]{<#1>}", r"\x{a}\x b\x\alpha", r"<a><b><\alpha>"),
        (r"\newcommand{\x}[2][D]{#1:#2}", r"\x{a} \x[b]{c} \x[{]}]{d}", "D:a b:c {]}:d"),
        (r"\newcommand{\x}[3]{#3#2#1#1}", r"\x{a}{b}{c}", "cbaa"),
        (r"\newcommand{\x}[1]{\textbf{#1}}", r"\x{\x{\x{a}}}", r"\textbf{\textbf{\textbf{a}}}"),
        (r"\newcommand{\y}[1]{[#1]}\newcommand{\x}{\y}", r"\x{a}", "[a]"),
        (r"\newcommand{\x}{\alpha}", r"\x y", r"\alpha y"),
        (r"\newcommand{\x}{word}", r"\bf\x", r"\bf word"),
        (r"\newcommand{\x}[1]{#1bc}", r"\x{\a}", r"\a bc"),
        (r"\renewcommand{\x}{one}", r"\x", "one"),
        (r"\newcommand{\x}{one}\providecommand{\x}{two}", r"\x", "one"),
        (r"\newcommand{\x}{one}\renewcommand{\x}{two}", r"\x", "two"),
        (r"\DeclareRobustCommand{\x}{one}", r"\x", "one"),
        (r"\def\x{one}", r"\x", "one"),
        (r"\def\x#1#2{#2#1}", r"\x{a}b", "ba"),
        (r"\def\x(#1,#2){#2/#1}", r"\x(a,{b,c})", "b,c/a"),
        (r"\def\be#1\ee{E(#1)}", r"\be x{\ee}y\ee z", r"E(x{\ee}y)z"),
        (r"\long\def\x{one}\global\edef\y{two}", r"\x\y", "onetwo"),
        (r"\let\old\epsilon\let\epsilon\varepsilon", r"$\epsilon\old$", r"$\varepsilon\epsilon$"),
        (r"\newcommand{\a}{1}\let\b=\a\renewcommand{\a}{2}", r"\b\a", "12"),
        (r"\DeclareMathOperator{\rk}{rank}", r"\rk A", r"\operatorname{rank}A"),
        (r"\DeclareMathOperator*{\am}{arg\,max}", r"\am_x", r"\operatorname*{arg\,max}_x"),
        (r"\DeclarePairedDelimiter{\abs}{\lvert}{\rvert}", r"\abs{x}\abs*{y}", r"\lvert x \rvert\lvert y \rvert"),
        (r"\NewDocumentCommand{\x}{s O{d} m}{#2#3}", r"\x{a}\x*[b]{c}", "dabc"),
        (r"\NewDocumentCommand{\x}{o m}{\IfNoValueTF{#1}{none}{some}#2}", r"\x{a}\x[b]{c}", "noneasomec"),
        (r"\newcommand{\make}[1]{\expandafter\newcommand\csname #1\endcsname{}}\newcommand{\x}{one}", r"\x", "one"),
        (r"\newcommand{\mk}[2]{\newcommand{#1}[1]{##1#2}}\mk{\x}{z}", r"\x{a}", "az"),
        (r"\newif\ifd\dtrue", r"\ifd yes\else no\fi", "yes"),
        (r"\newif\ifd", r"\ifd yes\ifx a b\fi\else no\fi", "no"),
        (r"\newcommand{\x}[2]{\if\relax\detokenize{#1}\relax E\else F\fi#2}", r"\x{}{a}\x{b}{c}", "EaFc"),
        (
            r"\newcommand{\x}{one}",
            r"\verb|\x|\begin{verbatim}\x\end{verbatim}",
            r"\verb|\x|\begin{verbatim}\x\end{verbatim}",
        ),
        (r"\newcommand{\section}[1]{no}", r"\section{a}", r"\section{a}"),
        (r"\newenvironment{thm}[1][x]{\begin{it}}{\end{it}}", r"\begin{thm}a\end{thm}", r"\begin{thm}a\end{thm}"),
        (r"\def\\{no}\def\%{no}", r"a\\b\%", r"a\\b\%"),
        (r"\newcommand{\1}{\mathbf{1}}", r"\1 x", r"\mathbf{1} x"),
        (r"\newcommand{\x}[1]{#1}", r"{\x}", r"{\x}"),
        (r"\newcommand{\é}{no}", r"\é", r"\é"),
    ],
)
def test_what_a_macro_becomes(definition: str, use: str, wanted: str) -> None:
    text = f"{definition}\n\\begin{{document}}{use}\\end{{document}}"
    found = expand(text).partition("\\begin{document}")[2].removesuffix("\\end{document}")
    assert found == wanted


def test_inner_words_of_packages_are_counted_and_not_expanded() -> None:
    text = (
        rb"\makeatletter\newcommand{\x}{\@ifnextchar.{}{.}}\makeatother\begin{document}\section{a}\x \x\end{document}"
    )
    out, state = kernel.expand(text)
    assert out.count(rb"\x") == 2
    assert state[kernel.LEFT] == 2 and state[kernel.EXPANSIONS] == 0


def plain_expand(macros: dict[str, tuple[int, str]], text: str) -> str:
    """Uses with braced arguments replaced from the left until none is there."""
    while found := re.search(r"\\([A-Z])", text):
        count, body_text = macros[found[1]]
        at, arguments = found.end(), []
        for _ in range(count):
            depth, i = 0, at
            while True:
                depth += {"{": 1, "}": -1}.get(text[i], 0)
                i += 1
                if depth == 0:
                    break
            arguments.append(text[at + 1 : i - 1])
            at = i
        made = re.sub(r"#(\d)", lambda m, given=arguments: given[int(m[1]) - 1], body_text)
        text = text[: found.start()] + made + text[at:]
    return text


@st.composite
def papers(draw: st.DrawFn) -> tuple[dict[str, tuple[int, str]], str]:
    """Macros A to C, each of which uses only later ones, and a text with uses."""
    names = "ABC"

    def uses(level: int, count: int, depth: int) -> str:
        kinds = ["1", "+", *(f"#{i + 1}" for i in range(count)), *(names[level:] if depth else "")]
        made = ""
        for kind in draw(st.lists(st.sampled_from(kinds), max_size=3)):
            made += kind if kind not in names else call(kind, level, count, depth - 1)
        return made

    def call(name: str, level: int, count: int, depth: int) -> str:
        return f"\\{name}" + "".join("{" + uses(level, count, depth) + "}" for _ in range(macros[name][0]))

    macros: dict[str, tuple[int, str]] = {name: (draw(st.integers(0, 2)), "") for name in names}
    for level, name in enumerate(names, 1):
        macros[name] = (macros[name][0], uses(level, macros[name][0], 1))
    return macros, uses(0, 0, 2)


@settings(max_examples=300, deadline=None)
@given(papers())
def test_nested_macros_expand_as_in_plain_python(paper: tuple[dict[str, tuple[int, str]], str]) -> None:
    macros, text = paper
    head = "".join(f"\\newcommand{{\\{name}}}[{count}]{{{made}}}" for name, (count, made) in macros.items())
    found = expand(f"{head}\\begin{{document}}{text}")
    assert found.partition("\\begin{document}")[2] == plain_expand(macros, text)


BOMBS = {
    "itself": r"\def\a{\a}",
    "twice itself": r"\def\a{\a\a}",
    "by turns": r"\def\a{\b x}\def\b{\a y}",
    "doubling": "".join(f"\\def\\{chr(97 + i)}{{\\{chr(98 + i)}\\{chr(98 + i)}}}" for i in range(25)) + r"\def\z{boom}",
    "argument": r"\newcommand{\a}[1]{\a{#1#1}}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_endless_macros_stay_as_they_are_and_the_rest_is_expanded(name: str) -> None:
    text = BOMBS[name] + r"\newcommand{\ok}{fine}\begin{document}\section{s}before \a{x} \ok{} after"
    out, state = kernel.expand(text.encode())
    assert out.endswith(rb"\section{s}before \a{x} fine{} after")
    assert state[kernel.LIMIT] == 1 and state[kernel.LEFT] == 1


def test_a_budget_ends_expansion_and_counts_what_is_left() -> None:
    text = r"\newcommand{\x}{y}\begin{document}\section{s}" + r"\x{}" * 50
    out, state = kernel.expand(text.encode(), max_expansions=20)
    assert out.count(rb"\x{}") == 30 and state[kernel.EXPANSIONS] == 20
    assert state[kernel.LEFT] == 30 and state[kernel.LIMIT] == 1


FAMILIES = {
    "open braces": lambda n: "\\newcommand{\\x}[1]{#1}\\begin{document}" + "\\x{" * n,
    "nested": lambda n: "\\newcommand{\\x}[1]{#1}\\begin{document}" + "\\x{" * n + "}" * n,
    "open options": lambda n: "\\newcommand{\\x}[2][]{#1}\\begin{document}" + "\\x[" * n,
    "delimited": lambda n: "\\def\\x#1.{#1}\\begin{document}" + "\\x a" * n,
    "conditionals": lambda n: "\\newif\\ifd\\begin{document}" + "\\ifd " * n,
    "iffalse": lambda n: "\\iffalse " * n,
    "comments": lambda n: "%" * n + "\n" + "a%\n" * n,
    "backslashes": lambda n: "\\" * n,
    "environments": lambda n: "\\begin{verbatim}" * n,
    "definitions": lambda n: "\\def\\x{" * n,
    "many definitions": lambda n: "".join(f"\\def\\x{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{{y}}" for i in range(n)),
    "urls": lambda n: "\\url{" * n,
    "wide": lambda n: "\\newcommand{\\x}[1]{#1#1#1#1}\\begin{document}" + "\\x{aaaaaaaa}" * n,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_time_is_linear_whatever_the_input(name: str) -> None:
    """Not a measure of speed: a quadratic scan of these takes minutes."""
    text = FAMILIES[name](40_000).encode()
    kernel.expand(kernel.clean(text)[0])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*"\\{}[]%#$ \n*a1@=.é", "\\newcommand", "\\def", "\\x", "\\let", "\\iffalse", "\\fi", "\\else",  # noqa: E501
    "\\begin{", "\\end{", "verbatim}", "document}", "\\verb", "\\newif", "\\ifd", "\\xspace", "[1]", "{#1}", "\\section",  # noqa: E501
    "\\title", "\\NewDocumentCommand", "\\DeclareMathOperator", "\\IfNoValueTF", "\\input"]), max_size=60))  # fmt: skip
def test_any_text_gives_utf8_and_no_comments(parts: list[str]) -> None:
    found, _, _ = kernel.clean("".join(parts).encode())
    out, state = kernel.expand(found)
    out.decode()
    assert len(out) <= 12 * len(found) + 2 * kernel.CALL_BYTES
    assert all(state[mark] <= len(out) for mark in kernel.MARKS)


PAPER = r"""\documentclass{article}\newcommand{\us}{Quill}
\title[short]{The {Long} \emph{Title}\thanks{No one}\\ of \us{}}
\author{A. Quill \and B. Reeve}
\begin{document}\maketitle
\begin{abstract}In short.\end{abstract}
front matter
\section{One}
body of \us{}
\appendix
\section{More}
appended
\begin{thebibliography}{9}\bibitem{a} cited \end{thebibliography}
\section{Late}
behind
\end{document}"""


def run(text: str, **settings_given: object) -> dict[str, object]:
    table = pa.table(
        {"text": pa.array([text], pa.large_string()), "title": pa.array([None], pa.string()), "meta": ['{"id": "x"}']}
    )
    outcome = latex(**settings_given)(table)
    assert outcome.reason is not None and outcome.value is not None
    return {
        **{name: column[0].as_py() for name, column in outcome.columns.items()},
        "reason": outcome.reason[0].as_py(),
        "value": outcome.value[0].as_py(),
    }


def test_the_body_goes_from_the_first_section_to_the_bibliography() -> None:
    found = run(PAPER)
    assert found["text"] == "\\section{One}\nbody of Quill{}\n\\appendix\n\\section{More}\nappended"
    assert found["reason"] is None and found["latex_expansions"] == 2 and found["latex_macros_left"] == 0
    assert found["latex_limit"] is False


def test_title_authors_and_abstract_are_kept_beside_the_text() -> None:
    found = run(PAPER)
    assert found["title"] == "The {Long} \\emph{Title} of Quill{}"
    meta = json.loads(str(found["meta"]))
    assert meta == {"id": "x", "authors": ["A. Quill", "B. Reeve"], "abstract": "In short."}


def test_where_the_body_begins_and_ends_can_be_chosen() -> None:
    assert str(run(PAPER, end="appendix")["text"]).endswith("body of Quill{}")
    assert str(run(PAPER, begin="abstract")["text"]).startswith("\\begin{abstract}In short.")
    whole = str(run(PAPER, begin="document", end="document")["text"])
    assert whole.startswith("\\maketitle") and whole.endswith("behind") and "cited" not in whole


@pytest.mark.parametrize(
    "mark",
    [
        "\\bibliography{a}",
        "\\printbibliography",
        "\\begin{references}",
        "\\section*{References}",
        "\\section{ Bibliography }",
    ],
)
def test_each_mark_of_the_references_ends_the_body(mark: str) -> None:
    found = run(f"\\begin{{document}}\\section{{a}} kept {mark} gone \\end{{document}}")
    assert found["text"] == "\\section{a} kept"


@pytest.mark.parametrize(
    "level", ["part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph"]
)
def test_any_heading_is_a_first_section(level: str) -> None:
    assert run(f"\\begin{{document}} front \\{level}*{{a}} kept")["text"] == f"\\{level}*{{a}} kept"


def test_a_heading_made_by_a_macro_is_one_and_a_commented_or_verbatim_one_is_none() -> None:
    text = r"\newcommand{\sec}[1]{\section{#1}}\begin{document}front \verb|\section{no}| \sec{a} kept"
    assert run(text)["text"] == r"\section{a} kept"
    assert run(clean("\\begin{document}\n% \\section{a}\nno heading"))["reason"] == "no_section"


def test_a_paper_without_a_heading_is_dropped_and_one_without_a_body_too() -> None:
    assert run("\\begin{document} a letter \\end{document}")["reason"] == "no_section"
    found = run("\\begin{document}\\section{References} all \\end{document}")
    assert (found["reason"], found["value"]) == ("no_body", "55 bytes")


def test_a_mistyped_choice_is_an_error_before_any_data() -> None:
    with pytest.raises(RecipeError, match="latex.begin is 'sections', must be one of section, abstract, document"):
        latex(begin="sections")


def test_budgets_are_settings_of_the_stage() -> None:
    text = r"\newcommand{\x}{y}\begin{document}\section{s}\x{}\x{}"
    found = body(text, "section", "bibliography", 1, 10)
    assert (found.text, found.left, found.is_limited) == (r"\section{s}y{}\x{}", 1, True)
