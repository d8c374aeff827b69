"""Build the sample month of arXiv: one archive of seven submissions, as `src/arXiv_src_YYMM_NNN.tar` has them.

    python -m sources.samples.build_arxiv            write the archive
    python -m sources.samples.build_arxiv --check    rebuild in memory, compare content with what is committed

The papers are written for this project. Among them are what a month has: a paper in several files with macros, one of
a single file, one in Latin-1, a PDF without source, a withdrawn one, a letter without sections, and one whose macros
never end. Nothing depends on a clock; the gzip bytes may differ between zlib builds.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent / "arxiv" / "arXiv_src_2402_001.tar"
MONTH = "2402"

TIDES = {
    "00README.XXX": "tides.tex toplevelfile\nnohypertex\n",
    "tides.tex": r"""\documentclass[11pt]{article} % two columns were refused
\usepackage{amsmath,xspace}
\usepackage{tidemacros}
\newcommand{\model}{Lantern\xspace}
\newcommand{\note}[1]{}                 % set to {\textbf{#1}} for drafts
\title{How Harbour Walls Delay the Tide\thanks{Supported by nobody.}}
\author{Ida Quill \and Tom Reeve}
\begin{document}
\maketitle
\begin{abstract}
A wall slows the water behind it. We measure by how much, in four harbours.
\end{abstract}
\input{sections/introduction}
\include{sections/method}
% \input{sections/old-results}
\iffalse
This paragraph was written in a hurry and is wrong.
\fi
\begin{comment}
Referee 2 will ask for more gauges.
\end{comment}
\section{Results}
\label{sec:results}
In all harbours the delay grew with the length of the wall, as \cref{fig:delay} shows.\note{Check the axis.}
The mean delay was \qty{17}{min} and its spread \qty[about~]{4}{min}; \model explains nine tenths of it.
\begin{verbatim}
gauge  delay   % this sign is no comment
north  17.2
\end{verbatim}
The \emph{share} that is left over (8\% of the total) follows the wind.
\begin{thebibliography}{9}
\bibitem{quill} I. Quill, \emph{Walls and Water}, 1999.
\end{thebibliography}
\appendix
\section{Gauges}
The gauges were read by hand.
\end{document}
Everything here is junk that an editor has left.
""",
    "tidemacros.sty": r"""\NeedsTeXFormat{LaTeX2e}
\newcommand{\qty}[3][]{#1$#2\,\mathrm{#3}$}
\DeclareMathOperator{\lag}{lag}
\def\pair(#1,#2){\left\langle #1 \mid #2 \right\rangle}
\let\eps\varepsilon
\endinput
Notes of the author.
""",
    "sections/introduction.tex": r"""\section{Introduction}
Harbours are built to keep waves out. % and pirates
Their walls also keep the tide waiting, which the pilots of the town have known for long.
We write $\pair(h,t)$ for the height $h$ at the time $t$, and $\lag(h)$ for what the wall adds.
""",
    "sections/method.tex": r"""\section{Method}
Four gauges stood inside the wall and four outside of it.
Every gauge was read each minute over a whole month,
and the two series were shifted against each other until the error $\eps$ was least.
""",
    "sections/old-results.tex": r"The first results were withdrawn by the authors before anybody saw them.",
    "figures/delay.pdf": "%PDF-1.4 not a real figure\n",
}
BEES = r"""\documentclass{amsart}
\newtheorem{claim}{Claim}
\newcommand\hive{\mathcal{H}}
\providecommand{\size}[1]{\lvert #1\rvert}
\newif\iflong \longfalse
\title[Bees]{A Colony is Larger than the Sum of its Combs}
\author{Mara Venn}
\begin{document}
\maketitle
\section{Counting}
A comb holds a number of cells, and a hive holds a number of combs.
\begin{claim} For every hive $\hive$ we have $\size{\hive}>\size{\hive'}$ where $\hive'$ is any comb. \end{claim}
\iflong The long proof follows. \else The proof is short: take one bee away and count again. \fi
\section{Open questions}
Nobody has counted the drones in winter, when there are none.
\bibliographystyle{plain}
\bibliography{bees}
\end{document}
"""
LATIN = """\\documentclass{article}
\\usepackage[latin1]{inputenc}
\\title{Über die Größe der Schneeflocken}
\\author{J. Müller}
\\begin{document}
\\section{Einführung}
Die Größe einer Schneeflocke hängt von der Höhe ab, in der sie entsteht. % später prüfen
Für die Messung wurden Flocken auf schwarzem Samt gefangen und gezählt.
\\section*{References}
\\begin{itemize}\\item Keines.\\end{itemize}
\\end{document}
"""
WITHDRAWN = "%auto-ignore\nThis paper has been withdrawn by the author: the main lemma is false.\n"
LETTER = r"""\documentclass{letter}
\begin{document}
Dear editor, the figure on the last page stands upside down. Yours, a reader.
\end{document}
"""
ENDLESS = r"""\documentclass{article}
\newcommand{\again}{\again and \again}
\newcommand{\fair}[1]{\emph{#1}}
\begin{document}
\section{On definitions that need themselves}
A dictionary that explains a word by the word itself is of no use, and \again is such a word.
The other words of this note are \fair{harmless} and can be explained.
\end{document}
"""


def gzipped(data: bytes) -> bytes:
    """A gzip member without a name and a time."""
    return gzip.compress(data, 9, mtime=0)


def packed(files: dict[str, bytes]) -> bytes:
    """A tar of files, owned by nobody, at no time."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def members() -> dict[str, bytes]:
    """Members of the archive, in arXiv's order: by identifier."""
    submissions = [
        gzipped(packed({name: text.encode() for name, text in TIDES.items()})),
        gzipped(BEES.encode()),
        gzipped(LATIN.encode("latin-1")),
        b"%PDF-1.4\n% There is no source of this one.\n%%EOF\n",
        gzipped(WITHDRAWN.encode()),
        gzipped(LETTER.encode()),
        gzipped(ENDLESS.encode()),
    ]
    endings = [".pdf" if data.startswith(b"%PDF") else ".gz" for data in submissions]
    numbered = enumerate(zip(submissions, endings, strict=True), 1)
    return {f"{MONTH}/{MONTH}.{number:05d}{ending}": data for number, (data, ending) in numbered}


def content(archive: bytes) -> dict[str, bytes]:
    """What an archive holds, without the gzip bytes around it."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None
            found[member.name] = data.read()
            if not member.name.endswith(".pdf"):
                found[member.name] = gzip.decompress(found[member.name])
    return found


def main() -> int:
    """Command line; 1 where --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    archive = packed(members())
    if parser.parse_args().check:
        same = TARGET.exists() and content(TARGET.read_bytes()) == content(archive)
        print(f"{TARGET.name}: {'as committed' if same else 'differs'}")
        return 0 if same else 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
