"""The size of a JPEG and how its rows are stored, read from its header: some microseconds, against a millisecond."""

from __future__ import annotations

from dataclasses import dataclass

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)  # Huffman-coded, baseline and extended
_RESTART_INTERVAL, _START_OF_SCAN, _END_OF_IMAGE = 0xDD, 0xDA, b"\xff\xd9"
_FILL = 0xFF
_MULTI_PICTURE, _MULTI_PICTURE_NAME = 0xE2, b"MPF\0"
_PADDING = 64


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What decoding a part of the image needs.

    Attributes:
        height, width: in pixels, as stored (an EXIF orientation turns nothing here), at least 1.
        height_offset: position of the two bytes that hold the height.
        band_height: rows that are coded together, 8 to 32; the image is a stack of such bands.
        scan_offset: position of the first scan.
        top_down: the bands follow each other in one scan from top to bottom without restart markers, so that what
            stands above a row can be decoded without what follows it. Progressive files are not so, nor files with
            several pictures.
    """

    height: int
    width: int
    height_offset: int
    band_height: int
    scan_offset: int
    top_down: bool

    def end_of_scan(self, data: bytes) -> int:
        """Position of the end marker, or -1 where the file does not end with it (but for a little padding).

        It is looked for from behind: looking through the scan takes as long as decoding a tenth of it.
        """
        return data.rfind(_END_OF_IMAGE, max(self.scan_offset, len(data) - _PADDING))


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a colour (three components) or grey JPEG of 8 bits; None for any other file, damaged ones included.

    Source: ITU-T T.81, annex B.
    """
    if data[:2] != b"\xff\xd8":
        return None
    frame: tuple[int, ...] | None = None
    restarts = several_pictures = False
    position = 2
    try:
        while True:
            if data[position] != _FILL:
                return None
            marker = data[position + 1]
            if marker == _FILL:  # any number of them may stand before a marker
                position += 1
                continue
            length = data[position + 2] << 8 | data[position + 3]
            if marker in _START_OF_FRAME:
                if frame is not None:
                    return None
                frame, frame_position = _read_frame(data, position), position
                if frame is None:
                    return None
            elif marker == _RESTART_INTERVAL:
                restarts |= data[position + 4 : position + 6] != b"\0\0"
            elif marker == _MULTI_PICTURE:
                several_pictures |= data[position + 4 : position + 8] == _MULTI_PICTURE_NAME
            elif marker == _START_OF_SCAN:
                if frame is None:
                    return None
                kind, height, width, components, sampling = frame
                in_one_scan = data[position + 4] == components
                return JpegHeader(
                    height=height,
                    width=width,
                    height_offset=frame_position + 5,
                    band_height=8 * sampling,
                    scan_offset=position,
                    top_down=kind in _SEQUENTIAL and in_one_scan and not restarts and not several_pictures,
                )
            if length < 2:
                return None
            position += 2 + length
    except IndexError:
        return None


def _read_frame(data: bytes, position: int) -> tuple[int, int, int, int, int] | None:
    """(marker, height, width, components, largest vertical sampling factor); None for what is left to others."""
    marker, precision = data[position + 1], data[position + 4]
    height = data[position + 5] << 8 | data[position + 6]  # 0: stated only after the scan
    width = data[position + 7] << 8 | data[position + 8]
    components = data[position + 9]
    if precision != 8 or not height or not width or components not in (1, 3):
        return None
    sampling = max(data[position + 11 + 3 * each] & 15 for each in range(components))
    return (marker, height, width, components, sampling) if 1 <= sampling <= 4 else None
