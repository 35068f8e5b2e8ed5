"""Fetches media through yt-dlp: small formats, only the stretch around a clip, with every refusal told apart.

Sections. yt-dlp cuts a stretch with ffmpeg, which copies from the keyframe before the start and, unless told
otherwise, moves all time stamps by an amount that it does not say. Measured with a medium whose sound and picture tell
their own time: of stretches from 24.0 s on, WebM files began 4.0 s early at time 0, MP4 files hid 0.7 s behind an edit
list. With `-copyts` and Matroska the time stamps are the medium's own, to the millisecond for MP4, WebM, and video and
sound from two addresses (a fragmented MP4 with an edit list, which ffmpeg does not follow there, is off by that: 80
ms); `-start_at_zero` counts from the first one, which in a transport stream lies at 1.4 s. `_rebase` then reads where
the file begins.

ffmpeg takes a connection that breaks for the end unless told otherwise (`-xerror`), and what came is compared with
what was asked for all the same.
"""

import io
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shards.checks import check_file, check_ranges
from .clips import Clip
from .errors import ClipError, PlanError
from .medium import Medium, Spool, called, first_line
from .refusals import explain, plain
from .remote import shown

SECTION_OUTPUT = ("-xerror", "-copyts", "-start_at_zero", "-f", "matroska")
FFMPEG_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto"
"""What ffmpeg may open on behalf of an address: above all no files."""
MAX_SHORT_S = 1.0
"""By how much a section may end early: formats of one medium differ a little in length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class YouTubeConfig:
    """Media on YouTube, or on another site that yt-dlp knows. Whether that is allowed is for you to know."""

    url: str = "https://www.youtube.com/watch?v={id}"
    """Page of a medium by its id. A list's own http(s) addresses go before it."""
    cookies: Path | None = None
    """Netscape cookie file of a browser that is signed in; never written."""
    sections: bool = True
    """Fetch only the stretch around the clip; else the whole medium."""
    pad_s: float = 6.0
    """How much more to fetch on either side of a clip."""
    max_height: int = 360
    """Of the picture in pixels; the smallest there is where all are larger."""
    format: str = ""
    """yt-dlp's format selector instead of one made from `max_height`."""
    sleep_s: float = 5.0
    """Pause before each download of a worker, up to twice as long; a guest has about 300 videos an hour."""
    timeout_s: float = 30.0
    """How long a server may be silent."""
    deadline_s: float = 1800.0
    """How long one medium may take."""
    max_bytes: int = 4 << 30
    """Of one medium."""
    ffmpeg: Path | None = None
    """The binary; None: `ffmpeg` on PATH, else the one that imageio-ffmpeg carries."""
    js_runtimes: tuple[str, ...] = ("deno",)
    """JavaScript runtimes that yt-dlp may use, which YouTube needs for most formats: deno, node, bun, quickjs."""
    spool: Path | None = None
    """Folder that media pass through; None: the system's for temporary files."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if not re.fullmatch(r"https?://[^{}]*\{id\}[^{}]*", self.url):
            raise ValueError(f"url is {self.url!r}, want http(s)://... with {{id}} in it")
        check_ranges(
            self, pad_s=(0, None), max_height=(1, None), sleep_s=(0, None), timeout_s=(0.001, None),
            deadline_s=(0.001, None), max_bytes=(1, None),
        )  # fmt: skip


class YouTubeSource:
    """Downloads each clip with a yt-dlp of its own, since one that lives on grows by every video."""

    def __init__(self, config: YouTubeConfig) -> None:
        """Load yt-dlp, without plugins, and find ffmpeg.

        Raises:
            PlanError: yt-dlp or the cookie file is missing, or the spool cannot be written.
        """
        try:
            import yt_dlp.cookies
            import yt_dlp.globals
        except ImportError as e:
            raise PlanError(f"YouTube needs yt-dlp ({first_line(e)}): pip install 'unibrivl[youtube]'") from e
        yt_dlp.globals.plugin_dirs.value = []  # else it runs what lies in its users' folders
        self.config = config
        self._ffmpeg = _find_ffmpeg(config.ffmpeg)
        self._cookies = ""
        if config.cookies:
            check_file(config.cookies, PlanError)
            try:
                self._cookies = config.cookies.read_text(encoding="utf-8")
                text: Any = io.StringIO(self._cookies)
                yt_dlp.cookies.YoutubeDLCookieJar(text).load()
            except (OSError, ValueError) as e:
                raise PlanError(f"{config.cookies}: not a readable Netscape cookie file ({first_line(e)})") from e
        self._spool = Spool(config.spool)

    @contextmanager
    def open(self, clip: Clip) -> Iterator[Medium]:
        """Yield the clip's medium, or the stretch of it around the clip; see `Source.open`."""
        url = self._address(clip)
        with self._spool.folder() as folder:
            download = _Download(self.config, clip, url, folder, self._ffmpeg, self._cookies)
            medium = download.run()
            self._cookies = download.cookies
            with called(medium.path, download.name):
                yield medium

    def _address(self, clip: Clip) -> str:
        if not clip.source:
            return self.config.url.replace("{id}", clip.media_id)
        if not re.match(r"https?://[^\s\\]+\Z", clip.source):
            raise ClipError("policy.address", f"{clip.source[:200]!r}: want the http(s) address of a page")
        return clip.source


