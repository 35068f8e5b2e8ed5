"""Checks fetching through yt-dlp: its real code against a web server on this machine, and the words of sites."""

import errno
import gc
import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from unibrivl.ingest.clips import Clip
from unibrivl.ingest.errors import ClipError, PlanError
from unibrivl.ingest.mux import write_video
from unibrivl.ingest.refusals import explain, plain
from unibrivl.ingest.sources import YouTubeConfig, make_source
from unibrivl.ingest.youtube import YouTubeSource

from .web import Web, serve

# The generic extractor, which our web server needs, reads the beginning of a file and leaves the rest to chance.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

SECONDS = 40
FPS = 5
PAGE = b"<!doctype html><html><head><title>%s</title></head><body><p>%s</p></body></html>"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return an MP4 file whose sound and picture tell their time: a rising tone, a grey a second; keyframes at 5 s."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    time_s = np.arange(SECONDS * 44_100) / 44_100
    audio = 0.5 * np.sin(2 * np.pi * 200 * 20 / math.log(2) * (2 ** (time_s / 20) - 1))
    frames = [np.full((64, 64, 3), 20 + 5 * (n // FPS), np.uint8) for n in range(SECONDS * FPS)]
    write_video(path, frames=frames, audio=audio.astype(np.float32), fps=FPS, keyframe_every=5 * FPS)
    return path.read_bytes()


@pytest.fixture
def web(film: bytes) -> Iterator[Web]:
    with serve() as web:
        web.files["ID.mp4"] = film
        yield web
        gc.collect()  # what yt-dlp leaves goes here, not in a test that takes such warnings for errors


def clip(media_id: str = "ID", source: str = "", start_ms: int = 23_300, end_ms: int = 26_300) -> Clip:
    return Clip(corpus="as", media_id=media_id, source=source, start_ms=start_ms, end_ms=end_ms)


def source(tmp_path: Path, web: Web, **options: Any) -> YouTubeSource:
    defaults = {"url": f"{web.base}/{{id}}.mp4", "spool": tmp_path, "sleep_s": 0, "timeout_s": 5, "sections": False}
    made = make_source(YouTubeConfig(**defaults | options))
    assert isinstance(made, YouTubeSource)
    return made


def failure(source: YouTubeSource, wanted: Clip | None = None) -> ClipError:
    """Return the error of opening a clip, having seen that nothing stays behind."""
    with pytest.raises(ClipError) as caught, source.open(wanted or clip()):
        pass
    assert not list(source._spool.directory.rglob("*"))
    assert "\n" not in str(caught.value)
    return caught.value


def sound_is_late_ms(path: Path) -> float:
    """Return by how much later than its time stamps the film's sound really is."""
    late = []
    with av.open(path) as container:
        for frame in container.decode(audio=0):
            wave = frame.to_ndarray()[0]
            rises = np.flatnonzero((wave[:-1] < 0) & (wave[1:] >= 0))
            if frame.time is None or len(rises) < 3:
                continue
            places = rises - wave[rises] / (wave[rises + 1] - wave[rises])
            frequency = (len(places) - 1) / (places[-1] - places[0]) * frame.sample_rate
            middle_s = frame.time + (places[0] + places[-1]) / 2 / frame.sample_rate
            late.append(20 * math.log2(frequency / 200) - middle_s)
    return 1000 * float(np.median(late))


def picture_is_late_ms(path: Path) -> float:
    """Return the same of its pictures."""
    with av.open(path) as container:
        seen = [(round((f.to_ndarray(format="rgb24").mean() - 20) / 5), f.time) for f in container.decode(video=0)]
    changes = [(second, time_s) for (before, _), (second, time_s) in pairwise(seen) if second != before]
    return 1000 * float(np.median([second - time_s for second, time_s in changes]))


def test_a_whole_medium_is_fetched_and_goes_again(tmp_path: Path, web: Web, film: bytes) -> None:
    with source(tmp_path, web).open(clip()) as medium:
        assert (medium.path.read_bytes(), medium.start_ms) == (film, 0)
    assert not medium.path.exists()


@pytest.mark.parametrize(
    ("start_ms", "end_ms"), [(23_300, 26_300), (25_000, 26_000), (0, 2_000), (3_000, 4_000), (38_000, 40_000)]
)
def test_a_section_says_where_it_begins(tmp_path: Path, web: Web, film: bytes, start_ms: int, end_ms: int) -> None:
    """Cuts begin at a keyframe, up to seconds early; plain ffmpeg hides by how much."""
    with source(tmp_path, web, sections=True, pad_s=2).open(clip(start_ms=start_ms, end_ms=end_ms)) as medium:
        assert medium.path.stat().st_size < 0.6 * len(film)
        with av.open(medium.path) as container:
            assert container.start_time == 0
        assert medium.start_ms <= start_ms
        assert abs(sound_is_late_ms(medium.path) - medium.start_ms) < 3
        assert abs(picture_is_late_ms(medium.path) - medium.start_ms) < 100
        with av.open(medium.path) as container:
            last = max(float((p.pts + (p.duration or 0)) * p.time_base) for p in container.demux() if p.pts is not None)
        assert medium.start_ms + 1000 * last >= min(end_ms + 1_900, 1000 * SECONDS - 50)


def test_a_section_of_sound_and_picture_from_two_addresses(tmp_path: Path, web: Web) -> None:
    """As YouTube has most of its formats; yt-dlp's own selection and downloader run, only the page is ours."""
    import yt_dlp

    for name, kind in (("v.mp4", "video"), ("a.mp4", "audio")):
        web.files[name] = remux(web.files["ID.mp4"], tmp_path, kind)
    formats = [
        {"format_id": "v", "url": web.url("v.mp4"), "ext": "mp4", "vcodec": "h264", "acodec": "none", "height": 64},
        {"format_id": "large", "url": web.url("none.mp4"), "ext": "mp4", "vcodec": "h264", "acodec": "none",
         "height": 720},
        {"format_id": "a", "url": web.url("a.mp4"), "ext": "m4a", "vcodec": "none", "acodec": "aac"},
    ]  # fmt: skip
    info = {"id": "x", "title": "x", "extractor": "Generic", "webpage_url": web.base, "duration": SECONDS}

    def extract(ydl: Any, url: str, download: bool) -> Any:
        return ydl.process_ie_result(info | {"formats": [dict(one) for one in formats]}, download=False)

    fetched = source(tmp_path, web, sections=True, pad_s=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yt_dlp.YoutubeDL, "extract_info", extract)
        with fetched.open(clip()) as medium:
            with av.open(medium.path) as container:
                assert (len(container.streams.video), len(container.streams.audio)) == (1, 1)
            assert abs(sound_is_late_ms(medium.path) - medium.start_ms) < 3
            assert abs(picture_is_late_ms(medium.path) - medium.start_ms) < 100
        assert failure(fetched, clip(start_ms=60_000, end_ms=61_000)).code == "media.out_of_range"
        info["duration"] = 2 * SECONDS  # more was promised than comes
        assert failure(fetched, clip(start_ms=38_000, end_ms=48_000)).code == "transient.network"


def remux(content: bytes, folder: Path, *kinds: str, ending: str = "mp4", later_s: float = 0) -> bytes:
    """Return a file's sound or picture alone, or both in another container whose clock begins `later_s`."""
    options = {"output_ts_offset": str(later_s)}
    (folder / "in.mp4").write_bytes(content)
    with av.open(folder / "in.mp4") as given, av.open(folder / f"out.{ending}", "w", options=options) as out:
        copies = {s.index: out.add_stream_from_template(s) for s in given.streams if s.type in kinds}
        for packet in given.demux([given.streams[index] for index in copies]):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    return (folder / f"out.{ending}").read_bytes()


def test_a_section_of_a_medium_whose_clock_begins_later(tmp_path: Path, web: Web) -> None:
    """As transport streams do."""
    film = remux(web.files["ID.mp4"], tmp_path, "video", "audio", ending="ts", later_s=1.4)
    with av.open(io.BytesIO(film)) as f:
        assert f.start_time is not None and f.start_time > 1_000_000
    web.files["film.ts"] = film
    fetched = source(tmp_path, web, url=web.url("{id}.ts"), sections=True, pad_s=2)
    with fetched.open(clip("film")) as medium:
        assert abs(sound_is_late_ms(medium.path) - medium.start_ms) < 50
        assert abs(picture_is_late_ms(medium.path) - medium.start_ms) < 100


@pytest.mark.parametrize("sections", [False, True])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "source.unavailable"), (403, "source.forbidden"), (410, "source.gone"), (429, "throttle.http_429"),
        (500, "transient.http_5xx"),
    ],
)  # fmt: skip
def test_statuses_are_told_apart(tmp_path: Path, web: Web, status: int, code: str, sections: bool) -> None:
    web.status["ID.mp4"] = [status]
    error = failure(source(tmp_path, web, sections=sections))
    assert error.code == code
    assert str(error).startswith(f"{web.base}/ID.mp4: ")


