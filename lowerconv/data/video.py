"""Frames of video files, which the package av (FFmpeg's libraries) decodes."""

from __future__ import annotations

import os
import time
from functools import partial

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.data.dataset import DataError
from lowerconv.data.frames import Decoded, Frame, Jobs, Taker


@not_copied("make another from its arguments")
class VideoFrames:
    """The frames of the first video stream of a file, turned as players show them.

    Parameters
    ----------
    path : path

    Raises
    ------
    ImportError
        The package av is not installed, or too old.
    DataError
        The file is no video.
    """

    in_turn = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import av

            av.VideoFrame.rotation  # noqa: B018  (earlier versions do not tell it)
        except (ImportError, AttributeError):
            raise ImportError(
                "video files need the package av, a recent one: pip install 'lowerconv[video]'"
            ) from None
        self._error = av.error.FFmpegError
        self._path, self._frames, self._over = path, 0, False
        try:
            self._container = av.open(os.fspath(path))
        except self._error as error:
            raise self._damaged(error) from None
        if not self._container.streams.video:
            self._container.close()
            raise DataError.at(path, "file", "no video stream", "a video")
        self._container.streams.video[0].thread_type = "AUTO"
        self._decoding = self._container.decode(video=0)

    def jobs(self, taker: Taker) -> Jobs:
        """Yield what decodes the frames, one by one, as long as there may be another."""
        while not self._over:
            yield partial(self._next, taker)

    def _next(self, taker: Taker) -> Decoded:
        if self._over:
            return None
        came = time.perf_counter()
        try:
            frame = next(self._decoding, None)
            decoded = None if frame is None else frame.to_ndarray(format="rgb24")
        except self._error as error:
            self._over = True
            return self._damaged(error)
        if frame is None or decoded is None:
            self._over = True
            return None
        # Degrees against the clock, which np.rot90 turns by, too.
        pixels = taker.take(np.rot90(decoded, round(frame.rotation / 90)))
        self._frames += 1
        return Frame(str(self._frames - 1), pixels, came)

    def _damaged(self, error: Exception) -> DataError:
        return DataError.at(self._path, f"frame {self._frames}", str(error), "a readable video")

    def stop(self) -> None:
        """Have jobs that are not begun end without a frame."""
        self._over = True

    def close(self) -> None:
        """Close the file, and end the threads that decode it."""
        self._container.close()