class _Download:
    """One clip on its way through yt-dlp."""

    def __init__(self, config: YouTubeConfig, clip: Clip, url: str, folder: Path, ffmpeg: str, cookies: str) -> None:
        self.config, self.clip, self.url, self.folder, self.ffmpeg, self.cookies = (
            config, clip, url, folder, ffmpeg, cookies
        )  # fmt: skip
        self.name = shown(url) if clip.source else url  # a list's address may hold keys
        self.notes: list[str] = []  # yt-dlp's warnings and errors
        self._until = time.monotonic() + config.deadline_s

    def run(self) -> Medium:
        """Return what was fetched.

        Raises:
            ClipError: it could not be.
        """
        import yt_dlp
        from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor

        # The downloader of sections asks for ffmpeg without saying for whom: it sees this, not `ffmpeg_location`.
        location: Any = FFmpegPostProcessor._ffmpeg_location
        location.set(self.ffmpeg)
        jar = io.StringIO(self.cookies)
        info: Any = {}
        try:
            with yt_dlp.YoutubeDL(self._options(jar)) as ydl:
                try:
                    info = _one_medium(ydl.extract_info(self.url, download=False), self.name)
                    self._check_range(info)
                    done = ydl.process_ie_result(info, download=True)
                except Exception as e:
                    if "ffmpeg exited with code" in str(e):
                        _ask_again(ydl, info)  # ffmpeg keeps the reason to itself
                    raise
        except Exception as e:
            problem = explain(e, self.name, self.notes)
            raise problem from (None if problem is e else e)
        if self.cookies:
            self.cookies = jar.getvalue().lstrip("\0")  # a site may have renewed some
        files = [Path(one["filepath"]) for one in (done or {}).get("requested_downloads", []) if "filepath" in one]
        if len(files) != 1 or not files[0].is_file():
            raise ClipError("source.unknown", f"{self.name}: yt-dlp left no file: {'; '.join(self.notes)[:300]}")
        return self._cut(files[0], info) if self.config.sections else Medium(files[0])

    def _check_range(self, info: dict[str, Any]) -> None:
        duration_s = info.get("duration")
        if duration_s and self.clip.start_ms >= 1000 * duration_s + 1000:
            raise ClipError(
                "media.out_of_range",
                f"{self.name}: the clip starts at {self.clip.start_ms} ms, the medium ends at {duration_s} s",
            )

    def _cut(self, path: Path, info: dict[str, Any]) -> Medium:
        """Return a section with the instant at which it begins, if it is whole."""
        out = path.with_name("section.mkv")
        start_ms, end_ms = _rebase(path, out, self.name)
        wanted_ms = min(self.clip.end_ms, round(1000 * (info.get("duration") or 0)) or end_ms)
        if end_ms < wanted_ms - 1000 * MAX_SHORT_S:
            raise ClipError("transient.network", f"{self.name}: came until {end_ms} ms, wanted until {wanted_ms} ms")
        return Medium(out, start_ms)

    def _options(self, jar: io.StringIO) -> Any:
        config = self.config
        options: dict[str, Any] = {
            "outtmpl": str(self.folder / "medium").replace("%", "%%") + ".%(ext)s",
            "format": config.format or _formats(config),
            "merge_output_format": "mkv",
            "noplaylist": True, "playlist_items": "1",
            "ffmpeg_location": self.ffmpeg,
            "js_runtimes": {name: {} for name in config.js_runtimes},
            "socket_timeout": config.timeout_s,
            "retries": 3, "fragment_retries": 3, "extractor_retries": 1,  # of one try: these go on where they broke off
            "skip_unavailable_fragments": False,  # else a part may be missing without a word
            "sleep_interval": config.sleep_s, "max_sleep_interval": 2 * config.sleep_s,
            "sleep_interval_requests": min(0.75, config.sleep_s),
            "cachedir": False, "updatetime": False, "fixup": "never",
            "logger": self, "quiet": True, "noprogress": True,
            "progress_hooks": [self._watch],
        }  # fmt: skip
        if self.cookies:
            options["cookiefile"] = jar
        if config.sections:
            options["download_ranges"] = self._ranges
            patience = ["-rw_timeout", str(round(config.timeout_s * 1e6)), "-protocol_whitelist", FFMPEG_PROTOCOLS]
            options["external_downloader_args"] = {"ffmpeg_i": patience, "ffmpeg_o": list(SECTION_OUTPUT)}
        return options

    def _ranges(self, info: dict[str, Any], ydl: object) -> list[dict[str, float]]:
        pad_s = self.config.pad_s
        return [
            {"start_time": max(0.0, self.clip.start_ms / 1000 - pad_s), "end_time": self.clip.end_ms / 1000 + pad_s}
        ]

    def _watch(self, state: dict[str, Any]) -> None:
        """Stop a download that is too large or takes too long."""
        if max(state.get("downloaded_bytes") or 0, state.get("total_bytes") or 0) > self.config.max_bytes:
            raise ClipError("policy.too_large", f"{self.name}: more than {self.config.max_bytes} bytes")
        if time.monotonic() > self._until:
            raise ClipError("transient.network", f"{self.name}: not here after {self.config.deadline_s:g} s")

    def debug(self, message: str) -> None:
        """Hear what yt-dlp says of its progress."""

    def warning(self, message: str) -> None:
        """Hear a warning of yt-dlp."""
        self.notes.append(plain(message))

    error = warning


