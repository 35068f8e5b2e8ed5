"""What several commands of ingestion share: options (where media come from, how patiently and by how many they are
decoded) and the text of their progress bars.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

MediaDir = Annotated[Path | None, typer.Option(help="Folder with the media files, named by id, id_start, or the list.")]
MediaHolds = Annotated[str, typer.Option(help="What a file named by id alone is: media (whole) or clips (the clip).")]
MediaUrl = Annotated[
    str | None, typer.Option(help="Address of a medium, such as s3://bucket/{id}.mp4; '' takes the list's own.")
]
YouTube = Annotated[bool, typer.Option("--youtube", help="Fetch from YouTube (extra `youtube`).")]
Cookies = Annotated[Path | None, typer.Option(help="YouTube: cookies file in Netscape's format.")]
Ffmpeg = Annotated[Path | None, typer.Option(help="The ffmpeg to use. [default: that on PATH, else a bundled one]")]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes; with --engine ray shards at one time. [default: one a core]")
]
ClipTimeout = Annotated[float, typer.Option(help="Seconds that decoding a clip may take.")]
FetchTimeout = Annotated[float, typer.Option(help="Seconds that fetching a clip's medium may take.")]
MaxWait = Annotated[float, typer.Option(help="Seconds to wait, in all, for a source that refuses.")]


def engine_of(
    media_dir: Path | None,
    media_holds: Any,
    media_url: str | None,
    youtube: bool,
    cookies: Path | None,
    workers: int | None,
    clip_timeout_s: float,
    fetch_timeout_s: float,
    max_wait_s: float,
    engine: str = "local",
    address: str | None = None,
) -> Any:
    """Build what ingest, repair and retry have in common."""
    from ..shards.checks import check_file
    from ..shards.cluster import cluster_of
    from .engine import EngineConfig
    from .errors import PlanError
    from .patience import PatienceConfig
    from .sources import FolderConfig, RemoteConfig, YouTubeConfig

    if (media_dir is not None) + (media_url is not None) + youtube > 1:
        raise ValueError("--media-dir, --media-url and --youtube exclude each other")
    source = None
    if media_dir is not None:
        source = FolderConfig(root=media_dir, holds=media_holds)
    elif media_url is not None:
        source = RemoteConfig(prefix=media_url)
    elif youtube:
        if cookies is not None:
            check_file(cookies, PlanError)
        source = YouTubeConfig(cookies=cookies)
    return EngineConfig(
        source=source, workers=workers, cluster=cluster_of(engine, address), clip_timeout_s=clip_timeout_s,
        fetch_timeout_s=fetch_timeout_s, patience=PatienceConfig(max_wait_s=max_wait_s),
    )  # fmt: skip


def count_clips(step: Callable[[int, int, str], None], total: int) -> Callable[[str, int], None]:
    """Turn ingestion's progress into a bar with clips/s and errors by reason."""
    started, counts = time.monotonic(), Counter[str]()

    def count(code: str, number: int) -> None:
        counts[code] += number
        done = sum(counts.values())
        errors = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if name)
        step(done, total, f"{done / max(0.1, time.monotonic() - started):.1f} clips/s  {errors}")

    return count