@pytest.mark.parametrize(
    ("status", "code"), [(403, "source.forbidden"), (429, "throttle.http_429"), (404, "source.unavailable")]
)
@pytest.mark.parametrize("sections", [False, True])
def test_a_refusal_of_the_media_behind_the_page_is_told_too(
    tmp_path: Path, web: Web, status: int, code: str, sections: bool
) -> None:
    """Which with sections only ffmpeg hears, and yt-dlp passes on as "ffmpeg exited with code 8"."""
    web.status["ID.mp4"] = [200, status]
    assert failure(source(tmp_path, web, sections=sections)).code == code


def test_another_try_may_succeed(tmp_path: Path, web: Web, film: bytes) -> None:
    web.status["ID.mp4"] = [500, 200]
    fetched = source(tmp_path, web)
    assert failure(fetched).code == "transient.http_5xx"
    with fetched.open(clip()) as medium:
        assert medium.path.read_bytes() == film


def test_a_server_that_fails_once_in_a_download_is_asked_again(tmp_path: Path, web: Web, film: bytes) -> None:
    web.status["ID.mp4"] = [200, 503, 200]
    with source(tmp_path, web).open(clip()) as medium:
        assert medium.path.read_bytes() == film


def test_a_body_that_breaks_off_is_continued(tmp_path: Path, web: Web, film: bytes) -> None:
    web.cut_at["ID.mp4"] = len(film) // 3
    with source(tmp_path, web).open(clip()) as medium:
        assert medium.path.read_bytes() == film


