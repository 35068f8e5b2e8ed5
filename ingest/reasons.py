"""What the error codes and quality flags mean, in words for the person who reads a report."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """An error code explained."""

    code: str
    kind: str
    """Class of the code, one of `ADVICE`; `other` for one that is not known here."""
    meaning: str
    """What happened, as a sentence."""
    advice: str
    """Whether and when another try helps, as a sentence."""


ADVICE = {
    "source": "Another try now would end the same way; retry in some months, since videos come and go.",
    "throttle": "The run waits and asks again by itself; if clips are left, retry later or more slowly.",
    "transient": "Tried several times already; a retry has good chances.",
    "local": "Mend the media folder, then retry.",
    "media": "The file itself is at fault: retry only after fetching it again.",
    "quality": "Left out by --drop; ingest without it to have these clips.",
    "policy": "Left out by a rule of the run; under the same rules a retry changes nothing.",
    "system": "Retry with more time or memory, or on another machine.",
    "internal": "A fault of the program: please report it.",
    "other": "See the examples; whether a retry helps depends on the cause.",
}
"""Class of an error code to what can be done."""

MEANINGS = {
    "source.unavailable": "The source does not have the medium, or no longer.",
    "source.gone": "The server says that the file is gone for good.",
    "source.removed": "The video was removed.",
    "source.terminated": "The account that showed the video is closed.",
    "source.copyright": "The video is blocked for a claim of copyright.",
    "source.private": "The owner made the video private.",
    "source.geo": "The video is blocked in this country.",
    "source.login": "The video is shown only to people who sign in.",
    "source.age": "The video is shown only to adults who sign in.",
    "source.paid": "The video is shown only to those who pay.",
    "source.drm": "The video is protected against copying.",
    "source.live": "It is a broadcast that is not over, or not begun.",
    "source.no_format": "The video is not offered in a form that can be used.",
    "source.unsupported": "The address is of no kind that can be fetched.",
    "source.forbidden": "The server refuses the file.",
    "source.no_address": "The list has no address for the clip.",
    "source.unknown": "The source refused in words that are not known.",
    "throttle.http_429": "The server says that it was asked too often.",
    "throttle.bot_check": "The site wants proof that a person is asking.",
    "throttle.try_later": "The site says to try again later.",
    "transient.network": "The connection failed, broke, or took too long.",
    "transient.http_5xx": "The server had a fault of its own.",
    "local.missing_file": "The media folder has no file for the clip.",
    "local.outside": "A link leads out of the media folder.",
    "local.unreadable": "The file cannot be read.",
    "local.empty_file": "The file is empty.",
    "local.changed_file": "The medium is another file than the one that the clip was made of.",
    "media.not_media": "The file is no sound or video file, or is cut before its table of contents.",
    "media.unknown_codec": "The file is coded in a way that the decoder does not know.",
    "media.no_audio": "The file has no sound.",
    "media.no_video": "The file has no picture.",
    "media.no_frame": "No picture could be decoded in the clip's time.",
    "media.out_of_range": "The clip lies beyond the end of the file.",
    "media.truncated": "More of the clip's sound is missing than --max-pad-ms allows.",
    "media.decode_errors": "The stream is damaged.",
    "policy.address": "Addresses of that kind are not fetched.",
    "policy.too_large": "The medium is larger than is allowed.",
    "system.timeout": "The clip took longer than its time limit.",
    "system.worker_killed": "Two workers died at the clip.",
    "system.oom": "The clip took more memory than a worker may have.",
}
"""Error code to what happened; `quality.FLAG` is explained by its flag."""

FLAG_MEANINGS = {
    "silent": "hardly any sound",
    "clipped": "a sound that is cut off at full scale",
    "black_frame": "a black picture",
    "flat_frame": "a picture of one colour",
}
"""Quality flag to what the clip has."""


def explain(code: str) -> Reason:
    """Return meaning and advice of an error code; of one unknown here, what its class tells."""
    kind = code.partition(".")[0]
    kind = kind if kind in ADVICE else "other"
    meaning = MEANINGS.get(code, "Named by its code alone; the examples say more.")
    if kind == "quality" and (flag := FLAG_MEANINGS.get(code.partition(".")[2])):
        meaning = f"The clip has {flag}."
    return Reason(code=code, kind=kind, meaning=meaning, advice=ADVICE[kind])
