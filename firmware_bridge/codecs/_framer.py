"""Frames of one size out of a byte stream that begins in step, and may lose or garble bytes on its way.

Knows no protocol: how a frame is read, which other messages lie between frames, and which frame can follow which are
told to it. Holds back at most one frame and the two messages behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Frame = TypeVar("Frame")

BETWEEN = 2
"""Other messages that may lie between two frames of which one is to confirm the other: an answer and its status."""


class FrameError(ValueError):
    """Bytes that are no frame; carries the offset within them."""

    def __init__(self, offset: int, reason: str) -> None:
        self.offset = offset
        self.reason = reason
        super().__init__(reason)


class Framer(Generic[Frame]):
    """Bytes in, frames out.

    A frame that follows the one before it is believed. One that does not, after a hole or after bytes that were none,
    is believed once the frame behind it follows it; else its first byte is passed over and the search goes on.
    """

    def __init__(
        self,
        size: int,
        read: Callable[[bytes], Frame],
        follows: Callable[[Frame, Frame], bool],
        other: Callable[[bytes], int | None],
    ) -> None:
        self._size = size
        self._read = read
        """The bytes of one frame to it; raises FrameError."""
        self._follows = follows
        """Whether (frame, frame behind it) is the usual course of things."""
        self._other = other
        """Size of the message these bytes begin with, 0 where it is no other message, None where more are needed."""
        self._pending = b""
        self._last: Frame | None = None
        self._lost = False

    @property
    def held(self) -> int:
        """Bytes kept for the next push."""
        return len(self._pending)

    def push(self, data: bytes) -> tuple[list[Frame], tuple[bytes, FrameError] | None]:
        """Frames now certain; and, where bytes had to be passed over, the first of them within the bytes at hand."""
        buffer, at = self._pending + data, 0
        frames: list[Frame] = []
        fault: FrameError | None = None
        while at < len(buffer):
            try:
                size, frame = self._next(buffer[at:])
            except FrameError as error:
                fault = fault or FrameError(at + error.offset, error.reason)
                self._lost = True
                at += 1
                continue
            if not size:
                break
            if frame is not None:
                frames.append(frame)
            at += size
        self._pending = buffer[at:]
        return frames, None if fault is None else (buffer, fault)

    def _next(self, rest: bytes) -> tuple[int, Frame | None]:
        """(size, frame) at the head, frame None for another message, size 0 where more bytes are needed."""
        if not self._lost:
            size = self._other(rest)
            if size != 0:
                return size or 0, None
        if len(rest) < self._size:
            return 0, None
        frame = self._read(rest[: self._size])
        believed = not self._lost and (self._last is None or self._follows(self._last, frame))
        if not believed and not self._confirmed(frame, rest[self._size :]):
            return 0, None
        self._last, self._lost = frame, False
        return self._size, frame

    def _confirmed(self, frame: Frame, behind: bytes) -> bool:
        """Whether the frame behind follows; False where it has not come yet. Raises FrameError where it does not."""
        for _ in range(BETWEEN):
            size = self._other(behind)
            if size is None:
                return False
            behind = behind[size:]
        if len(behind) < self._size:
            return False
        try:
            following = self._read(behind[: self._size])
        except FrameError:
            raise FrameError(0, "out of step: no frame behind it") from None
        if not self._follows(frame, following):
            raise FrameError(0, "out of step: the frame behind it does not follow")
        return True
