"""Why yt-dlp did not get a medium: its exceptions and the sentences of sites that it passes on, as codes."""

import re
from typing import Protocol, runtime_checkable

from .errors import ClipError
from .medium import causes, first_line, http_error, is_disk_full

MESSAGES = (
    # throttle: about us, not about the medium
    ("throttle.bot_check", r"not a (bot|robot)|captcha|ip is likely being blocked"),
    ("throttle.http_429", r"http error 429|too many requests"),
    ("throttle.try_later", r"try again later|rate-limit|the page needs to be reloaded"),
    # source: about the medium, what is said most exactly first
    ("source.private", r"private video|video is private"),
    ("source.geo", r"in your (country|region)|your location|geo.?restrict"),
    ("source.paid", r"members|requires payment|\brent(al)?\b|purchase|premium"),
    ("source.age", r"confirm your age|age.?(restrict|verif|gate)|inappropriate for some users"),
    ("source.terminated", r"account\b.*\b(terminated|closed|suspended)|closed their youtube account"),
    ("source.copyright", r"copyright|claimed content"),
    ("source.removed", r"(been|was) (removed|deleted)|removed by|no longer available|violat(ing|ion)"),
    ("source.live", r"live event|live stream|not currently live|premieres? |processing this video|will begin in"),
    ("source.login", r"sign in|log ?in\b|login|--cookies|account cookies|registered users"),
    ("source.drm", r"\bdrm\b"),
    ("source.no_format", r"requested format is not available|no video formats|only images are available"),
    ("source.unsupported", r"unsupported url|no suitable extractor|not a valid url|incomplete youtube id"),
    ("source.unsupported", r"no connection adapter"),
    ("source.unavailable", r"unavailable|not available|isn't available|does not exist|websites has been disabled"),
    # transient
    ("transient.network", r"timed out|timeout|connection|network|resolve|getaddrinfo|incomplete|ssl|eof occurred"),
    ("transient.network", r"bytes, expected|more expected|did not get any data|ffmpeg exited|player response"),
    ("transient.network", r"unable to download"),
)  # fmt: skip
"""Code and what of a message stands for it, in order; most of them YouTube's own words, which yt-dlp passes on."""


@runtime_checkable
class Closeable(Protocol):
    """Holds a connection."""

    def close(self) -> None:
        """Give it up."""
        ...


def explain(error: Exception, url: str, notes: list[str]) -> Exception:
    """Return what an exception of yt-dlp means for the clip: a ClipError, or an OSError when our disk is full.

    Args:
        error: as raised.
        url: of the page, to be named.
        notes: yt-dlp's warnings, which hold the reason where its error only says that nothing worked.
    """
    chain = list(causes(error))
    for one in chain:
        if isinstance(response := getattr(one, "response", None), Closeable):
            response.close()  # yt-dlp leaves that to chance
    for one in chain:
        if isinstance(one, ClipError) or is_disk_full(one):
            return one  # type: ignore[return-value]
    said = plain(str(error))
    code = _code(said)
    if code is None or code.startswith("transient"):
        throttles = [note for note in notes if (_code(note) or "").startswith("throttle")]
        code, said = (_code(throttles[-1]), throttles[-1]) if throttles else (code, said)
    if code and code != "source.unavailable" and not code.startswith("transient"):
        return ClipError(code, f"{url}: {said}")
    for one in chain:
        if isinstance(status := getattr(one, "status", None), int):
            if getattr(one, "redirect_loop", False):
                return ClipError("source.unavailable", f"{url}: leads in a circle")
            return http_error(status, url, asks_to_wait=_asks_to_wait(one))
    if found := re.search(r"HTTP Error (\d{3})", said):
        return http_error(int(found[1]), url)
    if code is None and any("RequestError" in str(type(one).__mro__) for one in chain):
        code = "transient.network"
    return ClipError(code or "source.unknown", f"{url}: {said}")


def _code(message: str) -> str | None:
    lowered = message.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return next((code for code, pattern in MESSAGES if re.search(pattern, lowered)), None)


def plain(message: object) -> str:
    """Return a message's first line without colour, prefix, ids, addresses and hints to yt-dlp's users."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(message))
    text = re.sub(r"^\s*(ERROR|WARNING):\s*", "", text)
    text = re.sub(r"^\[[^\]]*\]\s*(\S+:\s)?", "", text)
    text = re.split(r"[.;]? *(please report this issue|use --cookies-from-browser|see  ?https?:)", text, flags=re.I)[0]
    return first_line(re.sub(r"\S+://\S+", "...", text))


def _asks_to_wait(error: BaseException) -> bool:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return headers is not None and "Retry-After" in headers