@pytest.mark.parametrize("sections", [False, True])
def test_a_body_that_always_breaks_off_is_no_medium(tmp_path: Path, web: Web, film: bytes, sections: bool) -> None:
    web.cut_at["ID.mp4"] = len(film) // 10
    assert failure(source(tmp_path, web, sections=sections)).code == "transient.network"


@pytest.mark.parametrize("answers", [0, 1])
@pytest.mark.parametrize("sections", [False, True])
def test_a_silent_server_is_given_up(tmp_path: Path, web: Web, sections: bool, answers: int) -> None:
    web.silent["ID.mp4"] = answers
    assert failure(source(tmp_path, web, timeout_s=0.2, sections=sections)).code == "transient.network"


def test_a_slow_server_is_given_up_in_the_end(tmp_path: Path, web: Web) -> None:
    web.slow["ID.mp4"] = 0.05
    error = failure(source(tmp_path, web, deadline_s=0.5))
    assert (error.code, "not here after 0.5 s" in str(error)) == ("transient.network", True)


def test_a_large_medium_is_refused(tmp_path: Path, web: Web) -> None:
    assert failure(source(tmp_path, web, max_bytes=1000)).code == "policy.too_large"


def test_nobody_there_may_pass(tmp_path: Path, web: Web) -> None:
    for url in ("http://127.0.0.1:1/{id}.mp4", "http://no-such-host.invalid/{id}"):
        assert failure(source(tmp_path, web, url=url)).code == "transient.network"


@pytest.mark.parametrize("words", [b"nothing here", b"Private video. Sign in if you have been granted access"])
def test_a_page_without_media_is_not_supported(tmp_path: Path, web: Web, words: bytes) -> None:
    """What a strange page says in its text is not believed."""
    web.files["page.html"] = PAGE % (words, words)
    assert failure(source(tmp_path, web, url=f"{web.base}/{{id}}.html"), clip("page")).code == "source.unsupported"


