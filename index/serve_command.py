"""The command `unibrivl serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import UnibrivlError
from ..shards.console import Json, print_json, usage
from .query_command import Milvus

if TYPE_CHECKING:
    from .serve_config import ServeConfig


def serve(
    index: Annotated[Path, typer.Argument(help="Index to serve.")],
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's own need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port; 0 takes one that is free.")] = 8757,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that every request must carry, 16 characters or more.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name by which people reach this server, such as search.example; repeat.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, if it was moved.")] = None,
    image_tower: Annotated[
        str | None, typer.Option(help="Its name where its weights lie now, such as brivl-b5:DIR.")
    ] = (None),
    accept_other_encoder: Annotated[
        bool, typer.Option("--accept-other-encoder", help="Serve with a model that did not build it; answers say so.")
    ] = False,
    milvus: Milvus = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch and FAISS together. [default: one a core]")
    ] = None,
    decoders: Annotated[int, typer.Option(help="Processes that decode uploads.")] = 2,
    max_body_mb: Annotated[float, typer.Option(help="Largest request, in MB.")] = 20.0,
    max_seconds: Annotated[float, typer.Option(help="Longest sound, in seconds.")] = 120.0,
    max_k: Annotated[int, typer.Option(help="Most answers a list.")] = 200,
    max_waiting: Annotated[int, typer.Option(help="Questions at work or waiting; more are told to come again.")] = 64,
    deadline: Annotated[float, typer.Option(help="Seconds for a question, from its first byte.")] = 15.0,
    as_json: Json = False,
) -> None:
    """Serve an index: a page to search with for people, HTTP for programs.

    Example: unibrivl serve try/index --port 8757
    """
    from .decoder import DecodeConfig
    from .guard import LOOPBACK, GuardConfig
    from .serve_config import ServeConfig

    with usage():
        hosts = tuple(dict.fromkeys((*LOOPBACK, host, *(allow_host or ()))))
        guard = GuardConfig(
            hosts=hosts, token=_token(token_file), max_body_bytes=round(1e6 * max_body_mb), max_waiting=max_waiting,
            deadline_s=deadline,
        )  # fmt: skip
        config = ServeConfig(
            index=index, run=run, image_tower=image_tower, accept_other_encoder=accept_other_encoder, milvus=milvus,
            host=host, port=port, threads=threads, max_k=max_k, guard=guard,
            decode=DecodeConfig(children=decoders, max_seconds=max_seconds, timeout_s=min(10.0, deadline)),
        )  # fmt: skip
    _run(config, as_json)


def _run(config: "ServeConfig", as_json: bool) -> None:
    from .serve_config import listen, url_of

    try:
        from .serve import open_server, run_server
    except ImportError as e:
        raise UnibrivlError(f"{e.name} is not installed: run pip install 'unibrivl[serve]'") from e
    with listen(config) as listener:
        server = open_server(config)
        told = {"url": url_of(listener), "index": str(config.index), "snapshot": server.live.engine.snapshot.id}
        if as_json:
            print_json(told)
        else:
            typer.echo(f"{told['url']} searches {told['index']}, snapshot {told['snapshot']}; Ctrl-C ends it")
        run_server(server, listener)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UnibrivlError(f"{path}: holds no token ({getattr(e, 'strerror', None) or 'not text'})") from e
