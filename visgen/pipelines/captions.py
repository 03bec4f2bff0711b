"""Cleaning of captions as DeepFloyd IF and PixArt do it, which LlamaGen's text models were trained on.

Captions of the web are full of links, file names, sizes and shop talk; a list of replacements removes them,
and is run twice. Mojibake is repaired where `ftfy` is installed.
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from importlib.util import find_spec
from urllib.parse import unquote_plus

DOMAIN = r"[a-z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
DASHES = (  # Unicode's category Pd
    r"[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    r"\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]"
)
IDEOGRAPHS = r"[\u31c0-\u33ff\u3400-\u4dff\u4e00-\u9fff]"
ENDINGS = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
SPECIAL = r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]"

Steps = list[tuple[re.Pattern[str], str]]


def _steps(*pairs: tuple[str, str]) -> Steps:
    return [(re.compile(pattern, re.IGNORECASE), new) for pattern, new in pairs]


LINKS = _steps(
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{DOMAIN})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{DOMAIN})", ""),
)
CHARACTERS = _steps(
    (r"@\w+\b", ""),  # names of accounts
    (IDEOGRAPHS, ""),
    (DASHES, "-"),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # internet addresses
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{ENDINGS}", ""),  # file names
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (rf"{SPECIAL}+", " "),
    (r"\s+\.\s+", " "),
)
CODES = _steps(
    (r"\b[a-z]{1,3}\d{3,15}\b", ""),  # ab123
    (r"\b[a-z]+\d+[a-z]+\b", ""),  # ab12cd
    (r"\b\d+[a-z]+\d+\b", ""),  # 12ab34
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{ENDINGS}(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes: a Latin x, a Cyrillic one, a cross
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
ENDS = _steps(
    (r"\A[\"'](.+)[\"']\Z", r"\1"),
    (r"\A['_,\-:;]", ""),
    (r"['_,\-:+]\Z", ""),
    (r"\A\.\S+\Z", ""),
)
MOST_DASHES = 3  # more of "-" and "_" stand for spaces: this-is-my_cute-cat_picture


def clean_caption(caption: str) -> str:
    """A caption as LlamaGen's text encoder reads it: lower case, without links, codes and odd characters."""
    return _clean_once(_clean_once(caption))


def _clean_once(text: str) -> str:
    text = unquote_plus(text).strip().lower().replace("<person>", "person")
    text = _replace(_without_tags(_replace(text, LINKS)), CHARACTERS)
    if len(re.findall("[-_]", text)) > MOST_DASHES:
        text = re.sub("[-_]", " ", text)
    text = html.unescape(html.unescape(_fix_encoding(text))).strip()
    return _replace(_replace(text, CODES).strip(), ENDS).strip()


def _replace(text: str, steps: Steps) -> str:
    for pattern, new in steps:
        text = pattern.sub(new, text)
    return text


def _fix_encoding(text: str) -> str:
    if find_spec("ftfy") is None:
        return text
    import ftfy

    return ftfy.fix_text(text)


class _Text(HTMLParser):
    """Collects what stands between tags, character references resolved."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def _without_tags(text: str) -> str:
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)