def test_a_page_with_one_medium_is_read(tmp_path: Path, web: Web, film: bytes) -> None:
    web.files["page.html"] = PAGE % (b"film", b'<video src="/ID.mp4"></video>')
    with source(tmp_path, web).open(clip(source=web.url("page.html?key=SECRET"))) as medium:
        assert medium.path.read_bytes() == film


def test_a_page_with_several_media_is_no_medium(tmp_path: Path, web: Web) -> None:
    web.files |= {"other.mp4": web.files["ID.mp4"]}
    web.files["page.html"] = PAGE % (b"films", b'<video src="/ID.mp4"></video><video src="/other.mp4"></video>')
    error = failure(source(tmp_path, web), clip(source=web.url("page.html?key=SECRET")))
    assert error.code == "source.unsupported"
    assert "SECRET" not in str(error)


def test_redirects_end(tmp_path: Path, web: Web) -> None:
    web.status |= {"ID.mp4": [302], "out.mp4": [302]}
    web.headers |= {"ID.mp4": {"Location": "/ID.mp4"}, "out.mp4": {"Location": "file:///etc/passwd"}}
    assert failure(source(tmp_path, web)).code == "source.unavailable"
    assert failure(source(tmp_path, web), clip("out")).kind in ("source", "policy")


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ytsearch:cats", "/etc/passwd", "a.mp4", "http://a b", "ftp://host/a", "https://"]
)
def test_a_list_may_only_name_web_pages(tmp_path: Path, web: Web, address: str) -> None:
    assert failure(source(tmp_path, web), clip(source=address)).code == "policy.address"


def test_cookies_are_sent_and_the_file_is_left_alone(tmp_path: Path, web: Web) -> None:
    cookies = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tabc\n"
    cookies.write_text(text)
    web.headers["ID.mp4"] = {"Set-Cookie": "renewed=yes; Path=/"}
    fetched = source(tmp_path, web, cookies=cookies)
    for _ in range(2):
        with fetched.open(clip()):
            pass
    assert cookies.read_text() == text
    assert "session=abc" in web.cookies[0] and "renewed" not in web.cookies[0]
    assert "session=abc" in web.cookies[-1] and "renewed=yes" in web.cookies[-1]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"{}"])
def test_cookies_that_cannot_be_read_are_refused_at_once(tmp_path: Path, web: Web, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "cookies.txt").write_bytes(content)
    with pytest.raises(PlanError, match=r"cookies.txt: not a readable Netscape cookie file"):
        source(tmp_path, web, cookies=tmp_path / "cookies.txt")


def test_nothing_is_printed(tmp_path: Path, web: Web, capfd: pytest.CaptureFixture[str]) -> None:
    for sections in (True, False):
        fetched = source(tmp_path, web, sections=sections)
        with fetched.open(clip()):
            pass
        failure(fetched, clip("gone"))
    assert capfd.readouterr() == ("", "")


def test_neither_plugins_nor_settings_of_the_user_are_run(tmp_path: Path, web: Web) -> None:
    plugin = tmp_path / "path" / "yt_dlp_plugins" / "extractor" / "evil.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("print('evil')")
    settings = tmp_path / "home" / "yt-dlp" / "config"
    settings.parent.mkdir(parents=True)
    settings.write_text("--exec 'echo evil'\n--write-info-json\n")
    code = (
        "from pathlib import Path; from unibrivl.ingest.clips import Clip; from unibrivl.ingest.sources import *\n"
        f"s = make_source(YouTubeConfig(url={web.base!r} + '/{{id}}.mp4', spool=Path({str(tmp_path)!r}), sleep_s=0))\n"
        "with s.open(Clip(corpus='as', media_id='ID', start_ms=0, end_ms=1000)) as m: print(m.path.exists())\n"
        "print(len(list(m.path.parent.parent.rglob('*'))))"
    )
    path = os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, "XDG_CONFIG_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0"], done.stdout + done.stderr
    assert done.stderr == ""