def _formats(config: YouTubeConfig) -> str:
    """Return a selector: picture and sound in one file if there is a small one, else from two, else the smallest."""
    small = f"[height<=?{config.max_height}]"
    # A playlist of segments has its own clock, which would shift a section.
    plain = "[protocol!*=m3u8][protocol!*=dash]" if config.sections else ""
    return f"b{small}{plain}/bv*{small}{plain}+ba{plain}/w{plain}/wv*{plain}+ba{plain}"


def _find_ffmpeg(given: Path | None) -> str:
    import shutil

    if given:
        return str(given)
    if found := shutil.which("ffmpeg"):
        return found
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def _one_medium(info: Any, url: str) -> Any:
    if not isinstance(info, dict) or info.get("_type", "video") != "video":
        raise ClipError("source.unsupported", f"{url}: a list of media, not one medium")
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
        raise ClipError("source.live", f"{url}: live, not recorded")
    return info


def _ask_again(ydl: Any, info: dict[str, Any]) -> None:
    """Open the addresses that ffmpeg failed on, which raises the reason if there is one."""
    from yt_dlp.networking import Request

    for one in info.get("requested_formats") or [info]:
        headers = dict(one.get("http_headers") or {}) | {"Range": "bytes=0-0"}
        ydl.urlopen(Request(one["url"], headers=headers)).close()


def _rebase(path: Path, out: Path, url: str) -> tuple[int, int]:
    """Copy a file so that it begins at 0; return where it began and ended, in ms.

    Decoders differ in what an instant of a file that begins later means; of one that begins at 0 they agree.
    """
    import av
    from av.error import FFmpegError

    first = last = None
    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as source, ExitStack() as stack:
            if source.start_time is None:
                raise ClipError("transient.network", f"{url}: nothing came of the stretch that was asked for")
            first = last = source.start_time // 1000
            target = stack.enter_context(av.open(f"file:{out}", "w", "matroska", options={"avoid_negative_ts": "0"}))
            streams = {
                stream.index: target.add_stream_from_template(stream)
                for stream in (*source.streams.video[:1], *source.streams.audio[:1])
            }
            for packet in source.demux([source.streams[index] for index in streams]):
                if packet.pts is None or packet.time_base is None:
                    continue
                last = max(last, round(1000 * (packet.pts + (packet.duration or 0)) * packet.time_base))
                shift = round(first / (1000 * packet.time_base))
                packet.pts -= shift
                packet.dts = None if packet.dts is None else packet.dts - shift
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    except FFmpegError as e:
        raise ClipError("transient.network", f"{url}: the stretch that came is damaged ({e.strerror})") from e
    return first, last