def test_a_missing_package_is_named_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['yt_dlp'] = None\n"
        "from unibrivl.ingest.sources import *\n"
        "try: make_source(YouTubeConfig())\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("PlanError YouTube needs yt-dlp (")
    assert "pip install 'unibrivl[youtube]'" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "file:///{id}"}, "url is 'file:///{id}', want http"), ({"url": "https://host/"}, "with {id} in it"),
        ({"url": "https://host/{id}{x}"}, "want http"), ({"pad_s": -1}, "pad_s is -1"),
        ({"max_height": 0}, "max_height is 0"), ({"sleep_s": -0.1}, "sleep_s is -0.1"),
        ({"timeout_s": 0}, "timeout_s is 0"), ({"max_bytes": 0}, "max_bytes is 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        YouTubeConfig(**options)
    assert words in str(caught.value)


HINT = (
    " Use --cookies-from-browser or --cookies for the authentication. See  "
    "https://github.com/yt-dlp/yt-dlp/wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies."
)
SAID = {
    "Sign in to confirm you’re not a bot." + HINT: "throttle.bot_check",  # noqa: RUF001
    "Sign in to confirm you're not a bot": "throttle.bot_check",
    "All player responses are invalid. Your IP is likely being blocked by Youtube": "throttle.bot_check",
    "Video unavailable. YouTube is requiring a captcha challenge before playback": "throttle.bot_check",
    "Unable to download API page: HTTP Error 429: Too Many Requests (caused by <HTTPError 429: Too Many Requests>)": (
        "throttle.http_429"
    ),
    "Video unavailable. This content isn't available, try again later. The current session has been rate-limited by "
    "YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay between video requests to avoid "
    "exceeding the rate limit. For more information, refer to  https://github.com/yt-dlp/yt-dlp/wiki/Extractors": (
        "throttle.try_later"
    ),
    "This content isn't available, try again later. Your account has been rate-limited by YouTube": (
        "throttle.try_later"
    ),
    "The page needs to be reloaded.": "throttle.try_later",
    "Private video. Sign in if you've been granted access to this video." + HINT: "source.private",
    "This video is private": "source.private",
    "The uploader has not made this video available in your country": "source.geo",
    "Video unavailable. The uploader has not made this video available in your country": "source.geo",
    "Video unavailable. This video contains content from UMG, who has blocked it in your country on copyright "
    "grounds": "source.geo",
    "This video is not available from your location due to geo restriction": "source.geo",
    "Join this channel to get access to members-only content like this video, and other exclusive perks.": (
        "source.paid"
    ),
    "This video is available to this channel's members on level: Tier 2 (or any higher level).": "source.paid",
    "This video requires payment to watch.": "source.paid",
    "This video is only available to Music Premium members": "source.paid",
    "Sign in to confirm your age. This video may be inappropriate for some users." + HINT: "source.age",
    "This video is age-restricted and only available on YouTube": "source.age",
    "Video unavailable. This video is no longer available because the YouTube account associated with this video has "
    "been terminated.": "source.terminated",
    "Video unavailable. This video is no longer available because the uploader has closed their YouTube account.": (
        "source.terminated"
    ),
    "Video unavailable. This video contains content from SME, who has blocked it on copyright grounds": (
        "source.copyright"
    ),
    "Video unavailable. This video is no longer available due to a copyright claim by Someone": "source.copyright",
    "This video has been removed for violating YouTube's policy on hate speech.": "source.removed",
    "Video unavailable. This video has been removed by the uploader": "source.removed",
    "This video has been removed for violating YouTube's Terms of Service": "source.removed",
    "Video unavailable. This video is no longer available due to a privacy claim by a third party": "source.removed",
    "This live event will begin in 2 hours.": "source.live",
    "Premieres in 3 days": "source.live",
    "This live stream recording is not available.": "source.live",
    "We're processing this video. Check back later.": "source.live",
    "The channel is not currently live": "source.live",
    "Please sign in." + HINT: "source.login",
    "This video is only available for registered users." + HINT: "source.login",
    "This video is DRM protected": "source.drm",
    "Requested format is not available. Use --list-formats for a list of available formats": "source.no_format",
    "No video formats found!": "source.no_format",
    "Unsupported URL: https://host/private-video-drm-copyright": "source.unsupported",
    "Video unavailable": "source.unavailable",
    "Video unavailable. This video is not available": "source.unavailable",
    "Video unavailable. Playback on other websites has been disabled by the video owner": "source.unavailable",
    "YouTube said: The playlist does not exist.": "source.unavailable",
    "Unable to download webpage: HTTP Error 404: Not Found (caused by <HTTPError 404: Not Found>)": (
        "source.unavailable"
    ),
    "unable to download video data: HTTP Error 403: Forbidden": "source.forbidden",
    "Unable to download API page: HTTP Error 503: Service Unavailable": "transient.http_5xx",
    "Unable to download webpage: The read operation timed out (caused by TransportError('timed out'))": (
        "transient.network"
    ),
    "Unable to download webpage: [Errno -3] Temporary failure in name resolution": "transient.network",
    "Unable to download webpage: <urllib3.connection.HTTPSConnection object>: Failed to resolve 'www.youtube.com'": (
        "transient.network"
    ),
    "Downloaded 512 bytes, expected 1024 bytes": "transient.network",
    "[Errno 104] Connection reset by peer": "transient.network",
    "Incomplete data received": "transient.network",
    "Failed to extract any player response": "transient.network",
    "ffmpeg exited with code 8": "transient.network",
    "Something that nobody has said before": "source.unknown",
}
"""What yt-dlp says of a medium, its own words and those of YouTube that it passes on, and what that is here."""


@pytest.mark.parametrize("message", SAID, ids=lambda message: message[:40])
def test_the_words_of_sites_are_understood(message: str) -> None:
    from yt_dlp.utils import DownloadError, ExtractorError

    cause = ExtractorError(message, expected=True, video_id="drm_-private", ie="youtube")
    for error in (cause, DownloadError(f"\x1b[0;31mERROR:\x1b[0m {cause}", (type(cause), cause, None))):
        explained = explain(error, "https://www.youtube.com/watch?v=drm_-private", [])
        assert isinstance(explained, ClipError)
        assert explained.code == SAID[message], explained
        assert str(explained).startswith("https://www.youtube.com/watch?v=drm_-private: ")
        assert "--cookies" not in str(explained) and "\x1b" not in str(explained)


def test_a_bug_report_is_not_part_of_the_reason() -> None:
    from yt_dlp.utils import ExtractorError

    explained = explain(ExtractorError("Cannot parse data", video_id="x", ie="youtube"), "u", [])
    assert str(explained) == "u: Cannot parse data"


def test_the_words_are_those_of_this_yt_dlp() -> None:
    """Where yt-dlp itself says them, a new version that says them otherwise shows here."""
    import yt_dlp.extractor.youtube as package

    code = "".join(path.read_text(encoding="utf-8") for path in Path(package.__path__[0]).glob("_*.py"))
    for words in (
        "Your IP is likely being blocked by Youtube", "YouTube is requiring a captcha challenge before playback",
        "This content isn't available, try again later", "has been rate-limited by YouTube",
        "The uploader has not made this video available in your country", "Failed to extract any player response",
    ):  # fmt: skip
        assert words in code


def test_warnings_tell_of_a_throttle_that_the_error_hides() -> None:
    """With every client refused, yt-dlp's error is only that there was no answer."""
    from yt_dlp.utils import ExtractorError

    warnings = [plain("[youtube] ID: Unable to download API page: HTTP Error 429: Too Many Requests"), "other"]
    error = ExtractorError("Failed to extract any player response", ie="youtube")
    assert explain(error, "u", []).code == "transient.network"  # type: ignore[attr-defined]
    assert explain(error, "u", warnings).code == "throttle.http_429"  # type: ignore[attr-defined]
    error = ExtractorError("Private video. Sign in", ie="youtube")
    assert explain(error, "u", warnings).code == "source.private"  # type: ignore[attr-defined]


def test_a_full_disk_is_no_fault_of_the_medium() -> None:
    from yt_dlp.utils import DownloadError

    full = OSError(errno.ENOSPC, "No space left on device")
    assert explain(DownloadError("unable to write data", (OSError, full, None)), "u", []) is full
